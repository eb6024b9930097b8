"""Tasks in lanes, in memory and in virtual time: the other side of the claimer's planning."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Final

import msgspec

from shiftboss.model import Claim
from shiftboss.store.base import ClaimAsk, Lane, LaneAsk

SLOTS: Final = 6
QUEUES: Final = ("free", "one", "three")
LIMITS: Final = {"free": None, "one": 1, "three": 3}


class VirtualTime:
    """Stands where the module `time` stood."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@dataclass(frozen=True, slots=True)
class Task:
    """One pending task; `known`: a type that this worker can run."""

    due_s: float
    number: int
    queue: str
    priority: int
    known: bool


class Lanes:
    """What a store would know, for one worker with `SLOTS` slots."""

    def __init__(self, rng: random.Random, virtual: VirtualTime) -> None:
        self.rng, self._virtual = rng, virtual
        self._tells = rng.random() < 0.7  # one database looks for what is due first in a lane, the other does not
        self._numbers = count(1)
        self._pending: list[Task] = []
        self._running: list[Task] = []

    @property
    def held(self) -> Counter[str]:
        return Counter(task.queue for task in self._running)

    @property
    def room(self) -> int:
        return SLOTS - len(self._running)

    def left(self) -> list[Task]:
        """Those that should have been claimed."""
        return [task for task in self._pending if task.known]

    def arrive(self) -> bool:
        """Some tasks, or none, come; whether a bell is heard."""
        rng = self.rng
        coming = rng.choice([0, 0, 1, 3])
        for _ in range(coming):
            later_s = rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 3)])
            queue, known = rng.choice(QUEUES), rng.random() < 0.85
            self._pending.append(Task(self._virtual.now_s + later_s, next(self._numbers), queue, rng.randint(0, 2), known))
        return coming > 0 and rng.random() < 0.8

    def finish(self, everything: bool = False) -> set[str]:
        """Some of what runs ends, or comes back with its old due time, as what a dead worker held; the queues that it leaves."""
        ended = [task for task in self._running if everything or self.rng.random() < 0.3]
        self._running = [task for task in self._running if task not in ended]
        self._pending += [task for task in ended if not everything and self.rng.random() < 0.2]
        return {task.queue for task in ended}

    def lanes(self, queues: Sequence[str] | None = None) -> list[Lane]:
        """See `Store.lanes`."""
        first: dict[tuple[int, str], float] = {}
        for task in self._pending:
            key = -task.priority, task.queue
            first[key] = min(task.due_s, first.get(key, task.due_s))
        return [
            Lane(
                queue=queue, priority=-negative, concurrency=LIMITS[queue], due_at=first[negative, queue] if self._tells else -inf
            )
            for negative, queue in sorted(first)
        ]

    def claim(self, ask: ClaimAsk) -> list[Claim]:
        """See `ClaimAsk`; checks every limit."""
        chosen: list[Task] = []
        for lane in ask.lanes:
            left = ask.limit if ask.merge else ask.limit - len(chosen)
            chosen += self._due(lane, ask.merge == "lifo")[: min(left, lane.limit)]
        if ask.merge:
            chosen.sort(key=lambda task: (task.due_s, task.number), reverse=ask.merge == "lifo")
        chosen = chosen[: ask.limit]
        self._pending = [task for task in self._pending if task not in chosen]
        self._running += chosen
        assert len(self._running) <= SLOTS, "more than there are slots"
        for queue, limit in LIMITS.items():
            assert limit is None or self.held[queue] <= limit, f"{queue} runs more than {limit}"
        return [_claim(task) for task in chosen]

    def _due(self, lane: LaneAsk, newest: bool) -> list[Task]:
        since = 0.0 if lane.since is None else lane.since
        found = [
            task
            for task in self._pending
            if task.queue == lane.queue
            and task.priority == lane.priority
            and task.known
            and since <= task.due_s <= self._virtual.now_s
        ]
        return sorted(found, key=lambda task: (task.due_s, task.number), reverse=newest)


def _claim(task: Task) -> Claim:
    return Claim(
        task_id=str(task.number),
        fence=1,
        attempt=1,
        type="t",
        queue=task.queue,
        priority=task.priority,
        args=msgspec.Raw(b"{}"),
        max_attempts=1,
        timeout_s=None,
        running=True,
        enqueued_at=task.due_s,
        due_at=task.due_s,
    )
