"""Texts that no database can keep, and batches of which one row cannot be stored: the others always are."""

from __future__ import annotations

import msgspec
import pytest
from store_harness import World, ended, finish, finish_one, lease, put, put_into_history, raw_json, take, take_one, view

from shiftboss.model import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS, Outcome, Progress, TaskState, Verdict
from shiftboss.store.base import CounterDelta, Exchange, Store

HOSTILE = {
    "nul": "bad \x00 byte",
    "lone surrogate": "bad \ud800 half",
    "both and more": "bad \x00\udfff\U0010ffff\u2028'\"\\;--",
    "a megabyte": "bad " + "x" * 1_000_000,
    "a megabyte of surrogates": "bad " + "\udc80" * 1_000_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_error_is_stored_in_a_form_that_can_be(store: Store, text: str) -> None:
    ids = [put(store) for _ in range(3)]
    first, bad, last = take(store)
    answers = finish(store, ended(first), ended(bad, Outcome.FAILED, error=text, traceback=text), ended(last))
    assert answers == [
        (Verdict.APPLIED, TaskState.COMPLETED),
        (Verdict.APPLIED, TaskState.DEAD_LETTER),
        (Verdict.APPLIED, TaskState.COMPLETED),
    ]
    error = view(store, ids[1]).last_error
    assert error is not None
    assert error.startswith("bad")
    assert len(error) < 8 * MAX_ERROR_CHARS
    (attempt,) = store.attempts(ids[1])
    assert (attempt.traceback or "").startswith("bad")
    assert len(attempt.traceback or "") < 8 * MAX_TRACEBACK_CHARS


def test_a_hostile_note_is_no_reason_to_fail(store: Store) -> None:
    put(store)
    claim = take_one(store)
    note = Progress(task_id=claim.task_id, fence=claim.fence, percent=1.0, note="a\x00\ud800")
    assert store.exchange(Exchange(worker_id="w1", progress=[note], ended=[ended(claim)])).verdicts == [Verdict.APPLIED]


@pytest.mark.parametrize("result", [b"{not json", b"\xff\xfe", b""], ids=["not JSON", "not UTF-8", "nothing"])
def test_a_result_that_cannot_be_stored_does_not_keep_its_task_running(store: Store, result: bytes) -> None:
    ids = [put(store) for _ in range(3)]
    good, bad, late = take(store)
    counter = CounterDelta(name="n", labels="{}", value=3.0)
    answer = store.exchange(
        Exchange(
            worker_id="w1",
            ended=[ended(good, result=raw_json(1)), ended(bad, result=msgspec.Raw(result)), ended(late, result=raw_json(3))],
            counters=[counter],
        )
    )
    assert answer.verdicts == [Verdict.APPLIED] * 3
    assert [view(store, task_id).status for task_id in ids] == [TaskState.COMPLETED] * 3
    results = [view(store, task_id).result for task_id in ids]
    assert [None if found is None else bytes(found) for found in results] == [b"1", None, b"3"]
    assert counter in store.counters("w1")
    assert {delta.value for delta in store.counters("w1") if delta.name == "tasks_completed_total"} == {3.0}


def test_a_task_that_cannot_be_archived_stops_no_other(world: World) -> None:
    store = world.store
    ids = [put(store) for _ in range(3)]
    claims = take(store)
    put_into_history(world.raw, ids[1], "cancelled", fence="99")
    more = put(store)
    verdicts = [verdict for verdict, _ in finish(store, *(ended(claim) for claim in claims))]
    assert verdicts[0] is verdicts[2] is Verdict.APPLIED
    assert {claim.task_id for claim in take(store)} == {more}
    assert view(store, ids[0]).status is view(store, ids[2]).status is TaskState.COMPLETED


def test_infinite_and_absurd_numbers_are_no_reason_to_fail(store: Store) -> None:
    ids = [put(store) for _ in range(3)]
    far, old, slow = take(store)
    answers = finish(
        store,
        ended(far, Outcome.FAILED, retry_in_s=1e18, error="e"),
        ended(old, started_at=-1e18),
        ended(slow, duration_s=float("inf")),
    )
    assert [verdict for verdict, _ in answers] == [Verdict.APPLIED] * 3
    assert view(store, ids[0]).status is TaskState.PENDING
    assert take(store) == []


def test_an_exchange_with_nothing_in_it_is_answered(store: Store) -> None:
    answer = store.exchange(Exchange(worker_id="w1"))
    assert (list(answer.verdicts), list(answer.states), list(answer.claims)) == ([], [], [])


def test_starts_and_releases_of_unknown_tasks_are_passed_over(store: Store) -> None:
    put(store)
    claim = take_one(store, running=0)
    gone = msgspec.structs.replace(claim, task_id="01900000-0000-7000-8000-ffffffffffff")
    store.exchange(Exchange(worker_id="w1", starts=[lease(gone), lease(claim)], releases=[lease(gone)]))
    assert view(store, claim.task_id).status is TaskState.RUNNING
    assert finish_one(store, ended(claim))[0] is Verdict.APPLIED
