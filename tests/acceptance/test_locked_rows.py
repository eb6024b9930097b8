"""An operator's open transaction holds rows of tasks that run: those wait for it, and nothing else does."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg

from shiftboss.model import TaskState
from shiftboss.store.base import Store
from shiftboss.store.open import open_store
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, until

LOCKED = 5
OTHERS = 300


def test_a_row_that_somebody_holds_does_not_stall_the_worker(pg_database: str, tmp_path: Path) -> None:
    store = open_store(pg_database)
    long = enqueue(store, [handlers.long.prepare(0.5 + i / 4) for i in range(LOCKED)])
    with Worker(pg_database, tmp_path, worker_pool_size=16, heartbeat_interval_s=0.5, worker_timeout_s=5.0) as worker:
        worker.ready()
        until("all run", lambda: all(_status(store, one) is TaskState.RUNNING for one in long))
        with psycopg.connect(pg_database) as operator:
            operator.execute("SELECT id FROM tasks WHERE id = ANY (%s) FOR UPDATE", (long,))
            until("they have ended, and cannot be stored", lambda: len(worker.ends()) == LOCKED)
            began_s = time.monotonic()
            others = enqueue(store, [handlers.short.prepare(5) for _ in range(OTHERS)])
            until("the others are done", lambda: all(_status(store, one) is TaskState.COMPLETED for one in others), 10)
            assert time.monotonic() - began_s < 5.0, "each round waited for the lock"
            assert all(_status(store, one) is TaskState.RUNNING for one in long)
            assert not worker.lines("database.unreachable")
        until("they are stored, too", lambda: all(_status(store, one) is TaskState.COMPLETED for one in long), 5)
        assert set(worker.ends().values()) == {1}
        assert not worker.lines("task.fenced")
        assert not worker.lines("task.released")
        assert worker.stop() == 0
    store.close()


def _status(store: Store, task_id: str) -> TaskState:
    view = store.get(task_id)
    assert view is not None
    return view.status
