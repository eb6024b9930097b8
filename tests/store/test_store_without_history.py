"""A worker that keeps no history of completed tasks: nothing is left but a trace, and whoever sends again is still known."""

from __future__ import annotations

import msgspec
import pytest
from store_harness import (
    World,
    by_id,
    ended,
    finish_one,
    info,
    lead,
    new,
    put,
    raw_json,
    status,
    take,
    take_one,
    view,
)

from shiftboss.lease import LeaderLease
from shiftboss.model import Ended, Enqueued, Lease, Outcome, TaskState, Verdict
from shiftboss.store.base import TRACE_S, Exchange, Exchanged, Retention, Store, TaskFilter

APPLIED, ALREADY, FENCED = Verdict.APPLIED, Verdict.ALREADY_APPLIED, Verdict.FENCED
DAY_S = 86_400.0


def forget(store: Store, *batch: Ended, worker_id: str = "w1") -> list[tuple[Verdict, TaskState | None]]:
    """As `finish`, by a worker without a history."""
    answer: Exchanged = store.exchange(Exchange(worker_id=worker_id, ended=batch, keep_completed=False))
    return list(zip(answer.verdicts, answer.states, strict=True))


def traces(world: World) -> int:
    return int(world.raw("SELECT count(*) FROM task_traces")[0][0])


def test_a_completed_task_is_gone_and_counted(world: World) -> None:
    store = world.store
    ids = [put(store, type_) for type_ in ("a", "b", "a")]
    claims = take(store, types=[info("a"), info("b")])
    assert forget(store, *(ended(claim, result=raw_json(7), duration_s=0.2) for claim in claims)) == 3 * [
        (APPLIED, TaskState.COMPLETED)
    ]
    assert world.raw("SELECT count(*) FROM tasks") == world.raw("SELECT count(*) FROM task_history") == [(0,)]
    assert [store.get(task_id) for task_id in ids] == [None, None, None]
    assert store.list_tasks(TaskFilter(), 10) == []
    assert store.counts().enqueued == {"a": 2, "b": 1}
    counted = {delta.labels: delta.value for delta in store.counters("w1") if "completed" in delta.name}
    assert sum(counted.values()) == 3, store.counters("w1")


def test_it_is_counted_as_one_that_is_kept(world: World) -> None:
    """Whatever a metric is made of does not depend on the history."""
    store = world.store
    for worker_id, keep in (("keeps", True), ("forgets", False)):
        put(store)
        end = ended(take_one(store, worker_id=worker_id), duration_s=0.2)
        store.exchange(Exchange(worker_id=worker_id, ended=[end], keep_completed=keep))
    assert store.counters("forgets") == store.counters("keeps") != []


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome not in (Outcome.SUCCESS, Outcome.LOST)])
def test_every_other_end_is_as_ever(world: World, outcome: Outcome) -> None:
    store = world.store
    task_id = put(store, max_attempts=1)
    forget(store, ended(take_one(store), outcome, error="no"))
    found = view(store, task_id)
    assert found.status is not TaskState.COMPLETED
    assert [attempt.outcome for attempt in store.attempts(task_id)] == [outcome]
    assert traces(world) == 0


@pytest.mark.parametrize("keeps_now", [True, False])
def test_an_end_that_is_sent_again_is_told_already_applied(world: World, keeps_now: bool) -> None:
    store = world.store
    many = [put(store) for _ in range(5)]
    claims = take(store)
    ends = [ended(claim) for claim in claims]
    forget(store, *ends)
    again = store.exchange(Exchange(worker_id="w1", ended=ends, keep_completed=keeps_now))
    assert list(again.verdicts) == [ALREADY] * len(many)
    assert list(again.states) == [None] * len(many)
    assert traces(world) == 1, "nothing was written"


def test_another_outcome_of_a_fence_that_completed_is_fenced(store: Store) -> None:
    put(store)
    claim = take_one(store)
    forget(store, ended(claim))
    for outcome in (Outcome.INTERRUPTED, Outcome.FAILED, Outcome.CANCELLED):
        assert forget(store, ended(claim, outcome, error="late")) == [(FENCED, None)]


def test_an_end_of_another_fence_or_of_nobody_is_fenced(store: Store) -> None:
    put(store)
    stale = take_one(store)
    store.exchange(Exchange(worker_id="w1", releases=[Lease(stale.task_id, stale.fence)]))
    claim = take_one(store)
    nobody = Lease(new().id, 1)  # between the two
    put(store)
    assert forget(store, ended(stale)) == [(FENCED, None)]
    forget(store, ended(claim), ended(take_one(store)))
    late = (stale, Lease(claim.task_id, claim.fence + 1), nobody)
    assert forget(store, *map(ended, late)) == 3 * [(FENCED, None)]


def test_the_end_of_an_earlier_attempt_is_told_apart_too(world: World) -> None:
    """It failed, ran again and completed: what the first owner is told is not what became of the task."""
    store = world.store
    task_id = put(store)
    first = ended(take_one(store), Outcome.FAILED, error="x", retry_in_s=0.0)
    finish_one(store, first)
    forget(store, ended(take_one(store, worker_id="w2")), worker_id="w2")
    assert forget(store, first) == [(ALREADY, None)]
    assert forget(store, msgspec.structs.replace(first, fence=2)) == [(FENCED, None)]
    assert forget(store, msgspec.structs.replace(first, fence=2, outcome=Outcome.SUCCESS)) == [(ALREADY, None)]
    world.clock.advance(TRACE_S + 1)
    store.prune(lead(store), Retention())
    if world.backend == "sqlite":  # PostgreSQL removes attempts by their own age
        assert store.attempts(task_id) == []
    world.clock.advance(31 * DAY_S)
    store.prune(lead(store), Retention())
    assert store.attempts(task_id) == []


def test_one_lease_twice_in_a_batch_ends_once(world: World) -> None:
    store = world.store
    task_id = put(store)
    end = ended(take_one(store))
    assert [verdict for verdict, _ in forget(store, end, end)] == [APPLIED, ALREADY]
    assert store.get(task_id) is None
    assert store.has_trace(task_id)
    assert store.counts().enqueued == {"mail:send": 1}
    assert forget(store, end, end) == 2 * [(ALREADY, None)]


def test_what_cannot_be_stored_in_a_batch_does_not_keep_a_completed_task(world: World) -> None:
    """Row by row, as ever: the failure is stored with other words, and the success leaves its trace."""
    store = world.store
    good, bad = put(store), put(store)
    claims = {claim.task_id: claim for claim in take(store)}
    ends = [ended(claims[good]), ended(claims[bad], Outcome.FAILED, error="\ud800", traceback="\ud800")]
    assert [verdict for verdict, _ in forget(store, *ends)] == [APPLIED, APPLIED]
    assert store.get(good) is None
    assert status(store, bad) is TaskState.DEAD_LETTER
    assert [verdict for verdict, _ in forget(store, *ends)] == [ALREADY, ALREADY]


# ---- an enqueue that is sent again


@pytest.mark.parametrize("many", [1, 3, 400])
def test_an_enqueue_that_is_sent_again_is_not_stored_again(world: World, many: int) -> None:
    store = world.store
    tasks = [new(unique_key="k" if many == 1 else None) for _ in range(many)]
    store.enqueue(tasks)
    forget(store, *map(ended, take(store, 1_000)))
    assert store.enqueue(tasks) == [Enqueued(id=task.id, existing=True) for task in tasks]
    assert world.raw("SELECT count(*) FROM tasks") == [(0,)]


@pytest.mark.parametrize("many", [3, 400])
def test_of_a_batch_only_what_is_new_is_stored(world: World, many: int) -> None:
    """Those that ended stand on both sides of the new ones."""
    store = world.store
    tasks = [new() for _ in range(many)]
    store.enqueue([tasks[0], tasks[-1]])
    forget(store, *map(ended, take(store)))
    stored = store.enqueue(tasks)
    assert [one.existing for one in stored] == [True, *[False] * (many - 2), True]
    assert world.raw("SELECT count(*) FROM tasks") == [(many - 2,)]


def test_another_that_has_the_unique_key_by_now_is_not_meant(store: Store) -> None:
    task = new(unique_key="k")
    store.enqueue([task])
    forget(store, ended(take_one(store)))
    put(store, unique_key="k")
    assert store.enqueue([task]) == [Enqueued(id=task.id, existing=True)]


# ---- the trace


def test_a_trace_is_kept_for_its_time_and_removed_by_the_leader(world: World) -> None:
    store, clock = world.store, world.clock
    task = new()
    store.enqueue([task])
    end = ended(take_one(store))
    forget(store, end)
    lease = lead(store, term_s=10 * DAY_S)
    clock.advance(TRACE_S - 1)
    store.prune(lease, Retention(completed_s=0.0, cancelled_s=0.0, dead_letter_s=0.0, result_s=0.0))
    assert store.has_trace(task.id)
    clock.advance(2)
    assert store.prune(LeaderLease(lease.worker_id, lease.term + 1), Retention()) == 0, "not the leader"
    assert store.has_trace(task.id)
    assert store.prune(lease, Retention()) == 1
    assert not store.has_trace(task.id)
    assert forget(store, end) == [(FENCED, None)]
    assert store.enqueue([task]) == [Enqueued(id=task.id)], "nobody knows it any more"


def test_traces_are_removed_in_steps(world: World) -> None:
    store, clock = world.store, world.clock
    for _ in range(5):
        put(store)
        forget(store, ended(take_one(store)))
    clock.advance(TRACE_S + 1)
    lease = lead(store, term_s=DAY_S)
    assert [store.prune(lease, Retention(), limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_only_a_task_that_completed_without_history_has_a_trace(store: Store) -> None:
    kept, alive = put(store), put(store)
    finish_one(store, ended(next(claim for claim in take(store) if claim.task_id == kept)))
    assert [store.has_trace(task_id) for task_id in (kept, alive, new().id, "nothing")] == [False] * 4


def test_operators_can_do_nothing_with_it(store: Store) -> None:
    task_id = put(store)
    forget(store, ended(take_one(store)))
    assert (store.retry(by_id(task_id)), store.delete(by_id(task_id)), store.cancel(by_id(task_id)).cancelled) == (0, 0, 0)
    assert store.has_trace(task_id)


def test_workers_that_keep_and_workers_that_do_not_share_a_queue(world: World) -> None:
    store = world.store
    ids = [put(store) for _ in range(4)]
    claims = sorted(take(store), key=lambda claim: claim.task_id)
    kept, forgotten = map(ended, claims[:2]), map(ended, claims[2:])
    batches = (list(kept), list(forgotten))
    store.exchange(Exchange(worker_id="w1", ended=batches[0]))
    forget(store, *batches[1])
    assert [store.get(task_id) is not None for task_id in ids] == [True, True, False, False]
    for keep in (True, False):  # whoever asks
        answer = store.exchange(Exchange(worker_id="w1", ended=[*batches[0], *batches[1]], keep_completed=keep))
        assert list(answer.verdicts) == [ALREADY] * 4
    assert store.status_counts() == {("mail:send", "completed"): 2}
