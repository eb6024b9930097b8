"""A process that may open no more files goes on as well as it can, waits without spinning, and recovers by itself."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shiftboss import commands
from shiftboss.model import TaskState
from shiftboss.store.open import open_store
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, until

BUSY_SHARE = 0.5  # of a core; one that spins takes all of it


@contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
    try:
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def all_completed(worker: Worker, url: str, count: int) -> None:
    store = open_store(url)
    until("all completed", lambda: store.status_counts() == {("short", TaskState.COMPLETED): count})
    store.close()
    assert worker.stop() == 0


def test_a_supervisor_that_cannot_start_a_successor_tries_until_it_can(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    with Worker(url, tmp_path, executors=1) as worker:
        worker.ready()
        pid = worker.process.pid
        with without_descriptors(pid):
            store = open_store(url)
            enqueue(store, [handlers.short.prepare(1) for _ in range(50)])
            store.close()
            for name in ("executor-1", "claimer", "leader"):
                worker.kill(name)
            began_s = cpu_s(pid)
            threading.Event().wait(2.0)
            assert worker.process.poll() is None
            assert cpu_s(pid) - began_s < 2.0 * BUSY_SHARE
        all_completed(worker, url, 50)


def test_a_supervisor_without_descriptors_for_a_link_makes_it_when_it_has_some(tmp_path: Path) -> None:
    """A successor is linked when it is ready, long after it was started: descriptors may be gone by then."""
    url = f"sqlite:///{tmp_path}/x.db"
    with Worker(url, tmp_path, executors=1) as worker:
        worker.ready()
        for times in range(2, 12):  # whether the limit comes in time is for the machine to say
            asking = threading.Thread(target=worker.ask, args=(commands.Restart(),))
            asking.start()
            until("its successor starts", lambda times=times: len(executors_starting(worker)) == times)
            with without_descriptors(worker.process.pid):
                threading.Event().wait(1.5)
                assert worker.process.poll() is None
            asking.join(30)
            if worker.lines("actor.unlinked"):
                break
        assert worker.lines("actor.unlinked"), "every successor was linked before the limit was there"
        all_completed(worker, _with_one(url), 1)


def executors_starting(worker: Worker) -> list[object]:
    return [line for line in worker.lines("actor.starting") if line["fields"]["actor"].startswith("executor")]


@pytest.mark.parametrize("who", ["supervisor", "gateway"])
def test_who_cannot_accept_a_connection_does_not_spin_and_answers_later(who: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    with Worker(url, tmp_path) as worker:
        worker.ready()
        pid = worker.process.pid if who == "supervisor" else worker.actors()["gateway"]
        assert worker.get("/health")[0] == 200
        with without_descriptors(pid):
            callers = [_call(worker, who) for _ in range(8)]
            began_s = cpu_s(pid)
            threading.Event().wait(2.0)
            assert cpu_s(pid) - began_s < 2.0 * BUSY_SHARE, f"the {who} spins"
            assert worker.process.poll() is None
        for caller in callers:
            caller.close()
        assert worker.status().phase == "ready"
        until("healthy", lambda: worker.get("/health")[0] == 200, 10)
        all_completed(worker, _with_one(url), 1)


def _with_one(url: str) -> str:
    store = open_store(url)
    enqueue(store, [handlers.short.prepare(1)])
    store.close()
    return url


def _call(worker: Worker, who: str) -> socket.socket:
    if who == "supervisor":
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(worker.settings.control_socket)
        return caller
    port = int(worker.lines("gateway.listening")[-1]["fields"]["url"].rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), 5)
