"""A queue full of tasks, and one service that empties it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from bench import proc
from bench.handlers import noop
from bench.meter import Cost, Meter
from bench.service import Service, Settings, wait_until
from bench.stats import Spread, middle, spread
from bench.target import NewTarget, Target, store_of, unix_s
from shiftboss import Client
from shiftboss.bound import Prepared

NO_HISTORY: Final[Mapping[str, str]] = {"SHIFTBOSS_COMPLETED_RETENTION": "0s"}

_LOOK_EVERY_S: Final = 0.05
_SETTLE_S: Final = 1.0  # processes have something to do after their start
_PATIENCE_S: Final = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run does. `ideal_per_second`: what the slots allow when tasks take time; 0: nothing limits but the queue.

    `queues`: those that `prepare` uses. `workers`: how many services share the work.
    """

    tasks: int
    prepare: Callable[[int], Prepared[Any]] = lambda _number: noop.prepare()
    settings: Settings = field(default_factory=dict)
    ideal_per_second: float = 0.0
    queues: Sequence[str] = ("default",)
    workers: int = 1


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `enqueue_s`: how long storing the tasks took, in bulk. Memory is looked at as soon as the last task has ended."""

    tasks: int
    per_second: float
    enqueue_s: float
    ready_s: float
    stop_s: float
    pss_kib: dict[str, int]
    cost: Cost


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """Several runs of one load. Costs are those of the median run; CPU in microseconds a task, by role."""

    tasks: int
    per_second: Spread
    ideal_per_second: float
    enqueued_per_second: Spread
    others_cores: Spread
    cpu_us: Spread
    server_cpu_us: Spread
    cpu_us_per_task: dict[str, float]
    wal_bytes_per_task: float | None
    commits_per_task: float | None
    pss_kib: dict[str, int]


def in_turns(loads: Mapping[str, Load], new_targets: Mapping[str, NewTarget] | NewTarget, runs: int) -> dict[str, Drain]:
    """Every load once, then every load again: a slow minute of the machine hits them all. A target by load, or one for all."""
    done: dict[str, list[Run]] = {name: [] for name in loads}
    for _ in range(runs):
        for name, load in loads.items():
            done[name].append(run_fresh(new_targets[name] if isinstance(new_targets, Mapping) else new_targets, load))
    return {name: summary(done[name], loads[name].ideal_per_second) for name in loads}


def run_fresh(new_target: NewTarget, load: Load) -> Run:
    """One run on a fresh database with a fresh service."""
    target = new_target()
    try:
        return run(target, load)
    finally:
        target.close()


def run(target: Target, load: Load, watch: contextlib.AbstractContextManager[object] | None = None) -> Run:
    """Fill the queue, start the service with the queue paused, then let it go: no boot of a process in the figures.

    `watch`: a block that is open while the queue empties.

    Raises:
        AssertionError: a task did not end, or did not end with its first attempt.
    """
    return run_apart([target], load, watch)


def run_apart(targets: Sequence[Target], load: Load, watch: contextlib.AbstractContextManager[object] | None = None) -> Run:
    """`run` with the tasks and the workers shared out over several databases of one server."""
    share, rest = divmod(load.tasks, len(targets))
    assert not rest, "each has as many"
    stored = [_enqueued(target, load, share) for target in targets]
    ids = [some for some, _ in stored]
    with contextlib.ExitStack() as stack:
        operators = [stack.enter_context(store_of(target)) for target in targets]
        for queue in load.queues:
            for operator in operators:
                operator.set_queue(queue, paused=True)
        places = [targets[number % len(targets)] for number in range(load.workers)]
        services = [stack.enter_context(Service(place.url, place.folder, load.settings)) for place in places]
        wait_until(time.monotonic() + _SETTLE_S)
        processes = {pid: role for service in services for pid, role in service.processes().items()}
        meter = Meter(targets[0], processes)
        released_s = time.time()
        for target, operator in zip(targets, operators, strict=True):
            target.change("release")  # all at once; the one below is released already, but says so to who sleeps
            operator.set_queue(load.queues[0], paused=False)
        with watch or contextlib.nullcontext():
            for target, some in zip(targets, ids, strict=True):
                _wait_until_empty(target, some, _longest_s(load))
        cost = meter.stop()
        pss_kib = proc.pss_by_role(processes)
    release_s = released_s if NO_HISTORY.items() <= load.settings.items() else None
    spans = [span_of(target, some, release_s) for target, some in zip(targets, ids, strict=True)]
    seconds = max(end for _, end in spans) - min(start for start, _ in spans)
    return Run(
        tasks=load.tasks,
        per_second=load.tasks / seconds,
        enqueue_s=sum(seconds for _, seconds in stored),
        ready_s=services[0].ready_s,
        stop_s=services[0].stop_s,
        pss_kib=pss_kib,
        cost=cost,
    )


def _enqueued(target: Target, load: Load, count: int) -> tuple[list[str], float]:
    """Their ids, and how many seconds it took."""
    with Client(target.url) as client:
        began_s = time.perf_counter()
        ids = [handle.id for handle in client.enqueue_many(load.prepare(number) for number in range(count))]
        return ids, time.perf_counter() - began_s


def span_of(target: Target, ids: Sequence[str], released_s: float | None = None) -> tuple[float, float]:
    """When the first of these tasks started, and when the last was stored, in Unix seconds.

    Args:
        released_s: for a service without a history, which keeps no starts: when the queue was released, in Unix seconds.

    Raises:
        AssertionError: not each of them has ended once, with success and with its first attempt.
    """
    query = "span" if released_s is None else "span_without_history"
    ((count, attempts, started, finished),) = target.rows(query, first=min(ids), last=max(ids))
    if (count, attempts) != (len(ids), len(ids)):
        raise AssertionError(f"{len(ids)} tasks went in, {count} came out, after {attempts} attempts")
    return unix_s(started) if released_s is None else released_s, unix_s(finished)


def summary(runs: Sequence[Run], ideal_per_second: float = 0.0) -> Drain:
    """Medians and spreads of at least one run."""
    one = runs[middle([run.per_second for run in runs])]
    return Drain(
        tasks=one.tasks,
        per_second=spread([run.per_second for run in runs]),
        ideal_per_second=ideal_per_second,
        enqueued_per_second=spread([run.tasks / run.enqueue_s for run in runs]),
        others_cores=spread([run.cost.others_cores for run in runs]),
        cpu_us=spread([(run.cost.service_cpu_s + run.cost.server_cpu_s) / run.tasks * 1e6 for run in runs]),
        server_cpu_us=spread([run.cost.server_cpu_s / run.tasks * 1e6 for run in runs]),
        cpu_us_per_task={role: used_s / one.tasks * 1e6 for role, used_s in one.cost.cpu_s.items()},
        wal_bytes_per_task=None if one.cost.wal_bytes is None else one.cost.wal_bytes / one.tasks,
        commits_per_task=None if one.cost.commits is None else one.cost.commits / one.tasks,
        pss_kib=one.pss_kib,
    )


def _longest_s(load: Load) -> float:
    return _PATIENCE_S + (load.tasks / load.ideal_per_second if load.ideal_per_second else 0.0)


def _wait_until_empty(target: Target, ids: Sequence[str], longest_s: float) -> None:
    """Look at the last task by its key first: a look at all of them is not free."""
    deadline_s = time.monotonic() + longest_s
    first, last = min(ids), max(ids)
    for query, params in (("is_there", {"id": last}), ("any_left", {"first": first, "last": last})):
        while bool(target.rows(query, **params)[0][0]):
            if time.monotonic() > deadline_s:
                raise AssertionError(f"the queue is not empty after {longest_s:g} s")
            wait_until(time.monotonic() + _LOOK_EVERY_S)
