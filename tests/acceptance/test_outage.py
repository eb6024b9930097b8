"""The database goes away and comes back: nothing restarts, nothing is lost; and what a worker says that finds none."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shiftboss.model import TaskState
from shiftboss.store.base import TaskFilter
from shiftboss.store.open import open_store
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, until
from tests.pg_cluster import PgCluster


@pytest.fixture
def own_cluster(pg_cluster: PgCluster) -> Iterator[PgCluster]:
    """A server of our own, to stop and start. Asks for the common one only to be skipped with it."""
    assert pg_cluster
    with PgCluster() as cluster:
        yield cluster


def completed(dsn: str) -> int:
    store = open_store(dsn)
    try:
        return len(store.list_tasks(TaskFilter(status=TaskState.COMPLETED), 10_000))
    finally:
        store.close()


@pytest.mark.long("fast")
@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["immediate", "fast"])
def test_a_worker_waits_out_a_database_that_goes_away(how: signal.Signals, own_cluster: PgCluster, tmp_path: Path) -> None:
    dsn = own_cluster.create_database("away")
    store = open_store(dsn)
    store.migrate()
    enqueue(store, [handlers.short.prepare(20) for _ in range(1_500)])
    store.close()
    with Worker(dsn, tmp_path, heartbeat_interval_s=1.0, worker_timeout_s=60.0) as worker:
        worker.ready()
        until("working", lambda: len(worker.ends()) > 200)
        own_cluster.stop(how)
        until("said so", lambda: worker.lines("database.unreachable"), 5)
        until("unhealthy", lambda: worker.get("/health")[0] == 503, 10)
        assert "reason" in json.loads(worker.get("/health")[1])
        assert worker.get("/metrics")[0] == 200
        own_cluster.start()
        back_s = time.monotonic()
        ended = len(worker.ends())
        until("working again", lambda: len(worker.ends()) > ended, 10)
        assert time.monotonic() - back_s < 8.0
        until("all over", lambda: completed(dsn) == 1_500, 60)
        until("healthy", lambda: worker.get("/health")[0] == 200, 10)
        assert not worker.lines("actor.crashed")
        assert not worker.lines("actor.boot_failed")
        assert len(worker.ends()) == 1_500
        assert max(worker.ends().values()) == 1
        assert worker.lines("database.recovered")
        assert worker.stop() == 0


def test_a_stop_is_bounded_while_the_database_is_away(own_cluster: PgCluster, tmp_path: Path) -> None:
    dsn = own_cluster.create_database("gone")
    store = open_store(dsn)
    store.migrate()
    enqueue(store, [handlers.short.prepare(50) for _ in range(200)])
    store.close()
    with Worker(dsn, tmp_path, shutdown_timeout_s=1.0, cancel_grace_s=0.5) as worker:
        worker.ready()
        until("working", lambda: len(worker.ends()) > 20)
        own_cluster.stop(signal.SIGQUIT)
        began_s = time.monotonic()
        assert worker.stop(timeout_s=20.0) == 0
        assert time.monotonic() - began_s < 1.0 + 0.5 + 5.0 + 1.0


def test_no_database_within_the_start_timeout_is_exit_code_75(tmp_path: Path) -> None:
    with Worker("postgresql://nobody@127.0.0.1:1/nothing", tmp_path, start_timeout_s=1.5) as worker:
        assert worker.process.wait(20) == 75
        assert any("start_timeout" in line["message"] for line in worker.lines())
        until("nothing left", lambda: not worker.left_over(), 2.0)


def test_a_database_without_a_schema_is_exit_code_78_and_the_message_says_what_to_do(
    pg_empty_database: str, tmp_path: Path
) -> None:
    with Worker(pg_empty_database, tmp_path) as worker:
        assert worker.process.wait(20) == 78
        assert any("shiftboss db migrate" in line["message"] for line in worker.lines())


def test_an_address_that_no_driver_understands_is_exit_code_78_at_once(tmp_path: Path) -> None:
    with Worker("postgresql://nobody@127.0.0.1:1/nothing?no_such=1", tmp_path) as worker:
        assert worker.process.wait(20) == 78
        assert len(worker.lines("actor.boot_failed")) == 1
        assert not any("Traceback" in str(line) for line in worker.lines())


def test_code_that_cannot_be_imported_is_exit_code_70_and_its_traceback_is_in_the_log(tmp_path: Path) -> None:
    with Worker(f"sqlite:///{tmp_path}/x.db", tmp_path, imports=("no_such_module",)) as worker:
        assert worker.process.wait(30) == 70
        assert "No module named 'no_such_module'" in worker.log_file.read_text()


def test_a_locked_sqlite_file_is_waited_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    store = open_store(url)
    store.migrate()
    enqueue(store, [handlers.short.prepare(5) for _ in range(500)])
    with Worker(url, tmp_path) as worker:
        worker.ready()
        until("working", lambda: len(worker.ends()) > 50)
        other = sqlite3.connect(tmp_path / "x.db", isolation_level=None, timeout=10)
        other.execute("BEGIN IMMEDIATE")
        handlers.pause(3.0)
        other.execute("ROLLBACK")
        other.close()
        until("all over", lambda: len(worker.ends()) == 500, 30)
        assert not worker.lines("actor.crashed")
        assert worker.stop() == 0
    assert max(worker.ends().values()) == 1
    assert len(store.list_tasks(TaskFilter(status=TaskState.COMPLETED), 1_000)) == 500


@pytest.mark.long
def test_actors_that_die_while_the_database_is_away_for_longer_than_start_timeout_cost_no_service(
    own_cluster: PgCluster, tmp_path: Path
) -> None:
    dsn = own_cluster.create_database("long")
    store = open_store(dsn)
    store.migrate()
    enqueue(store, [handlers.short.prepare(5) for _ in range(300)])
    store.close()
    with Worker(dsn, tmp_path, start_timeout_s=2.0) as worker:
        worker.ready()
        own_cluster.stop(signal.SIGQUIT)
        for actor in ("claimer", "leader", "heartbeat"):
            assert worker.kill(actor)
        handlers.pause(10.0)
        assert worker.process.poll() is None, worker.log_file.read_text()[-2000:]
        own_cluster.start()
        until("all over", lambda: completed(dsn) == 300, 30)
        assert not worker.lines("actor.hung")
        assert worker.stop() == 0
