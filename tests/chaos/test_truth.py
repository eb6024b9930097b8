"""While a fault lasts, the service says so: readiness and a line of log within two heartbeats, and no secret in either."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shiftboss import commands
from shiftboss.store.open import open_store
from tests.acceptance.worker import Worker, until
from tests.pg_cluster import PgCluster

pytestmark = pytest.mark.slow  # times of a second or two: for a machine that does nothing else

BEAT_S = 1.0
WITHIN_S = 2 * BEAT_S + 2.0  # two heartbeats, and what a busy machine takes to answer
SECRET = "hunter2canary"


def readiness(worker: Worker) -> tuple[int, str]:
    status, body = worker.get("/readyz")
    return status, str(json.loads(body).get("reason", ""))


def told(worker: Worker, events: set[str], since: int) -> bool:
    return any(line.get("event") in events for line in worker.lines()[since:])


def assert_truthful(worker: Worker, begin: Callable[[], object], end: Callable[[], object], events: set[str]) -> None:
    """Ready, then not ready and why, then ready again."""
    until("ready", lambda: readiness(worker)[0] == 200, 20)
    since = len(worker.lines())
    begin()
    until("not ready", lambda: readiness(worker)[0] == 503, WITHIN_S)
    assert readiness(worker)[1], "not ready, and no reason"
    until(f"one of {events} is logged", lambda: told(worker, events, since), WITHIN_S)
    assert worker.get("/metrics")[0] == 200
    assert worker.get("/livez")[0] == 200
    end()
    until("ready again", lambda: readiness(worker)[0] == 200, 10)


@contextlib.contextmanager
def on_sqlite(folder: Path, **settings: Any) -> Iterator[Worker]:
    with Worker(f"sqlite:///{folder}/x.db", folder, heartbeat_interval_s=BEAT_S, worker_timeout_s=60.0, **settings) as worker:
        yield worker.ready()


def test_of_a_database_that_is_away(pg_cluster: PgCluster, tmp_path: Path) -> None:
    assert pg_cluster
    with PgCluster() as cluster:
        store = open_store(cluster.create_database("truth"))
        store.migrate()
        store.close()
        url = cluster.dsn("truth", tcp=True).replace("@", f":{SECRET}@", 1)
        with Worker(url, tmp_path, heartbeat_interval_s=BEAT_S, worker_timeout_s=60.0) as worker:
            worker.ready()
            away = lambda: cluster.stop(signal.SIGQUIT)  # noqa: E731
            assert_truthful(worker, away, cluster.start, {"database.unreachable", "heartbeat.missed"})
            said = worker.log_file.read_text() + "".join(worker.get(path)[1] for path in ("/health", "/readyz", "/metrics"))
            assert SECRET not in said


def test_of_a_database_that_is_locked_by_somebody_else(tmp_path: Path) -> None:
    with on_sqlite(tmp_path) as worker:
        other = sqlite3.connect(tmp_path / "x.db", isolation_level=None, timeout=10)
        with contextlib.closing(other):
            begin, end = (lambda: other.execute("BEGIN EXCLUSIVE")), (lambda: other.execute("ROLLBACK"))
            assert_truthful(worker, begin, end, {"database.unreachable", "heartbeat.missed"})


@pytest.mark.parametrize("actor", ["claimer", "heartbeat"])
def test_of_an_actor_that_hangs(actor: str, tmp_path: Path) -> None:
    with on_sqlite(tmp_path, ping_interval_s=0.5, ping_timeout_s=2.0) as worker:
        frozen = worker.actors()[actor]
        # It is dumped and replaced without anybody's help, so there is nothing to end.
        until("ready", lambda: readiness(worker)[0] == 200, 20)
        since = len(worker.lines())
        assert worker.kill(actor, signal.SIGSTOP)
        until("not ready", lambda: readiness(worker)[0] == 503, WITHIN_S)
        assert actor in readiness(worker)[1]
        until("actor.hung is logged", lambda: told(worker, {"actor.hung"}, since), WITHIN_S)
        until("ready again", lambda: readiness(worker)[0] == 200, 15)
        assert worker.actors()[actor] != frozen


def test_of_a_drain(tmp_path: Path) -> None:
    with on_sqlite(tmp_path) as worker:
        drain, resume = (lambda: worker.ask(commands.Drain())), (lambda: worker.ask(commands.Resume()))
        assert_truthful(worker, drain, resume, {"service.quiet"})
