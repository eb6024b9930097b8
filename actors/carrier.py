"""Rounds that go on beside each other: each in a thread and on a connection of its own, while the actor does other work.

One round at a time leaves the database idle while the claimer prepares the next, and the claimer while the database works.
A large round flies instead: the thread asks the database, and what it answers comes back as a message.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from shiftboss.actors.flight import Flight, Orders, fly
from shiftboss.actors.ledgers import Ledgers
from shiftboss.actors.messages import Landed
from shiftboss.actors.outbox import Parcel
from shiftboss.store.base import Exchange, Store

IN_LINE: Final = 2  # claims on one connection: one that the server works on, and one that it has next


class Carrier:
    """The connections of a claimer, and the rounds that are under way on them. Belongs to the actor's thread.

    Args:
        stores: the first is always there; the others are opened by the first round that needs them. With one alone nothing
            flies.
        land: called in a round's thread when it has landed.

    Attributes:
        ledgers: under which names the rounds count.
    """

    def __init__(self, stores: Sequence[Store], land: Callable[[Landed], None]) -> None:
        self._stores, self._land = stores, land
        self.ledgers = Ledgers()
        self._flights: dict[int, deque[Flight]] = {}
        self._orders: dict[int, Orders] = {}

    @property
    def idle(self) -> Store | None:
        """A store that nobody uses just now."""
        lane = self._free_lane()
        return None if lane is None else self._stores[lane]

    @property
    def busy(self) -> bool:
        return bool(self._flights)

    @property
    def flies(self) -> bool:
        """Whether rounds may go on beside each other here at all."""
        return len(self._stores) > 1

    @property
    def claiming(self) -> int:
        """How many tasks the rounds under way have asked for."""
        return sum(flight.request.claim.limit for flight in self._under_way() if flight.request.claim is not None)

    @property
    def line(self) -> int | None:
        """The connection on which one claim is under way and another may wait in line."""
        return next((lane for lane, flights in self._flights.items() if flights[0].is_claim and len(flights) < IN_LINE), None)

    @property
    def counting(self) -> bool:
        """Whether a round under way takes counters along."""
        return any(flight.request.counters for flight in self._under_way())

    def ledger(self, worker_id: str, writes: bool) -> str:
        """For `Exchange.ledger` of a round that goes now; `writes`: what it is sent with is not empty."""
        lane = self._free_lane(last=not writes)
        return self.ledgers.name(worker_id, lane) if self.flies and lane is not None else ""

    def send(self, request: Exchange, parcel: Parcel, in_turn: bool) -> bool:
        """Let a round fly. False: no thread can be had for it; it is still to be done. `in_turn`: see `Flight`.

        One that writes nothing takes the last connection, so that what has ended is counted on the first as long as it can be.
        """
        lane = self._free_lane(last=not parcel) if not self.claiming or request.claim is None else self.line
        assert lane is not None, "nobody may send while all are under way"
        if lane not in self._orders and not self._start(lane):
            return False
        flight = Flight(lane, request, parcel, in_turn)
        self._flights.setdefault(lane, deque()).append(flight)
        self._orders[lane].put(flight)
        return True

    def landed(self, message: Landed) -> Flight:
        """The round that this is the news of; it is over."""
        flights = self._flights[message.lane]
        flight = flights.popleft()
        if not flights:
            del self._flights[message.lane]
        return flight

    def recall(self) -> None:
        """Let no claim wait for its turn any longer."""
        for flight in self._under_way():
            flight.recalled = True
        for lane in self._flights:
            self._orders[lane].ring()

    def close(self) -> None:
        """Close what nobody uses; who is under way ends with the process."""
        for lane, store in enumerate(self._stores):
            if lane not in self._flights:
                store.close()

    def _free_lane(self, last: bool = False) -> int | None:
        free = [lane for lane in range(len(self._stores)) if lane not in self._flights]
        return free[-1 if last else 0] if free else None

    def _under_way(self) -> Iterator[Flight]:
        return chain.from_iterable(self._flights.values())

    def _start(self, lane: int) -> bool:
        orders = Orders()
        given = (self._stores[lane], orders, lambda: self._land(Landed(lane)))
        thread = threading.Thread(target=fly, args=given, name=f"shiftboss-round-{lane + 1}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # at a limit on threads or memory
            orders.close()
            return False
        self._orders[lane] = orders
        return True
