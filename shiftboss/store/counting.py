"""What stored outcomes add to a worker's counters: pure, and the same for both databases.

A store calls `outcome_counters` inside the transaction that stored the outcomes, for those that were applied, and adds
the result to `counters` before it commits. So the counters are as true as the rows, whoever is killed when.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
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


class Tally:
    """Counts stored outcomes; `deltas` says what they add to the counters. Histogram buckets are not cumulative here.

    `tasks_completed_total{type,status}` counts attempts that ended by themselves: success, or failed (error, timeout, crash).
    Interrupted, snoozed and cancelled attempts are neither.
    """

    def __init__(self) -> None:
        # Most of a batch is alike, so the names and labels are made once for each kind.
        self._alike: defaultdict[tuple[str, int, Outcome, TaskState], list[float]] = defaultdict(list)

    def add(self, one: Applied) -> None:
        """Count one outcome."""
        self._alike[one.type, one.attempt, one.outcome, one.state].append(one.duration_s)

    def add_completed(self, type_: str, durations_s: Sequence[float]) -> None:
        """Count many successes of one type, of whatever attempts."""
        self._alike[type_, 0, Outcome.SUCCESS, TaskState.COMPLETED].extend(durations_s)

    def deltas(self) -> list[CounterDelta]:
        totals: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        seconds: dict[str, float] = {}
        for (type_, attempt, outcome, state), durations in self._alike.items():
            if outcome in _ENDED_BY_ITSELF:
                status = "success" if outcome is Outcome.SUCCESS else "failed"
                totals["tasks_completed_total", (("status", status), ("type", type_))] += len(durations)
                for bucket, n in _buckets(durations):
                    totals["task_duration_seconds_bucket", (("le", bucket), ("type", type_))] += n
                seconds[type_] = seconds.get(type_, 0.0) + sum(durations)
                if state is TaskState.PENDING:
                    totals["task_retries_total", (("attempt", str(attempt)), ("type", type_))] += len(durations)
            if state is TaskState.DEAD_LETTER:
                totals["tasks_dead_letter_total", (("type", type_),)] += len(durations)
        counts = [_delta(name, dict(values), float(n)) for (name, values), n in totals.items()]
        return counts + [_delta("task_duration_seconds_sum", {"type": type_}, total) for type_, total in seconds.items()]


def outcome_counters(applied: Iterable[Applied]) -> list[CounterDelta]:
    """Counter increments for outcomes that were applied; see `Tally`."""
    tally = Tally()
    for one in applied:
        tally.add(one)
    return tally.deltas()


def _buckets(durations: Sequence[float]) -> Iterator[tuple[str, int]]:
    """(bucket, how many) for those that hold any."""
    ordered = sorted(durations)
    start = 0
    for index, bound in enumerate((*DURATION_BUCKETS_S, inf)):
        end = bisect_right(ordered, bound, start)
        if end > start:
            yield _bound(index), end - start
        start = end


def _delta(name: str, values: Mapping[str, str], value: float) -> CounterDelta:
    return CounterDelta(name=name, labels=labels(**values), value=value)
