"""How fast a full queue empties, and what it costs."""

from __future__ import annotations

import os
import time
from typing import Any, Final

import msgspec

from bench import proc
from bench.handlers import noop, noop_async
from bench.service import Service, wait_until
from bench.stats import Spread, spread
from bench.target import NewTarget, Target, store_of, unix_s
from shiftboss import Client, Task

_LOOK_EVERY_S: Final = 0.05
_SETTLE_S: Final = 1.0  # processes have something to do after their start
_BENCH: Final = "bench"
_PATIENCE_S: Final = 120.0
_KINDS: Final[dict[str, Task[[], None]]] = {"sync": noop, "async": noop_async}


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of task, several runs. CPU is that of the median run, in microseconds a task, by role.

    `others_cores`: how many cores other programs kept busy meanwhile; a drain that had to share them says little.
    """

    tasks: int
    per_second: Spread
    others_cores: Spread
    cpu_us_per_task: dict[str, float]


class _Run(msgspec.Struct, frozen=True):
    per_second: float
    others_cores: float
    cpu_us_per_task: dict[str, float]


def measure(new_target: NewTarget, tasks: int, runs: int) -> dict[str, Drain]:
    """Sync and async no-op tasks, each run on a fresh database with a fresh service."""
    return {
        kind: _drain([_run_fresh(new_target, handler, tasks) for _ in range(runs)], tasks) for kind, handler in _KINDS.items()
    }


def _drain(runs: list[_Run], tasks: int) -> Drain:
    middle = sorted(runs, key=lambda run: run.per_second)[(len(runs) - 1) // 2]
    return Drain(
        tasks=tasks,
        per_second=spread([run.per_second for run in runs]),
        others_cores=spread([run.others_cores for run in runs]),
        cpu_us_per_task=middle.cpu_us_per_task,
    )


def _run_fresh(new_target: NewTarget, handler: Task[[], None], tasks: int) -> _Run:
    target = new_target()
    try:
        return _run(target, handler, tasks)
    finally:
        target.close()


def _run(target: Target, handler: Task[[], None], tasks: int) -> _Run:
    """Fill the queue, start the service with the queue paused, then let it go: no boot of a process in the figures."""
    with Client(target.url) as client:
        ids = [handle.id for handle in client.enqueue_many(handler.prepare() for _ in range(tasks))]
    with store_of(target) as store:
        store.set_queue("default", paused=True)
        with Service(target.url, target.folder) as service:
            wait_until(time.monotonic() + _SETTLE_S)
            watch = _Watch(service.processes() | target.server_processes())
            store.set_queue("default", paused=False)
            _wait_until_empty(target, max(ids))
            cpu_s, others_cores = watch.stop()
    ((count, started, finished),) = target.rows("span", first=min(ids), last=max(ids))
    if count != tasks:
        raise AssertionError(f"{tasks} tasks went in, {count} came out")
    seconds = unix_s(finished) - unix_s(started)
    return _Run(tasks / seconds, others_cores, {role: used_s / tasks * 1e6 for role, used_s in cpu_s.items()})


class _Watch:
    """The CPU time of some processes, and of all others together, from now on."""

    def __init__(self, processes: dict[int, str]) -> None:
        self._processes = processes | {os.getpid(): _BENCH}
        self._began_s, self._machine_s = time.monotonic(), proc.machine_cpu_s()
        self._before = proc.cpu_by_role(self._processes)

    def stop(self) -> tuple[dict[str, float], float]:
        """CPU seconds by role, and how many cores everybody else kept busy on average."""
        after = proc.cpu_by_role(self._processes)
        machine_s, took_s = proc.machine_cpu_s() - self._machine_s, time.monotonic() - self._began_s
        used_s = {role: after[role] - before_s for role, before_s in self._before.items()}
        others_cores = max(0.0, machine_s - sum(used_s.values())) / took_s
        del used_s[_BENCH]
        return used_s, others_cores


def _wait_until_empty(target: Target, last: str) -> None:
    """Look at the last task by its key first: a look at the whole table is not free."""
    deadline_s = time.monotonic() + _PATIENCE_S
    for query, params in (("is_there", {"id": last}), ("any_left", {})):
        while _says(target, query, params):
            if time.monotonic() > deadline_s:
                raise AssertionError(f"the queue is not empty after {_PATIENCE_S:g} s")
            wait_until(time.monotonic() + _LOOK_EVERY_S)


def _says(target: Target, query: str, params: dict[str, Any]) -> bool:
    return bool(target.rows(query, **params)[0][0])
