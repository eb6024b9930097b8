"""What people do: their SQL as it stands, lists, cancel, retry, delete, queues."""

from __future__ import annotations

from threading import Thread

import pytest
from store_harness import World, by_id, ended, finish_one, lead, new, put, take, take_one, view, worker

from shiftboss.model import Outcome, QueueView, TaskState, Verdict, new_task_id
from shiftboss.store.base import Cancelled, Store, TaskFilter


def _dead(store: Store, **fields: object) -> str:
    task_id = put(store, **fields)  # type: ignore[arg-type]
    finish_one(store, ended(take_one(store), Outcome.FAILED, error="boom"))
    return task_id


# ---- the statements that operators know by heart


def test_operator_counts_pending_by_type(world: World) -> None:
    world.store.enqueue([new("a"), new("a"), new("b")])
    rows = world.raw("SELECT type, count(*) FROM tasks WHERE status = 'pending' GROUP BY type ORDER BY type")
    assert rows == [("a", 2), ("b", 1)]


def test_operator_lists_dead_letters_newest_first(world: World) -> None:
    old = _dead(world.store)
    world.clock.advance(1.0)
    young = _dead(world.store)
    rows = world.raw("SELECT id, type, last_error, attempts FROM tasks WHERE status='dead_letter' ORDER BY updated_at DESC")
    assert [(str(row[0]), *row[1:]) for row in rows] == [(young, "mail:send", "boom", 1), (old, "mail:send", "boom", 1)]


def test_operator_lists_what_runs(world: World) -> None:
    task_id = put(world.store)
    take_one(world.store)
    ((found, type_, worker_id, started_at),) = world.raw(
        "SELECT id, type, worker_id, started_at FROM tasks WHERE status='running'"
    )
    assert (str(found), type_, worker_id) == (task_id, "mail:send", "w1")
    assert str(started_at).startswith(world.clock.now().strftime("%Y-%m-%d %H:%M:%S"))


def test_operator_finds_orphans(world: World) -> None:
    world.store.register(worker("alive"), 30.0, exclusive=False)
    orphan = put(world.store)
    take_one(world.store, worker_id="gone")
    put(world.store)
    take_one(world.store, worker_id="alive")
    rows = world.raw(
        "SELECT t.id FROM tasks t LEFT JOIN workers w ON w.id = t.worker_id "
        "WHERE t.status IN ('claimed', 'running') AND w.id IS NULL"
    )
    assert [str(row[0]) for row in rows] == [orphan]


@pytest.mark.parametrize("state", [TaskState.DEAD_LETTER, TaskState.RUNNING, TaskState.CLAIMED, TaskState.PENDING])
def test_operator_sets_a_task_pending_and_it_runs(world: World, state: TaskState) -> None:
    store = world.store
    task_id = put(store, max_attempts=1)
    claim = take_one(store, running=int(state is not TaskState.CLAIMED))
    if state is TaskState.DEAD_LETTER:
        finish_one(store, ended(claim, Outcome.FAILED, retry_in_s=1.0))
    if state is TaskState.PENDING:
        finish_one(store, ended(claim, Outcome.SNOOZED, retry_in_s=3_600.0))
    world.raw(f"UPDATE tasks SET status='pending', attempts=0, next_retry_at=NULL WHERE id='{task_id}'")
    again = take_one(store, worker_id="w2")
    assert (again.task_id, again.attempt, again.fence) == (task_id, 1, claim.fence + 1)
    if state in (TaskState.RUNNING, TaskState.CLAIMED):
        assert finish_one(store, ended(claim)) == (Verdict.FENCED, None)
    assert finish_one(store, ended(again)) == (Verdict.APPLIED, TaskState.COMPLETED)


def test_operator_sets_all_dead_letters_of_a_type_pending(world: World) -> None:
    ids = {_dead(world.store) for _ in range(3)}
    world.raw("UPDATE tasks SET status='pending', attempts=0, next_retry_at=NULL WHERE status='dead_letter' AND type='mail:send'")
    assert {claim.task_id for claim in take(world.store)} == ids


def test_operator_inserts_a_task_by_hand(world: World) -> None:
    task_id, now = new_task_id(), world.clock.now().strftime("%Y-%m-%d %H:%M:%S+00:00")
    stamp = now.removesuffix("+00:00") if world.backend == "sqlite" else now
    world.raw(
        "INSERT INTO tasks (id, type, args, enqueued_at, run_at, updated_at) "
        f"VALUES ('{task_id}', 'mail:send', '{{\"user_id\": 1}}', '{stamp}', '{stamp}', '{stamp}')"
    )
    claim = take_one(world.store)
    assert (claim.task_id, claim.queue, bytes(claim.args)) == (task_id, "default", b'{"user_id": 1}')


# ---- looking


def test_get_of_an_unknown_task_is_none(store: Store) -> None:
    assert store.get(new_task_id()) is None
    assert store.attempts(new_task_id()) == []


def test_list_filters_by_everything_and_goes_on_from_an_id(store: Store) -> None:
    done = put(store, queue="a", tags=("x",))
    finish_one(store, ended(take_one(store)))
    dead = _dead(store, queue="b", tags=("x", "y"))
    live = put(store, queue="c")
    take_one(store, worker_id="w2")
    waiting = put(store, "other", queue="a")

    def ids(limit: int = 10, before: str | None = None, **fields: object) -> list[str]:
        return [task.id for task in store.list_tasks(TaskFilter(**fields), limit, before)]  # type: ignore[arg-type]

    assert ids() == [waiting, live, dead, done]
    assert ids(limit=2) == [waiting, live]
    assert ids(limit=2, before=live) == [dead, done]
    assert ids(status=TaskState.COMPLETED) == [done]
    assert ids(status=TaskState.DEAD_LETTER) == [dead]
    assert ids(type="other") == [waiting]
    assert ids(queue="a") == [waiting, done]
    assert ids(worker_id="w2") == [live]
    assert ids(tag="x") == [dead, done]
    assert ids(tag="y") == [dead]
    assert ids(ids=[done, waiting]) == [waiting, done]
    assert ids(ids=[done, waiting], queue="a", status=TaskState.PENDING) == [waiting]
    assert ids(ids=[]) == []


def test_status_counts_cover_both_tables(store: Store) -> None:
    for outcome in (Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILED, Outcome.CANCELLED):
        put(store)
        finish_one(store, ended(take_one(store), outcome))
    put(store), put(store), put(store)
    take(store, 2, running=1)
    assert store.status_counts() == {
        ("mail:send", "completed"): 2,
        ("mail:send", "dead_letter"): 1,
        ("mail:send", "cancelled"): 1,
        ("mail:send", "running"): 1,
        ("mail:send", "claimed"): 1,
        ("mail:send", "pending"): 1,
    }


# ---- acting


def test_cancel_ends_what_waits_and_asks_what_runs(store: Store) -> None:
    dead = _dead(store)
    running, claimed, waiting = put(store), put(store), put(store)
    first, second = take(store, 2, running=1)
    assert store.cancel(TaskFilter(type="mail:send")) == Cancelled(cancelled=1, requested=2)
    assert view(store, waiting).status is TaskState.CANCELLED
    assert view(store, dead).status is TaskState.DEAD_LETTER
    assert {lease.task_id for lease in store.cancel_requests("w1")} == {running, claimed}
    assert {owned.cancel_requested for owned in store.owned("w1")} == {True}
    assert view(store, running).cancel_requested
    assert finish_one(store, ended(first, Outcome.CANCELLED, error="asked")) == (Verdict.APPLIED, TaskState.CANCELLED)
    assert [lease.fence for lease in store.cancel_requests("w1")] == [second.fence]
    (attempt,) = store.attempts(running)
    assert (attempt.outcome, attempt.error) == (Outcome.CANCELLED, "asked")


def test_cancel_and_claim_at_once_leave_one_winner(world: World) -> None:
    store, other = world.store, world.open()
    ids = [put(store) for _ in range(60)]
    claimed: list[str] = []

    def claim() -> None:
        while claims := take(other, 3):
            claimed.extend(claim.task_id for claim in claims)

    thread = Thread(target=claim)
    thread.start()
    answers = {task_id: store.cancel(by_id(task_id)) for task_id in ids}
    thread.join(60)
    for task_id, answer in answers.items():
        assert answer.cancelled + answer.requested == 1
        assert (task_id in claimed) == bool(answer.requested)
        assert view(store, task_id).status is (TaskState.RUNNING if answer.requested else TaskState.CANCELLED)


def test_retry_begins_anew_and_keeps_the_fence(world: World) -> None:
    store = world.store
    dead = _dead(store, tags=("t",), unique_key="u")
    world.clock.advance(5.0)
    assert store.retry(by_id(dead)) == 1
    found = view(store, dead)
    assert (found.status, found.attempts, found.fence, found.worker_id) == (TaskState.PENDING, 0, 1, None)
    store.cancel(by_id(dead))
    assert store.retry(TaskFilter(status=TaskState.CANCELLED)) == 1
    claim = take_one(store)
    assert (claim.task_id, claim.fence, claim.attempt, claim.tags) == (dead, 2, 1, ("t",))
    assert view(store, dead).unique_key == "u"
    finish_one(store, ended(claim))
    assert store.retry(by_id(dead)) == 0
    assert len(store.attempts(dead)) == 1


def test_retry_of_a_cancelled_task_forgets_the_request(store: Store) -> None:
    task_id = put(store)
    claim = take_one(store)
    store.cancel(by_id(task_id))
    finish_one(store, ended(claim, Outcome.CANCELLED))
    store.retry(by_id(task_id))
    take_one(store)
    assert store.cancel_requests("w1") == []


def test_delete_removes_what_nobody_runs(store: Store) -> None:
    done = put(store)
    finish_one(store, ended(take_one(store)))
    dead, running = _dead(store), put(store)
    take_one(store)
    waiting = put(store)
    assert store.delete(TaskFilter(type="mail:send")) == 3
    assert [store.get(task_id) is None for task_id in (done, dead, waiting, running)] == [True, True, True, False]
    assert store.attempts(dead) == []


def test_queues_show_their_settings_and_what_is_in_them(world: World) -> None:
    store = world.store
    store.set_queue("a", paused=True, concurrency=3, weight=2)
    for queue in ("a", "b", "b", "b", "b"):
        put(store, queue=queue)
    put(store, queue="b", delay_s=60.0)
    claims = take(store, 2, running=1)
    assert [claim.queue for claim in claims] == ["b", "b"]
    finish_one(store, ended(claims[0], Outcome.FAILED))
    assert store.queues() == [
        QueueView(name="a", paused=True, concurrency=3, weight=2, pending=1, due=1),
        QueueView(name="b", pending=3, due=2, claimed=1, dead_letter=1),
    ]
    store.set_queue("a", paused=False)
    assert store.queues()[0] == QueueView(name="a", concurrency=3, weight=2, pending=1, due=1)
    store.set_queue("a", concurrency=0)
    assert store.queues()[0].concurrency is None


def test_a_queue_that_holds_nothing_and_says_nothing_is_not_listed(store: Store) -> None:
    assert store.queues() == []
    lead(store)
    assert store.queues() == []
