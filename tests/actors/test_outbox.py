"""What has to wait because somebody else has locked its row is neither lost nor in the way of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from shiftboss.actors.outbox import Outbox, Parcel, Waiting
from shiftboss.model import Ended, Lease, Outcome, Progress, TaskState, Verdict
from shiftboss.store.base import Exchanged

FREE, LOCKED = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"


def outcome(task_id: str) -> Waiting:
    return Waiting(Ended(task_id=task_id, fence=1, outcome=Outcome.SUCCESS))


def settle(outbox: Outbox, locked: str, parcel: Parcel | None = None) -> list[str]:
    """A round in which one row is locked; the ids of the outcomes that were stored."""
    parcel = parcel or outbox.take()
    verdicts = [Verdict.LATER if one.task_id == locked else Verdict.APPLIED for one in parcel.ended]
    states = [None if one is Verdict.LATER else TaskState.COMPLETED for one in verdicts]
    later = frozenset(one.task_id for one in parcel.ended if one.task_id == locked)
    reply = Exchanged(verdicts=verdicts, states=states, claims=[], later=later)
    return [waiting.ended.task_id for waiting, _verdict, _state in outbox.settle(parcel, reply)]


@pytest.fixture
def outbox() -> Outbox:
    outbox = Outbox()
    for task_id in (FREE, LOCKED):
        outbox.end(outcome(task_id))
        outbox.start(Lease(task_id, 1))
        outbox.release(Lease(task_id, 1))
        outbox.progress([Progress(task_id=task_id, fence=1, percent=1)])
    return outbox


def test_what_is_locked_waits_and_the_rest_is_settled(outbox: Outbox) -> None:
    assert settle(outbox, LOCKED) == [FREE]
    assert not outbox, "nothing goes out by itself: that would be a round after the other while the lock is held"
    assert outbox.owes_outcomes, "but it is still owed, and a stop waits for it"
    assert not outbox.has_outcomes
    assert outbox.leases() == {(LOCKED, 1)}, "a sweep must not give back what we hold"
    assert outbox.outcomes == 1


def test_it_goes_out_again_whole_when_it_is_taken_up(outbox: Outbox) -> None:
    settle(outbox, LOCKED)
    outbox.take_up()
    again = outbox.take()
    assert [one.task_id for one in again.ended] == [LOCKED]
    assert [*again.starts, *(one.task_id for one in again.releases), *again.progress] == [LOCKED] * 3
    assert settle(outbox, "", again) == [LOCKED]
    assert not outbox.owes_outcomes


def test_nobody_waits_for_locks_while_something_is_laid_aside(outbox: Outbox) -> None:
    assert not outbox.cautious
    settle(outbox, LOCKED)
    assert outbox.cautious
    outbox.end(outcome(FREE))
    assert settle(outbox, LOCKED) == [FREE]
    outbox.take_up()
    assert outbox.cautious, "it may still be locked"
    settle(outbox, "")
    assert not outbox.cautious


def test_what_is_newer_is_not_overwritten_by_what_was_laid_aside(outbox: Outbox) -> None:
    settle(outbox, LOCKED)
    outbox.progress([Progress(task_id=LOCKED, fence=1, percent=50)])
    outbox.take_up()
    assert [one.percent for one in outbox.take().progress.values()] == [50]


def test_a_death_is_not_buried_before_what_it_left_is_stored(outbox: Outbox) -> None:
    outbox.bury("executor-1", 1)
    settle(outbox, LOCKED)
    assert not outbox.buried()
    outbox.take_up()
    settle(outbox, "")
    assert [one.peer for one in outbox.buried()] == ["executor-1"]


def test_a_death_waits_for_what_was_owed_then_and_not_for_what_came_later(outbox: Outbox) -> None:
    first = outbox.take()
    outbox.bury("executor-1", 1)
    outbox.end(outcome("01900000-0000-7000-8000-000000000003"))
    second = outbox.take()
    settle(outbox, "", second)
    assert not outbox.buried(), "what was under way when it died is not stored yet"
    settle(outbox, LOCKED, first)
    assert not outbox.buried(), "nor is what was laid aside"
    outbox.take_up()
    settle(outbox, "")
    assert [one.peer for one in outbox.buried()] == ["executor-1"]


def each_its_own(asked: Parcel) -> Exchanged:
    """An answer that says of every lease what only it can be told: FENCED for odd fences, ALREADY_APPLIED for even ones."""
    verdicts = [Verdict.FENCED if one.fence % 2 else Verdict.ALREADY_APPLIED for one in asked.ended]
    return Exchanged(verdicts=verdicts, states=[None] * len(verdicts), claims=[])


@pytest.mark.parametrize("twice", [False, True])
def test_every_outcome_gets_its_own_verdict_in_whatever_order_they_came(twice: bool) -> None:
    outbox = Outbox()
    for number in (3, 1, 4, 1, 5, 2) if twice else (3, 1, 4, 5, 2):
        ended = Ended(task_id=f"01900000-0000-7000-8000-{number:012d}", fence=number, outcome=Outcome.SUCCESS)
        outbox.end(Waiting(ended, cell=number))
    asked = outbox.take()
    assert [one.fence for one in asked.ended] == [1, 2, 3, 4, 5], "by id, each lease once"
    told = [(waiting.cell, verdict is Verdict.FENCED) for waiting, verdict, _state in outbox.settle(asked, each_its_own(asked))]
    assert sorted(told) == sorted((cell, bool(cell % 2)) for cell in ([1] if twice else []) + [1, 2, 3, 4, 5])
    assert not outbox


def test_a_round_that_failed_goes_out_again_whole(outbox: Outbox) -> None:
    first = outbox.take()
    assert not outbox, "it is under way"
    assert outbox.owes_outcomes and outbox.leases() == {(FREE, 1), (LOCKED, 1)}, "and owed"
    outbox.progress([Progress(task_id=FREE, fence=1, percent=50)])
    outbox.put_back(first)
    again = outbox.take()
    assert (again.ended, again.starts, again.releases) == (first.ended, first.starts, first.releases)
    assert [one.percent for one in again.progress.values()] == [50, 1], "the newest progress"
    assert settle(outbox, "", again) == [FREE, LOCKED]
    assert not outbox.owes_outcomes


def test_of_several_rounds_under_way_each_is_settled_by_itself(outbox: Outbox) -> None:
    first = outbox.take()
    third = "01900000-0000-7000-8000-000000000003"
    outbox.end(outcome(third))
    second = outbox.take()
    assert outbox.outcomes == 3 and outbox.waiting == 0
    assert settle(outbox, "", second) == [third]
    assert outbox.leases() == {(FREE, 1), (LOCKED, 1)}
    outbox.put_back(first)
    assert settle(outbox, "") == [FREE, LOCKED]
    assert not outbox.owes_outcomes


def test_nobody_is_told_of_an_outcome_under_way_when_its_executor_has_gone() -> None:
    outbox = Outbox()
    peer: Any = object()
    outbox.end(Waiting(outcome(FREE).ended, peer=peer))
    parcel = outbox.take()
    outbox.forget_peer(peer)
    reply = Exchanged(verdicts=[Verdict.APPLIED], states=[TaskState.COMPLETED], claims=[])
    ((waiting, _verdict, _state),) = outbox.settle(parcel, reply)
    assert waiting.peer is None
