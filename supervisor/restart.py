"""How often, how soon and for how long something is started again. Pure: time and chance are passed in."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from shiftboss.supervisor.spec import SupervisorSettings

MAX_BOOT_FAILURES: Final = 3
_JITTER: Final = 0.2
_MAX_DOUBLINGS: Final = 32  # beyond it a float is only wasted


class RestartBudget(msgspec.Struct, frozen=True):
    """More than `intensity` restarts inside `period_s` means give up (OTP semantics)."""

    intensity: int
    period_s: float
    restarts: tuple[float, ...] = ()

    def record(self, now_s: float) -> RestartBudget:
        """One more restart; those older than the period are forgotten."""
        recent = tuple(t for t in self.restarts if t >= now_s - self.period_s)
        return replace(self, restarts=(*recent, now_s))

    @property
    def exhausted(self) -> bool:
        return len(self.restarts) > self.intensity


class GroupHistory(msgspec.Struct, frozen=True):
    """What a group of children has been through.

    Attributes:
        boot_failures: ends before Ready, in a row over the whole group.
        ever_ready: one of the group has been ready at some time, so its code can boot.
    """

    budget: RestartBudget
    boot_failures: int = 0
    ever_ready: bool = False

    def record_ready(self) -> GroupHistory:
        return replace(self, boot_failures=0, ever_ready=True)

    def record_restart(self, now_s: float) -> GroupHistory:
        return replace(self, budget=self.budget.record(now_s))

    def record_boot_failure(self) -> GroupHistory:
        return replace(self, boot_failures=self.boot_failures + 1)

    @property
    def cannot_boot(self) -> bool:
        return not self.ever_ready and self.boot_failures >= MAX_BOOT_FAILURES


def restart_delay_s(streak: int, was_ready: bool, settings: SupervisorSettings, chance: float) -> float:
    """Seconds to wait before a child is started again.

    Args:
        streak: its ends in a row before this one.
        was_ready: it had said Ready. The first restart of such a child is immediate: most crashes are accidents.
        chance: in [0, 1), spreads the delay by ±20 %, so that many services do not return in step.
    """
    doublings = streak - 1 if was_ready else streak
    if doublings < 0:
        return 0.0
    delay_s = settings.restart_backoff_s * 2.0 ** min(doublings, _MAX_DOUBLINGS)
    return min(delay_s * (1 - _JITTER + 2 * _JITTER * chance), settings.restart_backoff_max_s)
