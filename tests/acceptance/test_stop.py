"""TERM, INT and QUIT: bounded, with what runs finished or handed back, and nothing left behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import Store
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, is_running, until

pytestmark = pytest.mark.long("sqlite")  # on the other one every day


def test_an_idle_worker_stops_within_a_second(database_url: str, tmp_path: Path) -> None:
    took_s = []
    for number in range(3):  # the best counts: other tests share the machine
        with Worker(database_url, tmp_path, f"worker-{number}") as worker:
            worker.ready()
            began_s = time.monotonic()
            assert worker.stop() == 0
            took_s.append(time.monotonic() - began_s)
    assert min(took_s) < 1.0, took_s


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_and_what_waits_is_given_back(
    number: signal.Signals, database_url: str, store: Store, tmp_path: Path
) -> None:
    with Worker(database_url, tmp_path, worker_pool_size=2, executors=1) as worker:
        worker.ready()
        ids = enqueue(store, [handlers.long.prepare(2.0) for _ in range(6)])
        until("two started", lambda: len(worker.starts()) == 2)
        assert worker.stop(number) == 0
        assert len(worker.ends()) == 2
        assert len(worker.starts()) == 2
    views = [store.get(one) for one in ids]
    assert sorted(view.status.value for view in views if view) == ["completed"] * 2 + ["pending"] * 4
    assert all(view.attempts == 0 for view in views if view and view.status is TaskState.PENDING)
    assert store.workers() == []


def test_what_outlasts_the_timeout_is_handed_back_without_losing_its_attempt(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    with Worker(database_url, tmp_path, shutdown_timeout_s=0.5, cancel_grace_s=0.5) as worker:
        worker.ready()
        ids = enqueue(store, [handlers.long.prepare(60), handlers.long_async.prepare(60)])
        until("both started", lambda: len(worker.starts()) == 2)
        enqueue(store, [handlers.stuck.prepare()])  # not before: it lets nobody else of its process begin
        until("stuck", lambda: len(worker.starts()) == 3)
        began_s = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began_s < 0.5 + 0.5 + 2.0
    for one in ids[:2]:
        view = store.get(one)
        assert view is not None
        assert (view.status, view.attempts) == (TaskState.PENDING, 0)
        assert [attempt.outcome for attempt in store.attempts(one)] == [Outcome.INTERRUPTED]


def test_quit_cancels_at_once(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, cancel_grace_s=1.0) as worker:
        worker.ready()
        ids = enqueue(store, [handlers.long_async.prepare(60), handlers.polite.prepare()])
        until("started", lambda: len(worker.starts()) == 2)
        began_s = time.monotonic()
        assert worker.stop(signal.SIGQUIT) == 0
        assert time.monotonic() - began_s < 3.0
    assert [(store.get(one) or worker).status for one in ids] == [TaskState.PENDING] * 2


def test_quit_ends_a_drain(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, shutdown_timeout_s=60.0, cancel_grace_s=0.5) as worker:
        worker.ready()
        enqueue(store, [handlers.long.prepare(60)])
        until("started", lambda: len(worker.starts()) == 1)
        worker.process.send_signal(signal.SIGTERM)
        until("stopping", lambda: worker.lines("service.stopping"))
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGQUIT)
        assert worker.process.wait(5.0) == 0


def test_polite_tasks_see_the_stop_and_end_by_themselves(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, shutdown_timeout_s=30.0) as worker:
        worker.ready()
        (one,) = enqueue(store, [handlers.polite.prepare()])
        until("started", lambda: len(worker.starts()) == 1)
        began_s = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began_s < 3.0
    view = store.get(one)
    assert view is not None
    assert (view.status, view.attempts) == (TaskState.PENDING, 0)


def test_grandchildren_go_with_the_worker(database_url: str, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        enqueue(store, [handlers.grandchild.prepare(str(file))])
        pid = int(until("grandchild", lambda: file.exists() and file.read_text()))
        assert is_running(pid)
        assert worker.stop() == 0
        until("grandchild gone", lambda: not is_running(pid), 2.0)


def test_grandchildren_go_with_a_killed_supervisor(database_url: str, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        enqueue(store, [handlers.grandchild.prepare(str(file))])
        pid = int(until("grandchild", lambda: file.exists() and file.read_text()))
        enqueue(store, [handlers.stuck.using(timeout=60).prepare()])  # not before: it lets nobody else of its process begin
        until("stuck", lambda: worker.starts())
        worker.process.kill()
        until("grandchild gone", lambda: not is_running(pid), 1.0)


def test_nothing_outlives_a_killed_supervisor(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        enqueue(store, [handlers.long.prepare(60)])
        until("started", lambda: len(worker.starts()) == 1)
        enqueue(store, [handlers.stuck.prepare()])
        until("stuck", lambda: len(worker.starts()) == 2)
        worker.process.kill()
        worker.process.wait()
        until("all processes gone", lambda: not worker.left_over(), 2.0)


@pytest.mark.parametrize("after_ms", [0, 50, 150, 250, 350, 450, 600])
def test_a_stop_during_the_start_is_obeyed(after_ms: int, tmp_path: Path) -> None:
    with Worker(f"sqlite:///{tmp_path}/shiftboss.db", tmp_path) as worker:
        until("its log", lambda: worker.log_file.stat().st_size)  # before, Python itself is starting
        handlers.pause(after_ms / 1000)
        assert worker.stop(timeout_s=5.0) == 0
