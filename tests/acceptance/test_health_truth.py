"""Health tells the truth: each fault shows on /readyz and /health with its reason, in a metric and in a line of the log, all
before two heartbeats are over; and all of it is gone when the fault is. No secret stands in any of them.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shiftboss import commands
from shiftboss.store.open import open_store
from tests.acceptance.worker import Worker, until
from tests.pg_cluster import PgCluster

BEAT_S = 2.0
WITHIN_S = 2 * BEAT_S
SECRET = "xyzzy-canary"


def metrics(worker: Worker) -> dict[str, float]:
    code, text = worker.get("/metrics")
    assert code == 200
    return {
        " ".join((one.name, *one.labels.values())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def probe(worker: Worker, path: str) -> tuple[int, str]:
    code, text = worker.get(path)
    return code, str(json.loads(text).get("reason", ""))


class Told:
    """Watches all that a worker says of a fault; `said` is everything that it has said."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.said = ""
        until("well", lambda: self.is_well(), 20)

    def is_well(self) -> bool:
        shown = metrics(self.worker)
        return (
            probe(self.worker, "/readyz")[0] == probe(self.worker, "/health")[0] == 200
            and shown["worker_ready"] == shown["worker_healthy"] == shown["database_reachable"] == 1
            and shown["actor_up heartbeat"] == shown["actor_up claimer"] == 1
        )

    def tells_of(
        self, fault: Callable[[], object], reason: str, gauge: str, *, healthy: bool = False, or_first: str = ""
    ) -> None:
        """Within two heartbeats of the fault everything says so.

        Args:
            healthy: on purpose, so /health stays as it is.
            or_first: what may show a moment earlier, and be what the one line of the log says.
        """
        before = len(self.worker.lines())
        fault()
        deadline_s = time.monotonic() + WITHIN_S

        def left_s() -> float:
            return max(0.05, deadline_s - time.monotonic())

        until("not ready", lambda: probe(self.worker, "/readyz")[0] == 503, left_s())
        if not healthy:
            until("unhealthy", lambda: probe(self.worker, "/health")[0] == 503, left_s())
        until(f"{gauge} is 0", lambda: metrics(self.worker)[gauge] == 0, left_s())
        event = "service.quiet" if healthy else "health.lost"
        until(f"{event} is logged", lambda: self._lines(event, before), left_s())
        for path in ("/readyz",) if healthy else ("/readyz", "/health"):
            assert reason in probe(self.worker, path)[1]
        assert self.worker.get("/livez")[0] == 200, "the gateway itself lives"
        shown = metrics(self.worker)
        assert (shown["worker_ready"], shown["worker_healthy"]) == (0, int(healthy))
        assert len(self._lines(event, before)) == 1, "one line, not one a second"
        message = self._lines(event, before)[0]["message"]
        assert reason in message or (or_first and or_first in message)
        self._note()

    def tells_of_its_end(self, mend: Callable[[], object], *, healthy: bool = False, within_s: float = WITHIN_S + 4.0) -> None:
        before = len(self.worker.lines())
        mend()
        until("well again", self.is_well, within_s)
        event = "service.resumed" if healthy else "health.regained"
        until(f"{event} is logged", lambda: self._lines(event, before), BEAT_S)
        self._note()
        assert SECRET not in self.said

    def _lines(self, event: str, since: int) -> list[dict[str, Any]]:
        return [line for line in self.worker.lines()[since:] if line.get("event") == event]

    def _note(self) -> None:
        answers = [self.worker.get(path)[1] for path in ("/readyz", "/health", "/metrics", "/livez")]
        self.said = "\n".join([self.said, *answers, self.worker.log_file.read_text()])


@pytest.fixture
def own_cluster(pg_cluster: PgCluster) -> Iterator[PgCluster]:
    """A server of our own, to stop and start. Asks for the common one only to be skipped with it."""
    assert pg_cluster
    with PgCluster() as cluster:
        yield cluster


def beating(url: str, folder: Path, **settings: object) -> Worker:
    return Worker(url, folder, **{"heartbeat_interval_s": BEAT_S, "worker_timeout_s": 60.0, "ping_timeout_s": 60.0, **settings})


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with beating(f"sqlite:///{tmp_path}/x.db", tmp_path) as started:
        yield started.ready()


def test_the_database_is_away(own_cluster: PgCluster, tmp_path: Path) -> None:
    store = open_store(own_cluster.create_database("truth"))
    store.migrate()
    store.close()
    url = own_cluster.dsn("truth", tcp=True).replace("@", f":{SECRET}@", 1)
    with beating(url, tmp_path) as worker:
        told = Told(worker.ready())
        told.tells_of(lambda: own_cluster.stop(signal.SIGQUIT), "the database has not been reached", "database_reachable")
        told.tells_of_its_end(own_cluster.start)


@pytest.mark.long
def test_the_database_answers_nothing_any_more(own_cluster: PgCluster, tmp_path: Path) -> None:
    """Frozen, not gone: no statement fails, none ends; a scrape must not wait for it either."""
    store = open_store(own_cluster.create_database("truth"))
    store.migrate()
    store.close()
    with beating(own_cluster.dsn("truth", tcp=True), tmp_path) as worker:
        told = Told(worker.ready())
        backends = [int(word) for word in Path(f"/proc/{own_cluster.pid}/task/{own_cluster.pid}/children").read_text().split()]
        frozen = [own_cluster.pid, *backends]
        told.tells_of(
            lambda: [os.kill(pid, signal.SIGSTOP) for pid in frozen],
            "no heartbeat stored",
            "worker_ready",
            or_first="the claimer",
        )
        told.tells_of_its_end(lambda: [os.kill(pid, signal.SIGCONT) for pid in frozen])


@pytest.mark.parametrize(
    ("actor", "reason"), [("claimer", "the claimer has done nothing for"), ("heartbeat", "no heartbeat stored for")]
)
def test_an_actor_is_stopped(actor: str, reason: str, worker: Worker) -> None:
    told = Told(worker)
    pid = worker.actors()[actor]
    told.tells_of(lambda: os.kill(pid, signal.SIGSTOP), reason, f"actor_up {actor}")
    other = "heartbeat" if actor == "claimer" else "claimer"
    shown = metrics(worker)
    assert (shown[f"actor_up {other}"], shown["database_reachable"]) == (1, 1), "not more than is true"
    told.tells_of_its_end(lambda: os.kill(pid, signal.SIGCONT))


@pytest.mark.long("heartbeat")
@pytest.mark.parametrize("actor", ["claimer", "heartbeat"])
def test_an_actor_that_hangs_is_replaced_and_all_is_well_without_anybody(actor: str, tmp_path: Path) -> None:
    hangs_s = WITHIN_S + 2.0  # longer than it may take to tell
    with beating(f"sqlite:///{tmp_path}/x.db", tmp_path, ping_interval_s=0.5, ping_timeout_s=hangs_s) as worker:
        told = Told(worker.ready())
        frozen = worker.actors()[actor]
        told.tells_of(lambda: os.kill(frozen, signal.SIGSTOP), actor, f"actor_up {actor}")
        told.tells_of_its_end(lambda: None, within_s=hangs_s + 10.0)
        assert worker.lines("actor.hung")[0]["fields"]["actor"] == actor
        assert worker.actors()[actor] != frozen


def test_the_file_of_the_database_is_moved_away(worker: Worker) -> None:
    told = Told(worker)
    file = Path(worker.settings.database_url.removeprefix("sqlite:///"))
    away = file.with_suffix(".away")
    told.tells_of(lambda: file.rename(away), "the database has not been reached", "database_reachable")
    told.tells_of_its_end(lambda: away.rename(file), within_s=20.0)


def test_the_pool_is_paused_because_it_keeps_crashing(tmp_path: Path) -> None:
    settings = {"max_restarts": 2, "restart_period_s": 60.0, "executor_probe_interval_s": 1.0, "executors": 1}
    with beating(f"sqlite:///{tmp_path}/x.db", tmp_path, **settings) as worker:
        told = Told(worker.ready())

        def ready() -> list[dict[str, Any]]:
            return [line for line in worker.lines("actor.ready") if line["fields"]["actor"] == "executor-1"]

        def crash() -> None:
            """As often as the budget allows, and once more; from the last one on the pool is paused."""
            for number in range(1, 4):
                until("an executor", lambda number=number: len(ready()) >= number, 10)
                assert worker.kill("executor-1")
            until("paused", lambda: worker.lines("supervisor.intensity_exceeded"), 10)

        told.tells_of(crash, "executor ended 3 times within 60 s", "worker_healthy")
        told.tells_of_its_end(lambda: None, within_s=30.0)


def test_a_drain_is_not_ready_but_healthy(worker: Worker) -> None:
    told = Told(worker)
    told.tells_of(lambda: worker.ask(commands.Drain()), "drain", "worker_ready", healthy=True)
    assert probe(worker, "/health") == (200, "")
    told.tells_of_its_end(lambda: worker.ask(commands.Resume()), healthy=True)


def test_the_database_is_locked_by_somebody_else(worker: Worker) -> None:
    told = Told(worker)
    with closing(sqlite3.connect(worker.settings.database_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        told.tells_of(lambda: other.execute("BEGIN EXCLUSIVE"), "no heartbeat stored", "worker_ready")
        told.tells_of_its_end(lambda: other.execute("ROLLBACK"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with a little room, which only root can make."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_the_disk_is_full(small_disk: Path, tmp_path: Path) -> None:
    with beating(f"sqlite:///{small_disk}/x.db", tmp_path) as worker:
        told = Told(worker.ready())
        filler = small_disk / "filler"
        told.tells_of(lambda: _fill(filler), "the database has not been reached", "database_reachable")
        assert any("the disk is full" in line["fields"]["error"] for line in worker.lines("database.unreachable"))
        told.tells_of_its_end(filler.unlink)


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as filling:
        try:
            while True:
                filling.write(b"x" * 4096)
        except OSError:
            return
