"""What has to wait because somebody else has locked its row is neither lost nor in the way of the rest."""

from __future__ import annotations

import pytest

from shiftboss.actors.outbox import Outbox, Waiting
from shiftboss.model import Ended, Lease, Outcome, Progress, TaskState, Verdict
from shiftboss.store.base import Exchange, Exchanged

FREE, LOCKED = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"


def outcome(task_id: str) -> Waiting:
    return Waiting(Ended(task_id=task_id, fence=1, outcome=Outcome.SUCCESS))


def request(outbox: Outbox) -> Exchange:
    return Exchange(
        worker_id="w",
        ended=outbox.ended(),
        starts=outbox.starts(),
        releases=outbox.releases(),
        progress=outbox.latest_progress(),
        cautious=outbox.cautious,
    )


def settle(outbox: Outbox, locked: str) -> list[str]:
    """A round in which one row is locked; the ids of the outcomes that were stored."""
    asked = request(outbox)
    verdicts = [Verdict.LATER if one.task_id == locked else Verdict.APPLIED for one in asked.ended]
    states = [None if one is Verdict.LATER else TaskState.COMPLETED for one in verdicts]
    reply = Exchanged(verdicts=verdicts, states=states, claims=[], later=frozenset([locked]))
    return [waiting.ended.task_id for waiting, _verdict, _state in outbox.settle(asked, reply)]


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
    again = request(outbox)
    assert [one.task_id for one in again.ended] == [LOCKED]
    assert [one.task_id for one in (*again.starts, *again.releases, *again.progress)] == [LOCKED] * 3
    assert settle(outbox, "") == [LOCKED]
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
    assert [one.percent for one in outbox.latest_progress()] == [50]


def test_a_death_is_not_buried_before_what_it_left_is_stored(outbox: Outbox) -> None:
    outbox.bury("executor-1", 1)
    settle(outbox, LOCKED)
    assert not outbox.buried()
    outbox.take_up()
    settle(outbox, "")
    assert [one.peer for one in outbox.buried()] == ["executor-1"]


def each_its_own(asked: Exchange) -> Exchanged:
    """An answer that says of every lease what only it can be told: FENCED for odd fences, ALREADY_APPLIED for even ones."""
    verdicts = [Verdict.FENCED if one.fence % 2 else Verdict.ALREADY_APPLIED for one in asked.ended]
    return Exchanged(verdicts=verdicts, states=[None] * len(verdicts), claims=[])


@pytest.mark.parametrize("twice", [False, True])
def test_every_outcome_gets_its_own_verdict_in_whatever_order_they_came(twice: bool) -> None:
    outbox = Outbox()
    for number in (3, 1, 4, 1, 5, 2) if twice else (3, 1, 4, 5, 2):
        ended = Ended(task_id=f"01900000-0000-7000-8000-{number:012d}", fence=number, outcome=Outcome.SUCCESS)
        outbox.end(Waiting(ended, cell=number))
    asked = request(outbox)
    assert [one.fence for one in asked.ended] == [1, 2, 3, 4, 5], "by id, each lease once"
    told = [(waiting.cell, verdict is Verdict.FENCED) for waiting, verdict, _state in outbox.settle(asked, each_its_own(asked))]
    assert sorted(told) == sorted((cell, bool(cell % 2)) for cell in ([1] if twice else []) + [1, 2, 3, 4, 5])
    assert not outbox


def test_a_request_in_another_order_than_ours_is_settled_by_its_leases() -> None:
    outbox = Outbox()
    for number in (1, 2):
        ended = Ended(task_id=f"01900000-0000-7000-8000-{number:012d}", fence=number, outcome=Outcome.SUCCESS)
        outbox.end(Waiting(ended, cell=number))
    asked = Exchange(worker_id="w", ended=list(reversed(outbox.ended())))
    told = [(waiting.cell, verdict is Verdict.FENCED) for waiting, verdict, _state in outbox.settle(asked, each_its_own(asked))]
    assert told == [(1, True), (2, False)]


def test_outcomes_of_a_round_that_failed_go_out_again(outbox: Outbox) -> None:
    first = outbox.ended()
    assert outbox.ended() == first
    assert settle(outbox, "") == [FREE, LOCKED]
