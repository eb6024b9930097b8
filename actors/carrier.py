"""Rounds that go on beside each other: each in a thread and on a connection of its own, while the actor does other work.

One round at a time leaves the database idle while the claimer prepares the next, and the claimer while the database works.
A large round flies instead: the thread asks the database, and what it answers comes back as a message.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from shiftboss.actors.ledgers import Ledgers
from shiftboss.actors.messages import Landed
from shiftboss.actors.outbox import Parcel
from shiftboss.store.base import Exchange, Exchanged, Store


class Flight:
    """One round under way.

    Attributes:
        seconds: how long the database took, once it has landed.
    """

    def __init__(self, lane: int, request: Exchange, parcel: Parcel) -> None:
        self.lane, self.request, self.parcel = lane, request, parcel
        self.reply: Exchanged | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0

    def carry(self, store: Store) -> None:
        """Ask the database; called in the thread."""
        sent_s = time.monotonic()
        try:
            self.reply = store.exchange(self.request)
        except BaseException as error:  # noqa: BLE001  the actor raises it again, in its own thread
            self.error = error
        self.seconds = time.monotonic() - sent_s

    def answer(self) -> Exchanged:
        """What the database said.

        Raises:
            StoreUnavailable: the outcome is unknown.
        """
        if self.error is not None:
            raise self.error
        assert self.reply is not None
        return self.reply


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
        self._flights: dict[int, Flight] = {}
        self._orders: dict[int, queue.SimpleQueue[Flight]] = {}

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
    def claiming(self) -> bool:
        """Whether a round under way has asked for tasks."""
        return any(flight.request.claim is not None for flight in self._flights.values())

    def ledger(self, worker_id: str, writes: bool) -> str:
        """For `Exchange.ledger` of a round that goes now; `writes`: what it is sent with is not empty."""
        lane = self._free_lane(last=not writes)
        return self.ledgers.name(worker_id, lane) if self.flies and lane is not None else ""

    def send(self, request: Exchange, parcel: Parcel) -> bool:
        """Let a round fly. False: no thread can be had for it; it is still to be done.

        One that writes nothing takes the last connection, so that what has ended is counted on the first as long as it can be.
        """
        lane = self._free_lane(last=not parcel)
        assert lane is not None, "nobody may send while all are under way"
        if lane not in self._orders and not self._start(lane):
            return False
        flight = Flight(lane, request, parcel)
        self._flights[lane] = flight
        self._orders[lane].put(flight)
        return True

    def landed(self, message: Landed) -> Flight:
        """The round that this is the news of; it is over."""
        return self._flights.pop(message.lane)

    def close(self) -> None:
        """Close what nobody uses; who is under way ends with the process."""
        for lane, store in enumerate(self._stores):
            if lane not in self._flights:
                store.close()

    def _free_lane(self, last: bool = False) -> int | None:
        free = [lane for lane in range(len(self._stores)) if lane not in self._flights]
        return free[-1 if last else 0] if free else None

    def _start(self, lane: int) -> bool:
        orders: queue.SimpleQueue[Flight] = queue.SimpleQueue()
        thread = threading.Thread(target=self._run, args=(lane, orders), name=f"shiftboss-round-{lane + 1}", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # at a limit on threads or memory
            return False
        self._orders[lane] = orders
        return True

    def _run(self, lane: int, orders: queue.SimpleQueue[Flight]) -> None:
        while True:
            orders.get().carry(self._stores[lane])
            self._land(Landed(lane))
