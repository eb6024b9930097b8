"""Two workers on one database: what one loses, the other runs; a worker that was thought dead finds out."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import Store, TaskFilter
from shiftboss.store.postgres.link import IDLE_TIMEOUT_S
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, until

pytestmark = pytest.mark.long("sqlite")  # on the other one every day
TIMEOUT_S = 3.0
TIMES = {"heartbeat_interval_s": 1.0, "worker_timeout_s": TIMEOUT_S, "leader_term_s": 3.0, "distributed_mode": True}


def test_the_tasks_of_a_killed_worker_run_on_the_other(database_url: str, store: Store, tmp_path: Path) -> None:
    with (
        Worker(database_url, tmp_path, "one", worker_pool_size=4, **TIMES) as one,
        Worker(database_url, tmp_path, "two", worker_pool_size=4, **TIMES) as two,
    ):
        one.ready()
        two.ready()
        ids = enqueue(store, [handlers.long.prepare(4.0) for _ in range(8)])
        until("eight started", lambda: len(one.starts()) == 8)  # they share a ledger
        victims = {task for task in ids if (store.get(task) or one).worker_id == one_id(one)}
        assert len(victims) == 4
        one.process.kill()
        killed_s = time.monotonic()
        until("its tasks run again", lambda: {task for task, fence in two.starts() if int(fence) > 1} == victims)
        assert time.monotonic() - killed_s < TIMEOUT_S + 2.0
        until("all over", lambda: all((store.get(task) or one).status is TaskState.COMPLETED for task in ids))
        ends = two.ends()
        assert {task for task, _fence in ends} == set(ids)
        assert sum(ends.values()) == 8, "a task reached its end twice"
        for task in victims:
            assert [attempt.outcome for attempt in store.attempts(task)] == [Outcome.LOST]
            assert (store.get(task) or one).attempts == 2
        assert two.stop() == 0


def test_a_worker_that_was_stopped_past_its_timeout_drops_its_work_and_registers_anew(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    with (
        Worker(database_url, tmp_path, "one", worker_pool_size=2, cancel_grace_s=1.0, **TIMES) as one,
        Worker(database_url, tmp_path, "two", worker_pool_size=2, **TIMES) as two,
    ):
        one.ready()
        old_id = one_id(one)
        two.ready()
        ids = enqueue(store, [handlers.long.prepare(6.0) for _ in range(4)])
        until("four started", lambda: len(one.starts()) == 4)
        mine = {task for task in ids if (store.get(task) or one).worker_id == old_id}
        one.signal_all(signal.SIGSTOP)
        # Stopped in the middle of a transaction it keeps the rows until the server gives it up.
        patience_s = TIMEOUT_S + IDLE_TIMEOUT_S + 5.0
        until("recovered", lambda: all((store.get(task) or one).worker_id != old_id for task in mine), patience_s)
        one.signal_all(signal.SIGCONT)
        until("fenced", lambda: one.lines("worker.fenced"))
        new_id = until("registered anew", lambda: one_id(one) != old_id and one_id(one))
        until("the other knows", lambda: new_id in {worker.id for worker in store.workers()})
        until("all over", lambda: all((store.get(task) or one).status is TaskState.COMPLETED for task in ids), 60)
        for task in mine:
            view = store.get(task)
            assert view is not None
            assert view.fence == 2
            assert view.attempts == 2
        done = enqueue(store, [handlers.short.prepare(1) for _ in range(50)])
        until("works again", lambda: all((store.get(task) or one).status is TaskState.COMPLETED for task in done))
        assert (one.stop(), two.stop()) == (0, 0)


def test_workers_share_the_work_and_claim_nothing_twice(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, "one", **TIMES) as one, Worker(database_url, tmp_path, "two", **TIMES) as two:
        one.ready()
        two.ready()
        enqueue(store, [handlers.short.prepare(5) for _ in range(2_000)])
        until("all over", lambda: not store.counts().pending and len(one.ends()) == 2_000)
        assert set(one.starts().values()) == {1}
        by_worker = {view.worker_id for view in store.list_tasks(TaskFilter(status=TaskState.COMPLETED), 2_000)}
        assert by_worker == {one_id(one), one_id(two)}
        assert (one.stop(), two.stop()) == (0, 0)


def test_a_long_task_never_waits_behind_a_running_one_while_another_worker_is_idle(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    """Two long tasks after many short ones: the first worker has learnt to prefetch, and must give one of them away."""
    with Worker(database_url, tmp_path, "one", worker_pool_size=1, cancel_grace_s=0.2, **TIMES) as one:
        one.ready()
        enqueue(store, [handlers.short.prepare(1) for _ in range(300)])
        until("it has learnt", lambda: len(one.ends()) == 300)
        enqueue(store, [handlers.long.prepare(8.0) for _ in range(2)])
        with Worker(database_url, tmp_path, "two", worker_pool_size=1, cancel_grace_s=0.2, **TIMES) as two:
            two.ready()
            until("both run", lambda: len(one.starts()) == 302, 2.0)
            assert two.stop(signal.SIGQUIT) == 0
        assert one.stop(signal.SIGQUIT) == 0


def one_id(worker: Worker) -> str:
    return str(worker.lines("worker.registered")[-1]["fields"]["worker_id"])
