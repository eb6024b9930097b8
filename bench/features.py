"""What the features on the hot path cost: the same drain with and without each, in turns."""

from __future__ import annotations

from typing import Final

import msgspec

from bench.handlers import answer, noop
from bench.load import Drain, Load, in_turns
from bench.stats import Spread, ratio
from bench.target import NewTarget

_PLAIN: Final = "nothing extra"


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """By the plain run beside it: rate of the drain, CPU of all processes a task, rate of the bulk enqueue."""

    drain: Drain
    rate: Spread
    cpu: Spread
    enqueue_rate: Spread


def measure(new_target: NewTarget, tasks: int, runs: int) -> dict[str, Feature]:
    """Each feature by itself, on no-op tasks, which makes its share as large as it can be."""
    done = in_turns(_loads(tasks), new_target, runs)
    return {name: _compared(drain, done[_PLAIN]) for name, drain in done.items()}


def _loads(tasks: int) -> dict[str, Load]:
    return {
        _PLAIN: Load(tasks=tasks),
        "unique keys": Load(tasks=tasks, prepare=lambda number: noop.using(unique=f"account:{number}").prepare()),
        "stored results": Load(tasks=tasks, prepare=lambda _number: answer.prepare()),
        "a timeout": Load(tasks=tasks, prepare=lambda _number: noop.using(timeout=30).prepare()),
        "tags and meta": Load(
            tasks=tasks, prepare=lambda number: noop.using(tags=["bench"], meta={"request": f"r-{number}"}).prepare()
        ),
        "a queue's limit": Load(tasks=tasks, settings={"SHIFTBOSS_QUEUES": "{default = {concurrency = 10}}"}),
        "fifo over all lanes": Load(tasks=tasks, settings={"SHIFTBOSS_CLAIM_STRATEGY": "fifo"}),
    }


def _compared(drain: Drain, plain: Drain) -> Feature:
    return Feature(
        drain=drain,
        rate=ratio(drain.per_second.runs, plain.per_second.runs),
        cpu=ratio(drain.cpu_us.runs, plain.cpu_us.runs),
        enqueue_rate=ratio(drain.enqueued_per_second.runs, plain.enqueued_per_second.runs),
    )
