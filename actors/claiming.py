"""What the claimer asks for, and who gets it."""

from __future__ import annotations

import time
from collections import Counter

from shiftboss.actors.lanebook import FIRST_POLL_S, LaneBook
from shiftboss.actors.lookout import Lookout
from shiftboss.actors.outbox import Outbox
from shiftboss.actors.peers import share_out
from shiftboss.actors.planning import LARGE, MOST_IN_FLIGHT, Typical, lane_asks
from shiftboss.actors.roster import Roster
from shiftboss.actors.watching import START_STORED_AFTER_S
from shiftboss.config import Settings
from shiftboss.model import Claim
from shiftboss.store.base import ClaimAsk, Lane, Store


class Claiming:
    """Room, lanes and how long tasks take.

    Attributes:
        lanes: what is known of them.
        alone: no other worker lives on this database, as far as is known.
    """

    def __init__(self, settings: Settings, roster: Roster, outbox: Outbox) -> None:
        self._roster, self._outbox = roster, outbox
        self._typical = Typical()
        self._of_lanes: tuple[tuple[str, ...], str, float] | None = None
        self._distributed, self.alone = False, True
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Where these are not what the lanes were read for, what was known of them says nothing."""
        of_lanes = settings.only_queues, settings.claim_strategy, settings.claim_interval_s
        if of_lanes != self._of_lanes:
            self._of_lanes, self._queues = of_lanes, settings.only_queues or None
            self.lanes = LaneBook(*of_lanes)
        if settings.distributed_mode != self._distributed:
            self._distributed, self.alone = settings.distributed_mode, not settings.distributed_mode

    @property
    def in_turn(self) -> bool:
        """Whether a large claim should wait for its turn: there are many tasks, and others may be claiming them."""
        return self._distributed and self.lanes.full_rounds > 0

    @property
    def typical_s(self) -> float | None:
        """How long an attempt takes; `None` when that is not known."""
        return self._typical.seconds

    def ended(self, total_s: float, count: int) -> None:
        """So many attempts took so long in all."""
        self._typical = self._typical.after(total_s / count)

    def has_work_for_long(self) -> bool:
        """Whether every executor still has more than half of what it may hold, so that a round can wait for company."""
        usable = self._roster.usable()
        if self.lanes.drained or not usable:
            return False
        return all(len(peer.holdings) > 2 * peer.slots + peer.room(self._typical.seconds) for peer in usable)

    def ask(self, store: Store | None, lookout: Lookout | None, under_way: int = 0) -> ClaimAsk | None:
        """What the next claim asks for; `None`: nothing, now.

        Args:
            store: reads the lanes; without one what is known of them has to do.
            lookout: reads the lanes where that is dear; `None` where rounds do not fly, and lanes are read here.
            under_way: how many tasks have been asked for and not been answered yet. Behind such a claim only a large one is
                worth while, only for queues without a limit, since nothing is prefetched for others, and only where no other
                worker claims: each passes over what the others have locked, and the server has enough to do.
        """
        if self.lanes.drained and not self._rides_along:
            return None
        typical_s, usable = self._typical_now(), self._roster.usable()
        types = self._roster.types_of(peer for peer in usable if peer.room(typical_s))
        room = sum(peer.room(typical_s) for peer in usable) - under_way
        free = max(0, sum(peer.free_slots for peer in usable) - under_way)
        slots = sum(peer.slots for peer in usable)
        if not types or room <= 0 or (not free and not self._outbox and room < slots):
            return None  # a few tasks more would not be worth a transaction of their own
        if under_way and (room < LARGE or not self.lanes.full_rounds or self.lanes.limited or not self.alone):
            return None
        lanes = self._known(store, lookout)
        if lookout is not None:
            room = min(room, MOST_IN_FLIGHT)
        held = Counter(holding.claim.queue for _peer, holding in self._roster.held()) if self.lanes.limited else {}
        asks = lane_asks(lanes, room, held, self.lanes.marks())
        if not asks:
            self.lanes.drained = not under_way
            return None
        ask = ClaimAsk(lanes=asks, limit=room, running=free, types=types, merge=self.lanes.merge, unread=self.lanes.unread)
        self.lanes.asked(ask)
        return ask

    def hand_out(self, claims: list[Claim]) -> None:
        """To whoever has room; back to the database what nobody has room for any more."""
        usable, typical_s = self._roster.usable(), self._typical_now()
        shares, left = share_out(claims, usable, typical_s)
        for peer, share in zip(usable, shares, strict=True):
            if share:
                peer.execute(share)
        for claim in left:
            self._roster.release(claim)

    @property
    def _rides_along(self) -> bool:
        """Outcomes go anyway, and tasks have come lately: a claim with them costs little, and nobody rings one who is awake."""
        return self._outbox.has_outcomes and self.lanes.poll_s <= FIRST_POLL_S

    def _known(self, store: Store | None, lookout: Lookout | None) -> list[Lane]:
        if lookout is not None and self.lanes.dear:
            return self._read(lookout)
        return self.lanes.lanes(store) if store is not None else self.lanes.in_order()

    def _read(self, lookout: Lookout) -> list[Lane]:
        """What is known, while somebody else looks."""
        book, queues = self.lanes, self._queues
        if book.is_due():

            def tell(found: list[Lane], seconds: float) -> None:
                book.read(found, time.monotonic(), seconds)
                if found:
                    book.drained = False

            def miss(seconds: float) -> None:
                book.missed(time.monotonic(), seconds)

            lookout.send("lanes", lambda store: store.lanes(queues), tell, miss)
        return book.in_order()

    def _typical_now(self) -> float | None:
        """The estimate, not less than what runs now has already taken: a long task shows before it ends."""
        now_ns = time.monotonic_ns()
        looked_at_s = now_ns / 1e9 - START_STORED_AFTER_S  # whatever was sent since then has not been looked at yet
        started = [one.started_ns for peer in self._roster for one in peer.older_than(looked_at_s) if one.started_ns]
        if not started:
            return self._typical.seconds
        return max(self._typical.seconds or 0.0, sum(now_ns - ns for ns in started) / len(started) / 1e9)
