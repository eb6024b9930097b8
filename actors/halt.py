"""How a claimer comes to rest: a drain, which ends with `Resume`, or a stop, which ends the process."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec.structs import replace

from shiftboss.actors.messages import Recall, Stopping
from shiftboss.actors.outbox import Outbox
from shiftboss.actors.peers import Peer
from shiftboss.actors.roster import Roster
from shiftboss.actors.stop_plan import HELLO_S, StopPlan, StopStep
from shiftboss.control import Drained, Report, Stop, ToParent


class Halt:
    """Whether to claim, and what is done with what runs when not.

    Args:
        store: has a round at once, even while the database is away.
        end: ends the process.
    """

    def __init__(
        self,
        roster: Roster,
        outbox: Outbox,
        tell_parent: Callable[[ToParent], None],
        store: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        self._roster, self._outbox = roster, outbox
        self._tell_parent, self._store, self._end = tell_parent, store, end
        self._quiet, self._drain_seq = False, 0
        self._silent_until_s: float | None = None  # while Drained is still to be said
        self._plan: StopPlan | None = None
        self._reported = ""

    @property
    def may_claim(self) -> bool:
        return not self._quiet and self._plan is None

    @property
    def under_way(self) -> bool:
        """Whether there is something to wait for."""
        return self._silent_until_s is not None or self._plan is not None

    def greet(self, peer: Peer) -> None:
        """Tell an executor that comes now how things stand."""
        if self._plan is not None:
            peer.ref.tell(Stopping())
        if not self.may_claim:
            peer.ref.tell(Recall())

    def drain(self, seq: int = 0) -> None:
        """Send nothing more, call back what has not started; `seq` is that of the answer."""
        self._drain_seq = seq
        self._quiet, self._silent_until_s = True, time.monotonic() + HELLO_S
        for peer in self._roster:
            peer.ref.tell(Recall())

    def resume(self) -> None:
        self._quiet, self._silent_until_s = False, None
        self._report("")

    def stop(self, stop: Stop) -> None:
        """Claim nothing more, give back what has not started, wait for the rest, then for less and less."""
        now_s = time.monotonic()
        if self._plan is not None:
            self._plan = self._plan.hurried(now_s, stop.drain_s, stop.grace_s)
            return
        self._plan = StopPlan.begin(now_s, stop.drain_s, stop.grace_s)
        for peer in self._roster:
            peer.ref.tell(Stopping())
            peer.ref.tell(Recall())

    def go_on(self) -> None:
        """Take the steps that are due."""
        if self._silent_until_s is not None:
            self._go_on_draining(self._silent_until_s)
        if self._plan is not None:
            self._go_on_stopping(self._plan)

    def _go_on_draining(self, silent_until_s: float) -> None:
        """Tell the parent once nothing runs and all is stored; executors that have not spoken are waited for only so long."""
        running = len(self._roster.held())
        silent = self._roster.silent and time.monotonic() < silent_until_s
        if running or self._outbox.owes_outcomes or silent:
            self._report(f"draining, {running} running")
            return
        self._silent_until_s = None
        self._report("drained")
        self._tell_parent(Drained(seq=self._drain_seq))

    def _go_on_stopping(self, plan: StopPlan) -> None:
        running = len(self._roster.held())
        self._report(f"draining, {running} running")
        match plan.step(time.monotonic(), held=bool(running), owes=self._outbox.owes_outcomes, silent=self._roster.silent):
            case StopStep.END:
                self._end()
            case StopStep.CANCEL:
                self._plan = replace(plan, cancelled=True)
                self._roster.cancel(self._roster, "cancelling what still runs")
            case StopStep.HAND_BACK:
                self._roster.hand_back(self._roster, "the worker stopped")
                self._store()

    def _report(self, status: str) -> None:
        if status != self._reported:
            self._reported = status
            self._tell_parent(Report(status=status))
