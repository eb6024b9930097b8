"""How a claimer's stop goes on: pure, on the monotonic clock.

Drain until a deadline, then a cooperative cancel, then hand back what is left, then end, whatever the database does.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import msgspec
from msgspec.structs import replace

HELLO_S: Final = 2.0  # how long executors are waited for that have not said what they hold
LAST_TRY_S: Final = 1.0  # past the deadline, for a database that is slow


class StopStep(Enum):
    """What to do now."""

    WAIT = auto()
    CANCEL = auto()  # ask what runs to stop
    HAND_BACK = auto()  # store what runs as interrupted
    END = auto()


class StopPlan(msgspec.Struct, frozen=True):
    """The deadlines of one stop.

    Attributes:
        drain_until_s: from then on what runs is cancelled.
        gone_at_s: from then on it is handed back.
        hello_until_s: till then executors that have not spoken are waited for.
        cancelled: the cancel was asked for.
    """

    drain_until_s: float
    gone_at_s: float
    hello_until_s: float
    cancelled: bool = False

    @classmethod
    def begin(cls, now_s: float, drain_s: float, grace_s: float) -> StopPlan:
        return cls(now_s + drain_s, now_s + drain_s + grace_s, now_s + HELLO_S)

    def hurried(self, now_s: float, drain_s: float, grace_s: float) -> StopPlan:
        """After another Stop: deadlines come nearer, never farther."""
        drain_until_s = min(self.drain_until_s, now_s + drain_s)
        return replace(self, drain_until_s=drain_until_s, gone_at_s=min(self.gone_at_s, drain_until_s + grace_s))

    def step(self, now_s: float, *, held: bool, owes: bool, silent: bool) -> StopStep:
        """The next step.

        Args:
            held: executors hold tasks.
            owes: outcomes or returned tasks are not stored yet.
            silent: an executor has not said yet what it holds.
        """
        if not held and not owes and not (silent and now_s < self.hello_until_s):
            return StopStep.END
        if now_s >= self.gone_at_s and held:
            return StopStep.HAND_BACK
        if now_s >= self.gone_at_s + LAST_TRY_S:
            return StopStep.END
        if now_s >= self.drain_until_s and held and not self.cancelled:
            return StopStep.CANCEL
        return StopStep.WAIT
