"""What follows from a child's end, and how long a stop may take. Pure decisions; the supervisor carries them out."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from shiftboss.control import EXIT_GAVE_UP
from shiftboss.supervisor.restart import GroupHistory, restart_delay_s
from shiftboss.supervisor.spec import FINAL_BOOT_CODES, ChildSpec, Restart, SupervisorSettings

DRAIN_ALLOWANCE_S: Final = 2.0  # the draining child may be late by this much before it is killed
STOP_ALLOWANCE_S: Final = 5.0  # all others must be gone this long after the drain's deadline


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How one incarnation ended; `exit_code` is None when a signal ended it.

    Attributes:
        planned: we were asked to replace it; counts nowhere.
        streak: its ends in a row before this one.
    """

    exit_code: int | None
    was_ready: bool
    planned: bool = False
    streak: int = 0


class RestartAfter(msgspec.Struct, frozen=True):
    """Start it again in `delay_s`."""

    delay_s: float


class Leave(msgspec.Struct, frozen=True):
    """It has ended for good, as its spec wants."""


class StayDown(msgspec.Struct, frozen=True):
    """Too much for a child that is not critical: try again much later, the service goes on."""

    retry_s: float


class GiveUp(msgspec.Struct, frozen=True):
    """Stop the whole service and exit with `exit_code`."""

    exit_code: int
    why: str


class Pause(msgspec.Struct, frozen=True):
    """A rolling group keeps crashing: feed it nothing, and try one child from time to time."""

    restarts: int


Action: TypeAlias = RestartAfter | Leave | StayDown | Pause | GiveUp


def after_end(
    spec: ChildSpec,
    ended: Ended,
    history: GroupHistory,
    settings: SupervisorSettings,
    *,
    now_s: float,
    service_ready: bool,
    chance: float,
) -> tuple[Action, GroupHistory]:
    """What to do about an end while the service is to go on, and the group's history with it.

    Args:
        service_ready: the service as a whole has been ready at some time.
        chance: in [0, 1), for the jitter.
    """
    if ended.planned:
        return RestartAfter(0.0), history
    if not _wants_restart(spec, ended):
        return Leave(), history
    history = history.record_restart(now_s)
    if not ended.was_ready:
        history = history.record_boot_failure()
    if spec.rolling and service_ready and history.ever_ready and history.budget.exhausted:
        return Pause(len(history.budget.restarts)), history
    given_up = _reason_to_give_up(spec, ended, history, service_ready)
    if given_up is None:
        return RestartAfter(restart_delay_s(ended.streak, ended.was_ready, settings, chance)), history
    return (given_up if spec.critical else StayDown(settings.restart_period_s)), history


def _wants_restart(spec: ChildSpec, ended: Ended) -> bool:
    match spec.restart:
        case Restart.PERMANENT:
            return True
        case Restart.TRANSIENT:
            return ended.exit_code != 0
        case Restart.TEMPORARY:
            return False


def _reason_to_give_up(spec: ChildSpec, ended: Ended, history: GroupHistory, service_ready: bool) -> GiveUp | None:
    if not ended.was_ready and not service_ready and ended.exit_code in FINAL_BOOT_CODES:
        return GiveUp(
            ended.exit_code or EXIT_GAVE_UP, f"{spec.name} cannot start: exit code {ended.exit_code}, see its own last log lines"
        )
    if history.cannot_boot:
        return GiveUp(
            EXIT_GAVE_UP, f"{spec.group} ended {history.boot_failures} times before it was ready, see its own last log lines"
        )
    if history.budget.exhausted:
        count, period_s = len(history.budget.restarts), history.budget.period_s
        return GiveUp(EXIT_GAVE_UP, f"{spec.group} ended {count} times within {period_s:g} s")
    return None


class StopPlan(msgspec.Struct, frozen=True):
    """The deadlines of one stop, all on the monotonic clock and all from the moment it was asked for.

    Attributes:
        drain_end_s: running work may finish until then.
        grace_s: then it may take so long to be cancelled.
    """

    drain_end_s: float
    grace_s: float

    @property
    def drainer_end_s(self) -> float:
        """When the draining child is killed."""
        return self.drain_end_s + self.grace_s + DRAIN_ALLOWANCE_S

    @property
    def end_s(self) -> float:
        """When everything that is left is killed."""
        return self.drain_end_s + self.grace_s + STOP_ALLOWANCE_S

    def drain_left_s(self, now_s: float) -> float:
        return max(0.0, self.drain_end_s - now_s)

    def grace_left_s(self, now_s: float) -> float:
        return max(0.0, min(self.grace_s, self.drain_end_s + self.grace_s - now_s))

    def patience_s(self, spec: ChildSpec, drains: bool, now_s: float) -> float:
        """How long to wait for a child that is told Stop now, before it is killed."""
        if drains:
            return max(0.0, self.drainer_end_s - now_s)
        return max(0.0, min(spec.shutdown_s, self.end_s - now_s))

    def hurried(self, now_s: float) -> StopPlan:
        """The same stop, with the drain cut off now."""
        return StopPlan(min(self.drain_end_s, now_s), self.grace_s)


def stop_plan(settings: SupervisorSettings, now_s: float, *, drain: bool) -> StopPlan:
    """A stop that is asked for now; without `drain` work is cancelled at once."""
    return StopPlan(now_s + (settings.shutdown_timeout_s if drain else 0.0), settings.cancel_grace_s)


def finish_drain(
    ended: Ended, plan: StopPlan, settings: SupervisorSettings, *, now_s: float, chance: float
) -> RestartAfter | Leave:
    """What to do when the draining child ends during a stop: what it had left to hand back is worth another incarnation."""
    if ended.exit_code == 0 and not ended.planned:
        return Leave()
    delay_s = 0.0 if ended.planned else restart_delay_s(ended.streak, ended.was_ready, settings, chance)
    return RestartAfter(delay_s) if now_s + delay_s < plan.drainer_end_s else Leave()
