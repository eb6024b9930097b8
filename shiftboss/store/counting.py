"""What stored outcomes add to a worker's counters: pure, and the same for both databases.

A store calls `outcome_counters` inside the transaction that stored the outcomes, for those that were applied, and adds
the result to `counters` before it commits. So the counters are as true as the rows, whoever is killed when.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import CounterDelta

DURATION_BUCKETS_S: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
CLAIM_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ENDED_BY_ITSELF: Final = frozenset({Outcome.SUCCESS, Outcome.FAILED, Outcome.TIMEOUT, Outcome.CRASHED})


class Applied(NamedTuple):
    """One stored outcome: the task's type, the number of the attempt that ended, how, where the task went, how long it ran."""

    type: str
    attempt: int
    outcome: Outcome
    state: TaskState
    duration_s: float


def labels(**values: str) -> str:
    """Label values as the JSON text that `counters` is keyed by."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def bucket_of(duration_s: float, buckets: tuple[float, ...] = DURATION_BUCKETS_S) -> str:
    """The upper bound (`le`) of the bucket that `duration_s` falls in."""
    return _bound(bisect_left(buckets, duration_s), buckets)


def _bound(index: int, buckets: tuple[float, ...] = DURATION_BUCKETS_S) -> str:
    return str(buckets[index]) if index < len(buckets) else "+Inf"


def outcome_counters(applied: Iterable[Applied]) -> list[CounterDelta]:
    """Counter increments for outcomes that were applied; histogram buckets are not cumulative here.

    `tasks_completed_total{type,status}` counts attempts that ended by themselves: success, or failed (error, timeout, crash).
    Interrupted, snoozed and cancelled attempts are neither.
    """
    # Most of a batch is alike, so the names and labels are made once for each kind: a tenth of the time.
    alike: defaultdict[tuple[str, int, Outcome, TaskState, int], list[float]] = defaultdict(list)
    for type_, attempt, outcome, state, duration_s in applied:
        alike[type_, attempt, outcome, state, bisect_left(DURATION_BUCKETS_S, duration_s)].append(duration_s)
    totals: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
    seconds: dict[str, float] = {}
    for (type_, attempt, outcome, state, bucket), durations in alike.items():
        if outcome in _ENDED_BY_ITSELF:
            status = "success" if outcome is Outcome.SUCCESS else "failed"
            totals["tasks_completed_total", (("status", status), ("type", type_))] += len(durations)
            totals["task_duration_seconds_bucket", (("le", _bound(bucket)), ("type", type_))] += len(durations)
            seconds[type_] = seconds.get(type_, 0.0) + sum(durations)
            if state is TaskState.PENDING:
                totals["task_retries_total", (("attempt", str(attempt)), ("type", type_))] += len(durations)
        if state is TaskState.DEAD_LETTER:
            totals["tasks_dead_letter_total", (("type", type_),)] += len(durations)
    counts = [_delta(name, dict(values), float(n)) for (name, values), n in totals.items()]
    return counts + [_delta("task_duration_seconds_sum", {"type": type_}, total) for type_, total in seconds.items()]


def _delta(name: str, values: Mapping[str, str], value: float) -> CounterDelta:
    return CounterDelta(name=name, labels=labels(**values), value=value)
