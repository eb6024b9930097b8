"""How long claims took, for a histogram: gathered here, stored once a second with a round that goes anyway."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from shiftboss.store.base import CounterDelta
from shiftboss.store.counting import CLAIM_BUCKETS_S, bucket_of, labels

STORED_EVERY_S: Final = 1.0


class ClaimTimes:
    """Times since they were last stored."""

    def __init__(self) -> None:
        self._buckets: Counter[str] = Counter()
        self._sum_s = 0.0
        self._sent: Counter[str] = Counter()
        self._sent_s = 0.0
        self._due_s = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[bucket_of(seconds, CLAIM_BUCKETS_S)] += 1
        self._sum_s += seconds

    def due(self) -> list[CounterDelta]:
        """What to store with the next round; empty when it is too early."""
        if not (self._buckets or self._sent) or time.monotonic() < self._due_s:
            return []
        self._sent.update(self._buckets)  # on top of what was not stored the last time
        self._sent_s += self._sum_s
        self._buckets.clear()
        self._sum_s = 0.0
        deltas = [
            CounterDelta(name="task_claim_duration_seconds_bucket", labels=labels(le=le), value=float(count))
            for le, count in self._sent.items()
        ]
        return [*deltas, CounterDelta(name="task_claim_duration_seconds_sum", labels=labels(), value=self._sent_s)]

    def stored(self) -> None:
        """What `due` gave is in the database."""
        self._sent.clear()
        self._sent_s = 0.0
        self._due_s = time.monotonic() + STORED_EVERY_S
