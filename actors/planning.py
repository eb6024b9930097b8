"""What to claim and for whom: pure decisions of the claimer."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Final

import msgspec

from shiftboss.store.base import Lane, LaneAsk

# Prefetched work should start within this time: enough to hide a round trip to the database, too little to hoard.
PREFETCH_WINDOW_S: Final = 0.25
# What has been claimed goes back only when it would wait for longer than this: the estimate moves between a claim and its
# answer, and to give a task back and claim it again is two more changes of its row.
PATIENCE_WINDOW_S: Final = 1.0
# A lane is read from so long before the last due time seen: an enqueue is seen some milliseconds after its time, and whatever has
# left the lane since then is stepped over by every claim. What comes later than that is found by the next look from the start.
MARK_MARGIN_S: Final = 0.1
LARGE: Final = 100  # tasks that make it worth while to let a round fly
MOST_IN_FLIGHT: Final = 1_000  # tasks of a claim that flies: there is room for another one behind it
_FALLING: Final = 0.3


class Manner(Enum):
    """How the next round is had."""

    NOT_YET = auto()
    HERE = auto()  # at once, everything in one transaction
    FLIES = auto()  # everything in one transaction, in flight
    CLAIM_FLIES = auto()  # the claim alone, in flight; what has ended goes beside it


def round_manner(*, flies: bool, busy: bool, outcomes: int, asked: int, backlog: bool, limited: bool) -> Manner:
    """How to have the next round.

    Args:
        flies: rounds may be had in flight.
        busy: one is under way.
        outcomes: how many attempts have ended.
        asked: how many tasks the round would claim at most.
        backlog: the last claim got all that it asked for. How much the next one gets is not known otherwise; but where many
            have ended many may have come, which should not wait until all that is stored.
        limited: some queue has a concurrency. Then what has ended goes with the claim: it makes room there.
    """
    if flies and asked >= LARGE and (backlog or outcomes >= LARGE):
        return Manner.FLIES if limited else Manner.CLAIM_FLIES
    if outcomes >= LARGE:
        return Manner.FLIES if flies else Manner.HERE
    return Manner.NOT_YET if busy else Manner.HERE


class Typical(msgspec.Struct, frozen=True):
    """How long an attempt takes here, lately. Rises at once and falls slowly: hoarding long tasks is the worse mistake."""

    seconds: float | None = None

    def after(self, mean_s: float) -> Typical:
        """The estimate after a batch of outcomes that took `mean_s` on average."""
        if self.seconds is None or mean_s >= self.seconds:
            return Typical(mean_s)
        return Typical(self.seconds + _FALLING * (mean_s - self.seconds))


def prefetch_depth(slots: int, typical_s: float | None, longest: int, window_s: float = PREFETCH_WINDOW_S) -> int:
    """How many tasks may wait at an executor beyond its slots: what it works off within the window, at most `longest`."""
    if typical_s is None:
        return 0  # nothing is known yet: take what can start now
    return min(longest, int(slots * window_s / max(typical_s, 1e-6)))


def order_lanes(lanes: Sequence[Lane], strategy: str, rng: random.Random) -> list[Lane]:
    """Lanes in the order in which they are to be drained.

    `priority`: larger first, queues of equal priority in random order, so that none starves. `weighted_random`: queues drawn
    without replacement by weight (Efraimidis and Spirakis 2006), larger priority first within each. `fifo` and `lifo` merge
    all lanes, so their order does not matter.
    """
    if strategy == "weighted_random":
        keys = {lane.queue: rng.random() ** (1.0 / max(lane.weight, 1)) for lane in lanes}
        return sorted(lanes, key=lambda lane: (-keys[lane.queue], -lane.priority))
    draw = {lane.queue: rng.random() for lane in lanes}
    return sorted(lanes, key=lambda lane: (-lane.priority, draw[lane.queue]))


def lane_asks(
    lanes: Iterable[Lane], limit: int, held: Mapping[str, int], marks: Mapping[tuple[str, int], float]
) -> list[LaneAsk]:
    """How much to ask of each lane, in the order given.

    A queue with a concurrency is asked for what it has room for, and in its first lane only: nothing is prefetched for it,
    so it can never run more than it may.
    """
    asks: list[LaneAsk] = []
    limited: set[str] = set()
    for lane in lanes:
        room = limit
        if lane.concurrency is not None:
            room = 0 if lane.queue in limited else min(limit, lane.concurrency - held.get(lane.queue, 0))
            limited.add(lane.queue)
        if room > 0:
            since = marks.get((lane.queue, lane.priority))
            asks.append(LaneAsk(queue=lane.queue, priority=lane.priority, limit=room, since=since))
    return asks


def distribute(count: int, free: Sequence[int], room: Sequence[int]) -> list[int]:
    """For each of `count` claims the index of its executor: free slots first, one by one where most are free, then room.

    Args:
        free: free slots of each executor.
        room: all that each executor may take, free slots included. At most `sum(room)` are placed.
    """
    free_left, room_left = [min(pair) for pair in zip(free, room, strict=True)], list(room)
    places: list[int] = []
    while len(places) < count and any(free_left):
        index = max(range(len(free_left)), key=free_left.__getitem__)
        free_left[index] -= 1
        room_left[index] -= 1
        places.append(index)
    while len(places) < count and any(left > 0 for left in room_left):
        index = max(range(len(room_left)), key=room_left.__getitem__)
        share = min(count - len(places), max(1, room_left[index] // 2))
        room_left[index] -= share
        places.extend([index] * share)
    return places
