"""What the claimer knows of the lanes: which there are, where their live rows begin, and whether they are drained."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from shiftboss.actors.pace import Pace
from shiftboss.actors.planning import MARK_MARGIN_S, order_lanes
from shiftboss.model import Claim
from shiftboss.store.base import ClaimAsk, Lane, Store

LANES_FRESH_S: Final = 0.2  # under load lanes are read this often; an idle claimer reads them each time
MARKS_FRESH_S: Final = 1.0  # lanes are claimed from their beginning this often: what was recovered stands there, and waits for it
FIRST_POLL_S: Final = 0.01
LATELY: Final = 8  # lanes that are claimed from before they are read, when somebody has rung
_ASKED: Final = 8  # more than are under way at any time; those without an answer make room for others
_ROUNDED_S: Final = 0.001  # times are microseconds in the database and floating-point numbers here


class LaneBook:
    """Lanes, marks, and how long to wait before looking again.

    Attributes:
        drained: the last claim got less than it asked for: nothing is there until someone rings or time passes.
        poll_s: how long to wait before looking without having been rung for.
        full_rounds: claims in a row that got all they asked for.
        unread: somebody has rung while there was nothing to do. What has come is most likely where tasks have come from lately:
            those lanes are claimed from first, and all are read after that.
    """

    def __init__(self, only_queues: Sequence[str], strategy: str, longest_poll_s: float) -> None:
        self._only, self._strategy, self._longest_poll_s = only_queues or None, strategy, longest_poll_s
        self._rng = random.Random()
        self._lanes: list[Lane] = []
        self._by_key: dict[tuple[str, int], Lane] = {}
        self._limited: frozenset[str] = frozenset()
        self._stale = True
        self._rung = False
        self._missed = False  # the last reading had no answer
        self._reading, self._looking = Pace(), Pace()
        self._marks: dict[tuple[str, int], float] = {}
        self._asked: deque[tuple[ClaimAsk, bool, bool]] = deque(maxlen=_ASKED)  # with what `_looks` and `_lowered` were
        self._lately: dict[tuple[str, int], Lane] = {}  # the newest last
        self._barren: set[tuple[str, int]] = set()
        self._looked_s = -math.inf
        self._looks = False  # the claim that is asked for begins where the lanes begin, as far as that is known
        self._lowered = False  # and that is before what was a mark
        self._before_idle = False
        self.drained = False
        self.poll_s = FIRST_POLL_S
        self.full_rounds = 0
        self.unread = False

    @property
    def merge(self) -> str | None:
        """For `ClaimAsk.merge`."""
        return self._strategy if self._strategy in ("fifo", "lifo") else None

    @property
    def limited(self) -> frozenset[str]:
        """Queues with a concurrency."""
        return self._limited

    def look_again(self, *, rung: bool) -> None:
        """Someone rang, or the time to poll has come (which then backs off up to `claim_interval`)."""
        self.poll_s = FIRST_POLL_S if rung else min(self.poll_s * 2, self._longest_poll_s)
        self.unread = rung and (self.unread or self.drained) and bool(self._lately)
        self.drained = False
        self._stale = True
        self._rung = self._rung or rung
        self._barren = set()

    @property
    def dear(self) -> bool:
        """Whether nobody should wait for the lanes to be read."""
        return self._reading.dear

    def is_due(self) -> bool:
        """Whether the lanes should be read again; always where none is known and somebody has rung."""
        if not self._lanes and not self._missed and (self._rung or not self.dear):
            return True
        return self._reading.due(time.monotonic(), 0.0 if self._stale else LANES_FRESH_S)

    def read(self, lanes: list[Lane], now_s: float, took_s: float) -> None:
        """The lanes were read, which took so long.

        Where that is dear, a lane that has just been emptied is kept: a claim from its mark finds at once what comes next.
        """
        self._reading.taken(now_s, took_s)
        if self.dear:
            found = {(lane.queue, lane.priority) for lane in lanes}
            emptied = [lane for lane in self._lanes if (key := (lane.queue, lane.priority)) in self._marks and key not in found]
            lanes = [*lanes, *(msgspec.structs.replace(lane, due_at=math.inf) for lane in emptied)]
        self._lanes, self._stale, self._rung, self._missed = lanes, False, False, False
        self._by_key = {(lane.queue, lane.priority): lane for lane in lanes}
        self._limited = frozenset(lane.queue for lane in lanes if lane.concurrency is not None)
        if self._limited:
            self._lately = {key: lane for key, lane in self._lately.items() if lane.queue not in self._limited}

    def missed(self, now_s: float, took_s: float) -> None:
        """The lanes could not be read, which took so long: what is known stands."""
        self._reading.missed(now_s, took_s)
        self._missed = True

    def in_order(self) -> list[Lane]:
        """The lanes that are known, in the order in which to drain them."""
        if self.unread:
            return order_lanes(list(self._lately.values()), self._strategy, self._rng)
        fruitful = [lane for lane in self._lanes if (lane.queue, lane.priority) not in self._barren]
        return order_lanes(fruitful, self._strategy, self._rng)

    def lanes(self, store: Store) -> list[Lane]:
        """The lanes in the order in which to drain them, from the database when what is known is old."""
        if not self.unread and self.is_due():
            now_s = time.monotonic()
            self.read(store.lanes(self._only), now_s, time.monotonic() - now_s)
        return self.in_order()

    def marks(self) -> dict[tuple[str, int], float]:
        """Where each lane's live rows begin (`LaneAsk.since`), as far as that is known."""
        if self.unread:
            return self._marks
        now_s = time.monotonic()
        self._looks = self._looking.due(now_s) and (self._before_idle or now_s - self._looked_s > MARKS_FRESH_S)
        if self._looks:
            self._looked_s, self._before_idle = now_s, False
            self._lower_marks()
        return self._marks

    def asked(self, ask: ClaimAsk) -> None:
        """A claim for which `marks` was called is on its way. Claims are answered in their order, those that fail never."""
        self._asked.append((ask, self._looks, self._lowered))
        self._looks = self._lowered = self.unread = False

    def _lower_marks(self) -> None:
        """Something older may have come back, or was seen late."""
        for lane in self._lanes:
            key = lane.queue, lane.priority
            if key in self._marks and lane.due_at < self._marks[key]:
                self._lowered = True
                if math.isfinite(lane.due_at):
                    self._marks[key] = lane.due_at - _ROUNDED_S
                else:
                    del self._marks[key]

    def learn(self, ask: ClaimAsk, claims: Sequence[Claim], took_s: float) -> None:
        """What a claim's answer says about the lanes. `took_s`: how long the database needed for it."""
        now_s = time.monotonic()
        answered = self._answered(ask)
        if answered is None:
            return  # asked for with other settings: it says nothing about these lanes
        looks, lowered = answered
        if ask.unread:
            self.poll_s = FIRST_POLL_S if claims else self.poll_s
            self._learn_marks(ask, claims)
            return
        if lowered or not any(lane.since is not None for lane in ask.lanes):
            self._looking.taken(now_s, took_s)
        elif len(claims) < ask.limit and not looks and self._looking.due(now_s):
            self._before_idle = self._stale = True  # something older may be there: look for it before going idle
            self.full_rounds = 0
            return
        self.drained = len(claims) < ask.limit and not self._step_down(ask, claims)
        self.full_rounds = 0 if self.drained else self.full_rounds + 1
        if claims:
            self.poll_s = FIRST_POLL_S
        if ask.merge is None:
            self._learn_marks(ask, claims)

    def _learn_marks(self, ask: ClaimAsk, claims: Sequence[Claim]) -> None:
        """Where tasks came from, and how far."""
        for claim in claims[-1:] if len(ask.lanes) == 1 else claims:  # those of a lane are in its order
            key = claim.queue, claim.priority
            self._marks[key] = claim.due_at - MARK_MARGIN_S
            if next(reversed(self._lately), None) != key:
                self._remember(key)

    def _remember(self, key: tuple[str, int]) -> None:
        lane = self._lately.pop(key, None)
        lane = self._by_key.get(key, lane)
        if lane is not None and lane.concurrency is None:
            self._lately[key] = lane
            if len(self._lately) > LATELY:
                del self._lately[next(iter(self._lately))]

    def _answered(self, ask: ClaimAsk) -> tuple[bool, bool] | None:
        """What `asked` noted of it; of those before it there will be no answer."""
        while self._asked:
            asked, looks, lowered = self._asked.popleft()
            if asked is ask:
                return looks, lowered
        return None

    def _step_down(self, ask: ClaimAsk, claims: Sequence[Claim]) -> bool:
        """Leave lanes of limited queues out that gave nothing (not due, or of types unknown here): only one lane of such a
        queue is asked at a time, and the lanes below must have their turn. Whether there are such."""
        got = {(claim.queue, claim.priority) for claim in claims}
        asked = {(lane.queue, lane.priority) for lane in ask.lanes if lane.queue in self._limited}
        self._barren |= asked - got
        queues = {queue for queue, _priority in asked - got}
        return any(lane.queue in queues and (lane.queue, lane.priority) not in self._barren for lane in self._lanes)
