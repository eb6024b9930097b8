"""OTP in miniature: child specs, restart budgets, links between children, a bounded stop. Knows no tasks and no database."""

from shiftboss.supervisor.reloading import Reloadable
from shiftboss.supervisor.spec import Blueprint, ChildSpec, Restart, SupervisorSettings
from shiftboss.supervisor.supervisor import Supervisor

__all__ = ["Blueprint", "ChildSpec", "Reloadable", "Restart", "Supervisor", "SupervisorSettings"]
