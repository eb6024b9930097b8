"""How a claimer comes to rest, without a process: what it says to its parent, and when."""

from __future__ import annotations

from actor_harness import claim_of, memory
from fake_peers import ended

from shiftboss.actors.board import Board
from shiftboss.actors.halt import Halt
from shiftboss.actors.outbox import Outbox, Parcel, Waiting
from shiftboss.actors.roster import Roster
from shiftboss.control import Drained, Report, Stop, ToParent
from shiftboss.model import TaskState, Verdict
from shiftboss.store.base import Exchanged


class Resting:
    """A halt over no executors; `said`: what the parent heard."""

    def __init__(self) -> None:
        self.said: list[ToParent] = []
        self.ended = 0
        self.outbox = Outbox()
        roster = Roster(self.outbox, Board(memory(4096)), lambda _message: None, self.said.append)
        self.halt = Halt(roster, self.outbox, self.said.append, lambda: None, self._end)

    def _end(self) -> None:
        self.ended += 1

    def owe(self) -> Parcel:
        """An outcome is on its way."""
        claim = claim_of()
        self.outbox.end(Waiting(ended(claim), claim))
        return self.outbox.take()

    def store(self, parcel: Parcel) -> None:
        reply = Exchanged(claims=[], verdicts=[Verdict.APPLIED], states=[TaskState.COMPLETED])
        list(self.outbox.settle(parcel, reply))

    @property
    def drained(self) -> int:
        return self.said.count(Drained())


def test_a_drain_is_answered_once_however_often_it_is_looked_at() -> None:
    resting = Resting()
    resting.halt.drain()
    assert resting.halt.under_way and not resting.halt.may_claim
    for _ in range(3):
        resting.halt.go_on()
    assert resting.drained == 1
    assert not resting.halt.under_way and not resting.halt.may_claim
    resting.halt.drain()
    resting.halt.go_on()
    assert resting.drained == 2


def test_a_drain_waits_until_the_last_outcome_is_stored() -> None:
    resting = Resting()
    resting.halt.drain()
    request = resting.owe()
    resting.halt.go_on()
    assert resting.drained == 0
    resting.store(request)
    resting.halt.go_on()
    assert resting.drained == 1


def test_a_drain_that_is_taken_back_is_not_answered() -> None:
    resting = Resting()
    request = resting.owe()
    resting.halt.drain()
    resting.halt.go_on()
    resting.halt.resume()
    resting.store(request)
    resting.halt.go_on()
    assert resting.halt.may_claim and resting.drained == 0
    assert resting.said == [Report(status="draining, 0 running"), Report(status="")]


def test_a_stop_during_a_drain_ends_it() -> None:
    resting = Resting()
    resting.halt.drain()
    resting.halt.stop(Stop(drain_s=30.0, grace_s=5.0))
    resting.halt.go_on()
    assert resting.ended == 1
    resting.halt.resume()
    assert not resting.halt.may_claim, "a stop is not taken back"
