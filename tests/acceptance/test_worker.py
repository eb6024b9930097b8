"""What a running worker does for its tasks, and what it says of itself."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shiftboss.model import NewTask, Outcome, TaskState, new_task_id
from shiftboss.store.base import Store, TaskFilter
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, until

pytestmark = pytest.mark.long("postgres")  # on the other one every day


def status(store: Store, task_id: str) -> TaskState:
    view = store.get(task_id)
    assert view is not None
    return view.status


def all_over(store: Store, ids: list[str]) -> bool:
    return all(status(store, one) in (TaskState.COMPLETED, TaskState.DEAD_LETTER, TaskState.CANCELLED) for one in ids)


def run_sql(database_url: str, sql: str) -> list[Any]:
    """An operator's statement, as it stands, by the database's own driver."""
    if database_url.startswith("sqlite"):
        connection = sqlite3.connect(database_url.removeprefix("sqlite:///"), timeout=10)
        with connection:
            rows = connection.execute(sql).fetchall()
        connection.close()
        return rows
    import psycopg

    with psycopg.connect(database_url) as pg:
        cursor = pg.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def samples(worker: Worker) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    code, text = worker.get("/metrics")
    assert code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# ---- failures, timeouts, cancels


def test_failures_are_retried_and_then_kept_as_dead_letters(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        flaky, broken = enqueue(store, [handlers.flaky.prepare(), handlers.broken.prepare()])
        until("both over", lambda: all_over(store, [flaky, broken]))
    assert (store.get(flaky) or worker).attempts == 3
    assert bytes((store.get(flaky) or worker).result) == b"3"
    view = store.get(broken)
    assert view is not None
    assert (view.status, view.attempts, view.last_error) == (TaskState.DEAD_LETTER, 2, "ValueError: always")
    attempts = store.attempts(broken)
    assert [attempt.outcome for attempt in attempts] == [Outcome.FAILED] * 2
    assert all("raise ValueError" in (attempt.traceback or "") for attempt in attempts)


def test_a_task_stuck_in_c_is_ended_by_its_timeout_and_its_neighbours_are_unharmed(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    with Worker(database_url, tmp_path, executors=1, cancel_grace_s=0.5) as worker:
        worker.ready()
        neighbour = enqueue(store, [handlers.long.prepare(4.0)])[0]
        until("neighbour runs", lambda: len(worker.starts()) == 1)
        stuck = enqueue(store, [handlers.stuck.prepare()])[0]
        until("stuck", lambda: len(worker.starts()) == 2)
        others = enqueue(store, [handlers.short.prepare(1) for _ in range(30)])
        until("timeout", lambda: status(store, stuck) is TaskState.DEAD_LETTER, 10)
        until("the rest", lambda: all_over(store, [neighbour, *others]))
    assert [attempt.outcome for attempt in store.attempts(stuck)] == [Outcome.TIMEOUT]
    assert "timeout" in ((store.get(stuck) or worker).last_error or "")
    view = store.get(neighbour)
    assert view is not None
    assert (view.status, view.attempts) == (TaskState.COMPLETED, 1)
    assert [attempt.outcome for attempt in store.attempts(neighbour)] == [Outcome.INTERRUPTED]
    assert all((store.get(one) or worker).attempts == 1 for one in others)


def test_an_async_task_is_cancelled_at_its_timeout_and_its_process_stays(store: Store, database_url: str, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, executors=1) as worker:
        worker.ready()
        before = worker.actors()
        late = handlers.long_async.using(timeout=0.5, max_attempts=1).prepare(60)
        (one,) = enqueue(store, [late])
        until("timeout", lambda: status(store, one) is TaskState.DEAD_LETTER, 5)
        assert worker.actors() == before
    assert [attempt.outcome for attempt in store.attempts(one)] == [Outcome.TIMEOUT]


@pytest.mark.parametrize("kind", ["long", "long_async"])
def test_a_running_task_is_cancelled_even_when_it_does_not_look(
    kind: str, database_url: str, store: Store, tmp_path: Path
) -> None:
    handler = handlers.long if kind == "long" else handlers.long_async
    with Worker(database_url, tmp_path, executors=1, cancel_grace_s=0.5) as worker:
        worker.ready()
        (one,) = enqueue(store, [handler.prepare(60)])
        until("running", lambda: len(worker.starts()) == 1)
        assert store.cancel(TaskFilter(ids=[one])).requested == 1
        until("cancelled", lambda: status(store, one) is TaskState.CANCELLED, 6)
        assert worker.stop() == 0


# ---- waking, unknown types, operators


def test_an_idle_worker_starts_a_task_long_before_it_would_poll(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, claim_interval_s=10.0, executors=1) as worker:
        worker.ready()
        if database_url.startswith("postgres"):
            until("it sleeps", lambda: run_sql(database_url, "SELECT count(*) FROM workers WHERE sleeping")[0][0], 15)
        handlers.pause(2.0)  # by now it polls seldom
        waits = []
        for _ in range(10):
            sent = time.time()
            (one,) = enqueue(store, [handlers.clock.prepare()])
            until("over", lambda one=one: status(store, one) is TaskState.COMPLETED, 5)
            waits.append(json.loads(bytes((store.get(one) or worker).result)) - sent)
            handlers.pause(0.15)
    assert sorted(waits)[5] < 0.1, waits
    assert max(waits) < 1.0, waits


def test_unknown_types_stay_pending_and_are_reported(database_url: str, store: Store, tmp_path: Path) -> None:
    raw = handlers.short.prepare(1).new.args
    store.enqueue([NewTask(id=new_task_id(), type="from:elsewhere", args=raw) for _ in range(3)])
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        known = enqueue(store, [handlers.short.prepare(1)])
        until("known one over", lambda: all_over(store, known))
        line = until("reported", lambda: worker.lines("task.unknown_type"))[0]
        assert (line["fields"]["type"], line["fields"]["count"]) == ("from:elsewhere", 3)
        assert worker.stop() == 0
    assert store.counts().pending == {"from:elsewhere": 3}


def test_what_an_operator_types_works_as_it_stands(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        first, second = enqueue(store, [handlers.broken.prepare() for _ in range(2)])
        (running,) = enqueue(store, [handlers.polite.prepare()])
        until("dead letters", lambda: all_over(store, [first, second]) and store.counts().running)
        dead = run_sql(
            database_url,
            "SELECT id, type, last_error, attempts FROM tasks WHERE status='dead_letter' ORDER BY updated_at DESC",
        )
        assert {(str(row[0]), *row[1:]) for row in dead} == {(one, "broken", "ValueError: always", 2) for one in (first, second)}
        rows = run_sql(database_url, "SELECT id, type, worker_id, started_at FROM tasks WHERE status='running'")
        assert [str(row[0]) for row in rows] == [running]
        assert run_sql(database_url, "SELECT type, count(*) FROM tasks WHERE status='pending' GROUP BY type") == []
        orphans = (
            "SELECT t.id FROM tasks t LEFT JOIN workers w ON t.worker_id = w.id "
            "WHERE t.status IN ('claimed', 'running') AND w.id IS NULL"
        )
        assert run_sql(database_url, orphans) == []
        run_sql(database_url, f"UPDATE tasks SET status='pending', attempts=0, next_retry_at=NULL WHERE id='{first}'")
        until("it ran again", lambda: len(store.attempts(first)) == 4)
        run_sql(
            database_url,
            "UPDATE tasks SET status='pending', attempts=0, next_retry_at=NULL WHERE status='dead_letter' AND type='broken'",
        )
        until("both ran again", lambda: len(store.attempts(first)) == 6 and len(store.attempts(second)) == 4)


@pytest.mark.parametrize("kind", ["parent", "parent_async"])
def test_a_handler_enqueues_into_its_workers_database(kind: str, database_url: str, store: Store, tmp_path: Path) -> None:
    handler = handlers.parent if kind == "parent" else handlers.parent_async
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        (one,) = enqueue(store, [handler.prepare(3)])
        until("parent over", lambda: all_over(store, [one]))
        children = json.loads(bytes((store.get(one) or worker).result))
        assert len(children) == 3
        until("children over", lambda: all_over(store, children))


# ---- starts and outages


def test_a_single_instance_recovers_what_its_killed_predecessor_held(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, "first") as first:
        first.ready()
        ids = enqueue(store, [handlers.long.prepare(2.0) for _ in range(3)])
        until("started", lambda: len(first.starts()) == 3)
        first.process.kill()
        first.process.wait()
    with Worker(database_url, tmp_path, "second") as second:
        second.ready()
        assert second.lines("worker.registered")[0]["fields"]["recovered"] == 3
        until("over", lambda: all_over(store, ids))
        assert second.stop() == 0
    assert all((store.get(one) or first).attempts == 2 for one in ids)


def test_sample_tasks_are_enqueued_when_asked_for(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, enqueue_examples=True) as worker:
        worker.ready()
        until("samples over", lambda: {"samples:add", "samples:greet"} <= {key[0] for key in store.status_counts()})
        until("added", lambda: store.status_counts().get(("samples:add", "completed")) == 1)


# ---- what it says of itself


def test_metrics_are_exactly_true_after_actors_were_killed(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, executors=2) as worker:
        worker.ready()
        ids = enqueue(store, [handlers.short.prepare(5) for _ in range(1_000)])
        ids += enqueue(store, [handlers.flaky.prepare() for _ in range(20)] + [handlers.broken.prepare() for _ in range(10)])
        for name in ("claimer", "executor-1", "leader", "claimer", "heartbeat"):
            done = len(worker.ends())
            until("some more", lambda done=done: len(worker.ends()) >= min(done + 100, 1_000))
            worker.kill(name)
        until("all over", lambda: all_over(store, ids), 60)
        until("leading", lambda: samples(worker).get(("tasks_enqueued_total", (("type", "short"),))) == 1_000, 15)
        seen = samples(worker)
        counts = store.status_counts()
        assert seen["tasks_completed_total", (("status", "success"), ("type", "short"))] == counts["short", "completed"]
        assert seen["tasks_completed_total", (("status", "success"), ("type", "flaky"))] == 20
        crashed = sum(attempt.outcome is Outcome.CRASHED for one in ids for attempt in store.attempts(one) if status(store, one))
        failed = sum(value for key, value in seen.items() if key[0] == "tasks_completed_total" and ("status", "failed") in key[1])
        attempts = sum(len(store.attempts(one)) for one in ids)
        assert failed == attempts
        assert crashed <= attempts
        assert seen["tasks_dead_letter_total", (("type", "broken"),)] == counts["broken", "dead_letter"]
        retried = sum(value for key, value in seen.items() if key[0] == "task_retries_total")
        assert retried == attempts - sum(n for (_type, state), n in counts.items() if state == "dead_letter")
        duration = seen["task_duration_seconds_count", (("type", "short"),)]
        assert duration == counts["short", "completed"] + sum(len(store.attempts(one)) for one in ids[:1_000])
        assert seen["worker_pool_capacity", ()] == 10
        assert seen["workers_total", ()] == 1
        assert seen["leader_status", (("worker_id", _id(worker)),)] == 1
        assert seen["task_claim_duration_seconds_count", ()] > 0
        assert worker.stop() == 0


def _id(worker: Worker) -> str:
    return str(json.loads(worker.get("/health")[1])["worker_id"])


def test_health_says_who_and_how(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, distributed_mode=True) as worker:
        worker.ready()
        code, text = worker.get("/health")
        body = json.loads(text)
        assert (code, body["status"], body["distributed"]) == (200, "healthy", True)
        assert body["worker_id"] == store.workers()[0].id
        assert body["version"] == store.workers()[0].version
        assert worker.get("/nothing")[0] == 404


def test_what_a_handler_logs_carries_its_task(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        (one,) = enqueue(store, [handlers.talks.prepare()])
        until("over", lambda: all_over(store, [one]))
        lines = [line for line in worker.lines() if "hello from" in line["message"]]
        assert {line["message"] for line in lines} == {"hello from attempt.log", "hello from any logger"}
        assert all((line["task_id"], line["type"], line["attempt"]) == (one, "talks", 1) for line in lines)
