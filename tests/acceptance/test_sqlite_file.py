"""The database file is moved away, replaced or damaged under a running service: it says so, waits, and makes nothing worse."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from shiftboss.errors import StoreUnavailable
from shiftboss.model import TaskState
from shiftboss.store.base import Store
from shiftboss.store.open import open_store
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, until

HEARTBEAT_S = 0.3
SETTINGS = {"heartbeat_interval_s": HEARTBEAT_S, "worker_timeout_s": 3.0, "executors": 1, "restart_backoff_s": 0.02}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def eye(path: Path) -> Store:
    """Our own, which keeps the database's log from being folded into the file at a close."""
    store = open_store(f"sqlite:///{path}")
    store.migrate()
    return store


def unfinished(store: Store) -> int:
    return sum(n for (_type, status), n in store.status_counts().items() if status in ("pending", "claimed", "running"))


def not_ready(worker: Worker) -> str:
    """Why; empty while it is ready, or the gateway has just been killed."""
    try:
        code, body = worker.get("/readyz")
    except OSError:
        return ""
    return body if code == 503 else ""


def without_surprises(worker: Worker, killed: int = 0) -> None:
    """Nobody has crashed but who was killed, and nobody was refused its start."""
    assert len(worker.lines("actor.crashed")) == killed, worker.lines("actor.crashed")
    assert not worker.lines("actor.boot_failed")
    assert worker.process.poll() is None


@pytest.mark.parametrize("victims", [(), ("claimer", "heartbeat", "leader", "gateway")], ids=["nobody dies", "actors die"])
def test_a_file_moved_away_is_waited_for_and_never_made_anew(
    victims: tuple[str, ...], path: Path, eye: Store, tmp_path: Path
) -> None:
    with Worker(f"sqlite:///{path}", tmp_path, **SETTINGS) as worker:
        worker.ready()
        enqueue(eye, [handlers.short.prepare(20) for _ in range(300)])
        until("working, and somebody leads", lambda: len(worker.ends()) > 20 and worker.lines("leader.elected"))
        aside = path.with_suffix(".aside")
        path.rename(aside)
        for name in victims:
            assert worker.kill(name)
        until("not ready", lambda: "heartbeat" in not_ready(worker) if not victims else not_ready(worker), 10)
        threading.Event().wait(1.0)  # whoever was killed has started again and has had time to do harm
        assert not path.exists(), "somebody made an empty database in its place"
        aside.rename(path)
        until("all over", lambda: not unfinished(eye))
        until("ready", lambda: worker.get("/readyz")[0] == 200, 10)
        told = [str(line["fields"]) for line in worker.lines("database.unreachable")]
        without_surprises(worker, len(victims))
        assert eye.status_counts() == {("short", TaskState.COMPLETED): 300}
        said = "Put the database file back" if victims else "deleted or replaced"
        assert any(said in text for text in told)
        assert worker.lines("database.recovered")
        assert worker.stop() == 0
    eye.close()


@pytest.mark.parametrize("victims", [(), ("claimer", "heartbeat", "leader", "gateway")], ids=["nobody dies", "actors die"])
def test_a_replaced_file_is_not_touched(victims: tuple[str, ...], path: Path, eye: Store, tmp_path: Path) -> None:
    """Nor by who starts meanwhile: with the log of the one before beside it, it would be read as a mixture of both."""
    other = tmp_path / "other.db"
    store = open_store(f"sqlite:///{other}")
    store.migrate()
    store.close()
    with Worker(f"sqlite:///{path}", tmp_path, **SETTINGS) as worker:
        worker.ready()
        enqueue(eye, [handlers.short.prepare(20) for _ in range(300)])
        until("working, and somebody leads", lambda: len(worker.ends()) > 20 and worker.lines("leader.elected"))
        before = other.read_bytes()
        shutil.move(path, path.with_suffix(".aside"))
        shutil.move(other, path)
        for name in victims:
            assert worker.kill(name)
        until("not ready", lambda: not_ready(worker), 10)
        threading.Event().wait(1.0)
        assert path.read_bytes() == before
        without_surprises(worker, len(victims))
        shutil.move(path, other)
        shutil.move(path.with_suffix(".aside"), path)
        until("all over", lambda: not unfinished(eye))
        assert worker.stop() == 0
    eye.close()


def test_a_damaged_file_stops_the_work_and_not_the_service(path: Path, eye: Store, tmp_path: Path) -> None:
    with Worker(f"sqlite:///{path}", tmp_path, **SETTINGS) as worker:
        worker.ready()
        eye.close()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.write(b"\xff" * size)
        Path(f"{path}-wal").write_bytes(b"")
        until("not ready", lambda: not_ready(worker), 10)
        threading.Event().wait(1.0)
        without_surprises(worker)
        assert any(".recover" in str(line["fields"]) for line in worker.lines("database.unreachable"))
        assert len(worker.lines("database.unreachable")) <= 4, "one line an actor, not one a try"
        with pytest.raises(StoreUnavailable):
            open_store(f"sqlite:///{path}").counts()
        assert worker.stop() == 0


def test_a_service_does_not_start_on_a_log_without_its_file(path: Path, eye: Store, tmp_path: Path) -> None:
    """SQLite would remove the log, and with it what was acknowledged last."""
    enqueue(eye, [handlers.short.prepare(20)])
    log = Path(f"{path}-wal").read_bytes()
    path.unlink()
    with Worker(f"sqlite:///{path}", tmp_path, **SETTINGS) as worker:
        assert worker.process.wait(20) == 78
        assert any("-wal" in line["message"] for line in worker.lines())
    assert Path(f"{path}-wal").read_bytes() == log
    assert not path.exists()
