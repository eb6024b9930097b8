"""How one executor's retirement goes on: pure, on the monotonic clock.

Nothing is sent to it any more once its successors can take work; what runs may end until a deadline, then it is cancelled,
then handed back; when nothing of it is left it is released.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import msgspec
from msgspec.structs import replace

SUCCESSORS_S: Final = 1.0  # how long successors may take to say hello before the old executor gets no more work


class RetireStep(Enum):
    """What to do now."""

    WAIT = auto()
    BEGIN = auto()  # send nothing more, call back what has not started
    CANCEL = auto()  # ask what runs to stop
    HAND_BACK = auto()  # store what runs as interrupted
    RELEASE = auto()  # tell the parent that it may be stopped


class Retirement(msgspec.Struct, frozen=True):
    """The deadlines of one retirement, and how far it is.

    Attributes:
        begin_by_s: from then on it begins, whether or not successors are there.
        drain_until_s: from then on what runs is cancelled.
        gone_at_s: from then on it is handed back.
    """

    begin_by_s: float
    drain_until_s: float
    gone_at_s: float
    begun: bool = False
    cancelled: bool = False
    released: bool = False

    @classmethod
    def start(cls, now_s: float, drain_s: float, grace_s: float) -> Retirement:
        drain_until_s = now_s + drain_s
        return cls(min(now_s + SUCCESSORS_S, drain_until_s), drain_until_s, drain_until_s + grace_s)

    def hurried(self, now_s: float, drain_s: float, grace_s: float) -> Retirement:
        """Asked for again: deadlines come nearer, never farther; whoever asks again is answered again."""
        drain_until_s = min(self.drain_until_s, now_s + drain_s)
        return replace(
            self,
            begin_by_s=min(self.begin_by_s, drain_until_s),
            drain_until_s=drain_until_s,
            gone_at_s=min(self.gone_at_s, drain_until_s + grace_s),
            released=False,
        )

    def step(self, now_s: float, *, relieved: bool, silent: bool, held: bool, storing: bool) -> RetireStep:
        """The next step.

        Args:
            relieved: every executor that stays has said hello.
            silent: the retiring one has not said yet what it holds.
            held: it holds tasks.
            storing: outcomes of it are not stored yet.
        """
        if self.released:
            return RetireStep.WAIT
        if not self.begun:
            return RetireStep.BEGIN if relieved or now_s >= self.begin_by_s else RetireStep.WAIT
        if not held:
            done = not storing and (not silent or now_s >= self.gone_at_s)
            return RetireStep.RELEASE if done else RetireStep.WAIT
        if now_s >= self.gone_at_s:
            return RetireStep.HAND_BACK
        if now_s >= self.drain_until_s and not self.cancelled:
            return RetireStep.CANCEL
        return RetireStep.WAIT
