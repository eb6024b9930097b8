"""Reload after reload under a steady stream of tasks: nothing fails, nothing is lost, capacity never drops, nothing grows.

`SHIFTBOSS_RELOADS=100` for the long run; every run has a few.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from shiftboss.model import TaskState
from shiftboss.store.base import Store
from shiftboss.store.open import open_store
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, until

pytestmark = pytest.mark.timeout(600)
RELOADS = int(os.environ.get("SHIFTBOSS_RELOADS", "5"))
EXECUTORS = 2
EVERY_S = 0.02
LONG_RUN = RELOADS >= 100
CALM_S = 20.0 if LONG_RUN else 2.0


class Stream:
    """One task every 20 ms, from a thread of its own."""

    def __init__(self, database_url: str) -> None:
        self.ids: list[str] = []
        self._url, self._end = database_url, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        store = open_store(self._url, application_name="stream")
        while not self._end.wait(EVERY_S):
            self.ids += enqueue(store, [handlers.timed.prepare(time.monotonic())])
        store.close()

    def stop(self) -> list[str]:
        self._end.set()
        self._thread.join()
        return self.ids


def p99(late_s: list[float]) -> float:
    return sorted(late_s)[int(len(late_s) * 0.99)]


def lateness(worker: Worker) -> dict[str, float]:
    """Task -> seconds from enqueue to start."""
    words = (line.split() for line in worker.ledger.read_text().splitlines())
    return {one[1]: float(one[2]) for one in words if one[0] == "T"}


def run_stream(worker: Worker, url: str, work: Callable[[], object]) -> list[float]:
    """Latencies of the tasks that came while `work` was done; each must have run, once."""
    stream = Stream(url)
    try:
        work()
    finally:
        ids = stream.stop()
    until("all started", lambda: set(ids) <= lateness(worker).keys())
    found = lateness(worker)
    return [found[one] for one in ids]


def lowest_in_service(worker: Worker) -> int:
    """The fewest executors in service at any time between the service's ready and its stop."""
    in_service: set[tuple[str, int]] = set()
    lowest: int | None = None
    for line in worker.lines():
        fields, event = line.get("fields", {}), line["event"]
        if event == "service.stopping":
            break
        if str(fields.get("actor", "")).startswith("executor-"):
            one = (fields["actor"], fields.get("incarnation", 0))
            if event == "actor.ready":
                in_service.add(one)
            elif event in ("actor.retiring", "actor.crashed", "actor.stopped", "actor.killed"):
                in_service.discard(one)
        if event == "service.ready" or lowest is not None:
            lowest = min(len(in_service), len(in_service) if lowest is None else lowest)
    assert lowest is not None
    return lowest


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def private_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("Private_Clean", "Private_Dirty")))


@pytest.mark.long("postgres")
def test_reloads_under_load_cost_nothing(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, executors=EXECUTORS, worker_pool_size=4, claim_interval_s=0.2) as worker:
        worker.ready()
        until("the leader leads, and has its connection", lambda: bool(worker.lines("leader.elected")))
        lasting = {"supervisor": worker.process.pid, **{n: p for n, p in worker.actors().items() if "executor" not in n}}
        assert worker.reload().ok  # what is only made at the first one
        until("its old executors are gone", lambda: len(worker.status().actors) == 4 + EXECUTORS)
        fds_before = {name: fds(pid) for name, pid in lasting.items()}
        kib_before = {name: private_kib(pid) for name, pid in lasting.items()}

        calm = run_stream(worker, database_url, lambda: threading.Event().wait(CALM_S))

        def reloads() -> None:
            for number in range(RELOADS):
                done = worker.reload(claim_interval_s=0.2 + number / 1000)
                assert done.ok, done.text

        busy = run_stream(worker, database_url, reloads)
        until("the last old executors are gone", lambda: len(worker.status().actors) == 4 + EXECUTORS)
        assert {n: p for n, p in worker.actors().items() if "executor" not in n} == {
            n: p for n, p in lasting.items() if n != "supervisor"
        }, "an actor was replaced"
        print(f"\np99 {p99(calm) * 1e3:.1f} ms calm, {p99(busy) * 1e3:.1f} ms reloading; {len(busy)} tasks, {RELOADS} reloads")
        for name, pid in lasting.items():
            print(f"{name}: fds {fds_before[name]} -> {fds(pid)}, private {kib_before[name]} -> {private_kib(pid)} KiB")
        if LONG_RUN:  # with a few hundred tasks the 99th percentile is the luck of two of them
            assert p99(busy) <= 3 * p99(calm)
        until("their descriptors are closed", lambda: all(fds(pid) <= fds_before[name] for name, pid in lasting.items()), 5.0)
        assert all(private_kib(pid) < kib_before[name] + 4096 for name, pid in lasting.items())
        assert worker.stop() == 0
    assert lowest_in_service(worker) == EXECUTORS
    states = Counter((view.status, view.attempts) for view in map(store.get, lateness(worker)) if view)
    assert states == {(TaskState.COMPLETED, 1): len(lateness(worker))}
    assert not [line for line in worker.lines() if line["level"] in ("error", "critical")]
