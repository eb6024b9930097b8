"""OTP in miniature: child specs, restart budgets, links between children, a bounded stop. Knows no tasks and no database."""

from shiftboss.supervisor.spec import ChildSpec, Restart, SupervisorSettings
from shiftboss.supervisor.supervisor import Supervisor

__all__ = ["ChildSpec", "Restart", "Supervisor", "SupervisorSettings"]
