"""What a thread of the claimer does with the rounds that it is given: one after the other, or claims in line.

While claims wait in line, the server has the next one before it has answered the last. So it goes on while the answer is read
here, and none of it waits for the interpreter, in which another thread may just be at work.
"""

from __future__ import annotations

import os
import queue
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from shiftboss.actors.outbox import Parcel
from shiftboss.errors import StoreError, StoreUnavailable
from shiftboss.store.base import ClaimLine, Exchange, Exchanged, Store

_LOOK_MS: Final = 1_000  # how often a line looks whether it has waited too long


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

    @property
    def is_claim(self) -> bool:
        """Whether it claims and does nothing else."""
        return self.request.claim is not None and not self.parcel and not self.request.counters

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


class Orders:
    """Flights on their way to the thread that carries them. What it polls turns readable when there is one."""

    def __init__(self) -> None:
        self._flights: queue.SimpleQueue[Flight] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def put(self, flight: Flight) -> None:
        self._flights.put(flight)
        os.eventfd_write(self._bell, 1)

    def get(self) -> Flight:
        """Wait for one."""
        return self._flights.get()

    def fileno(self) -> int:
        return self._bell

    def come(self) -> list[Flight]:
        """All that are there; does not wait."""
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            return []
        come = []
        while not self._flights.empty():
            come.append(self._flights.get())
        return come

    def close(self) -> None:
        os.close(self._bell)


def fly(store: Store, orders: Orders, land: Callable[[], None]) -> None:
    """Carry whatever comes, for ever. `land` is called when one has its answer, in their order."""
    while True:
        for flight in _in_line(store, orders.get(), orders, land):
            flight.carry(store)
            land()


def _in_line(store: Store, first: Flight, orders: Orders, land: Callable[[], None]) -> deque[Flight]:
    """Carry claims in line until none is left. Returns what has to go the ordinary way instead."""
    flights = deque([first])
    if not first.is_claim or first.request.claim is None:
        return flights
    line = None
    try:
        line = store.claim_line(first.request.claim)
        if line is None:
            return flights
        _keep_line(line, flights, orders, land)
    except BaseException as error:  # noqa: BLE001  the actor raises it again, in its own thread
        if line is not None:
            line.close()
        if isinstance(error, StoreError) and not isinstance(error, StoreUnavailable):
            return flights  # refused, and so without any effect: the ordinary way finds out which value it was
        for flight in flights:
            flight.error = error
            land()
    return deque()


def _keep_line(line: ClaimLine, flights: deque[Flight], orders: Orders, land: Callable[[], None]) -> None:
    """`flights`: those that have had no answer; the first is still to be sent."""
    _send(line, flights[0])
    began_s = time.monotonic()
    poll = select.poll()
    for file in (line, orders):
        poll.register(file, select.POLLIN)
    while flights:
        answer = line.answer()
        if answer is None:
            poll.poll(_LOOK_MS)
        for flight in orders.come():  # before the answer is read: so the server never waits for that
            flights.append(flight)
            _send(line, flight)
        if answer is not None:
            now_s = time.monotonic()
            flight = flights[0]
            flight.reply = Exchanged(verdicts=[], states=[], claims=answer.claims())
            flight.seconds, began_s = now_s - began_s, now_s
            if len(flights) == 1:
                line.close()  # before it lands: then the connection may be used by others
            flights.popleft()
            land()


def _send(line: ClaimLine, flight: Flight) -> None:
    assert flight.request.claim is not None
    line.send(flight.request.worker_id, flight.request.claim)
