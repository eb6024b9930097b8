"""How fast a full queue empties, what it costs, and what the same statements reach in a bare loop next to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from bench import raw
from bench.handlers import noop_async, wait, wait_async
from bench.load import NO_HISTORY, Drain, Load, Run, in_turns, run_fresh, summary
from bench.stats import Spread, ratio, spread
from bench.target import NewTarget
from shiftboss import Task

TUNED: Final[Mapping[str, str]] = {"WORKER_POOL_SIZE": "100"}
TUNED_POSTGRES: Final[Mapping[str, str]] = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
"""The tuned configuration: of the service, and of the server. Nothing in it makes a commit less durable."""

_TASK_S: Final = (0.001, 0.05)
_POOLS: Final = (10, 100)
_TUNED: Final = "sync, tuned"
_MOST_TASKS: Final = 20_000


class Drains(msgspec.Struct, frozen=True, kw_only=True):
    """No-op tasks. `raw`: tasks a second in a bare loop, by batch; the shares are ours by the largest batch's, run by run."""

    loads: dict[str, Drain]
    raw: dict[str, Spread]
    share_of_raw: dict[str, Spread]
    default_of_tuned: Spread | None


def measure(new_target: NewTarget, new_tuned: NewTarget | None, tasks: int, runs: int) -> Drains:
    """In turns: sync, async, sync without a history, sync tuned (unless it is `None`), and the bare loop in its batches."""
    plain = Load(tasks=tasks)
    loads = {
        "sync": plain,
        "async": Load(tasks=tasks, prepare=lambda _number: noop_async.prepare()),
        "sync, no history": Load(tasks=tasks, settings=NO_HISTORY),
    }
    if new_tuned is not None:
        loads[_TUNED] = Load(tasks=tasks, settings=TUNED)
    done: dict[str, list[Run]] = {name: [] for name in loads}
    bare: dict[str, list[float]] = {str(batch): [] for batch in raw.BATCHES}
    for _ in range(runs):
        for name, load in loads.items():
            done[name].append(run_fresh(new_tuned if new_tuned and name == _TUNED else new_target, load))
        for batch in raw.BATCHES:
            bare[str(batch)].append(raw.limit(new_target, tasks, batch))
    rates = {name: [run.per_second for run in runs_of] for name, runs_of in done.items()}
    return Drains(
        loads={name: summary(runs_of) for name, runs_of in done.items()},
        raw={batch: spread(per_second) for batch, per_second in bare.items()},
        share_of_raw={name: ratio(per_second, bare[str(max(raw.BATCHES))]) for name, per_second in rates.items()},
        default_of_tuned=ratio(rates["sync"], rates[_TUNED]) if _TUNED in rates else None,
    )


def measure_busy(new_target: NewTarget, seconds: float, runs: int) -> dict[str, Drain]:
    """Tasks that take time: each load is sized to last about `seconds`, were the queue free and the machine not the limit."""
    loads = {}
    for task_s in _TASK_S:
        for pool in _POOLS:
            for kind, handler in (("sync", wait), ("async", wait_async)):
                loads[f"{task_s * 1e3:g} ms {kind}, {pool} slots"] = _busy(handler, task_s, pool, seconds)
    return in_turns(loads, new_target, runs)


def _busy(handler: Task[[float], None], task_s: float, pool: int, seconds: float) -> Load:
    ideal_per_second = pool / task_s
    return Load(
        tasks=min(_MOST_TASKS, max(pool, round(ideal_per_second * seconds))),
        prepare=lambda _number: handler.prepare(task_s),
        settings={"WORKER_POOL_SIZE": str(pool)},
        ideal_per_second=ideal_per_second,
    )
