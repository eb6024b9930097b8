"""What a thread of the claimer does with the rounds that it is given: one after the other, or claims in line.

While claims wait in line, the server has the next one before it has answered the last. So it goes on while the answer is read
here, and none of it waits for the interpreter, in which another thread may just be at work.
"""

from __future__ import annotations

import math
import os
import queue
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from shiftboss.actors.outbox import Parcel
from shiftboss.errors import StoreError, StoreUnavailable
from shiftboss.model import Claim
from shiftboss.store.base import ClaimAnswer, ClaimLine, Exchange, Exchanged, Store

SOONEST_S: Final = 0.005  # a claim that was not in its turn is sent again after this at the soonest,
LATEST_S: Final = 0.1  # and after this at the latest,
PATIENCE_S: Final = 1.0  # and without a turn after this: whoever has it may be frozen
_LOOK_MS: Final = 1_000  # how often a line looks whether it has waited too long


class Flight:
    """One round under way.

    Attributes:
        in_turn: it is a large claim, and other workers may be claiming, too.
        recalled: it is not to be sent again.
        refused: it was the turn of another worker; nothing was looked at.
        alone: whether there are no other workers; `None`: it was not asked for.
        seconds: how long the database took, once it has landed.
    """

    def __init__(self, lane: int, request: Exchange, parcel: Parcel, in_turn: bool) -> None:
        self.lane, self.request, self.parcel, self.in_turn = lane, request, parcel, in_turn
        self.recalled = self.refused = False
        self.alone: bool | None = None
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


class Turns:
    """How a thread has its turns: when to ask again after it was another's, and when to go without. Time is passed in."""

    def __init__(self) -> None:
        self._claim_s = 0.0
        self._since_s = math.inf  # since when it has been another's
        self._refusals = 0

    def worth(self, now_s: float) -> bool:
        """Whether to ask for one, still."""
        return now_s < self._since_s + PATIENCE_S

    def refused(self, now_s: float) -> float:
        """It is another's. Returns in how many seconds to ask again: the more others there are, the later."""
        self._since_s = min(self._since_s, now_s)
        self._refusals += 1
        return min(max(self._claim_s / 2 * self._refusals, SOONEST_S), LATEST_S)

    def had(self, claim_s: float) -> None:
        """A claim was answered, so many seconds after the server could begin with it."""
        self._since_s, self._refusals, self._claim_s = math.inf, 0, claim_s


class Orders:
    """Flights on their way to the thread that carries them. What it polls turns readable when there is one."""

    def __init__(self) -> None:
        self._flights: queue.SimpleQueue[Flight] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def put(self, flight: Flight) -> None:
        self._flights.put(flight)
        self.ring()

    def ring(self) -> None:
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
    turns = Turns()
    while True:
        for flight in _in_line(store, orders.get(), orders, land, turns):
            flight.carry(store)
            land()


def _in_line(store: Store, first: Flight, orders: Orders, land: Callable[[], None], turns: Turns) -> deque[Flight]:
    """Carry claims in line until none is left. Returns what has to go the ordinary way instead."""
    flights = deque([first])
    if not first.is_claim or first.request.claim is None:
        return flights
    line = None
    try:
        line = store.claim_line(first.request.claim)
        if line is None:
            return flights
        _Keeper(line, flights, orders, land, turns).keep()
    except BaseException as error:  # noqa: BLE001  the actor raises it again, in its own thread
        if line is not None:
            line.close()
        if isinstance(error, StoreError) and not isinstance(error, StoreUnavailable):
            return flights  # refused, and so without any effect: the ordinary way finds out which value it was
        for flight in flights:
            flight.error = error
            land()
    return deque()


class _Keeper:
    """Keeps one line. `flights`: those that have had no answer; the first is still to be sent."""

    def __init__(self, line: ClaimLine, flights: deque[Flight], orders: Orders, land: Callable[[], None], turns: Turns) -> None:
        self._line, self._flights, self._orders, self._land, self._turns = line, flights, orders, land, turns
        self._began_s = 0.0
        self._again_s: float | None = None  # when the first is to be sent again, then the only one: it waits for its turn
        self._poll = select.poll()
        for file in (line, orders):
            self._poll.register(file, select.POLLIN)

    def keep(self) -> None:
        self._began_s = time.monotonic()
        self._send(self._flights[0])
        while self._flights:
            answer = self._line.answer()
            if answer is None:
                self._poll.poll(self._patience_ms())
            for flight in self._orders.come():  # before the answer is read: so the server never waits for that
                self._flights.append(flight)
                self._send(flight)
            if self._again_s is not None:
                self._go_on_waiting(self._again_s)
            elif answer is not None:
                self._answered(answer)

    def _send(self, flight: Flight) -> None:
        assert flight.request.claim is not None
        in_turn = flight.in_turn and self._turns.worth(time.monotonic())
        self._line.send(flight.request.worker_id, flight.request.claim, in_turn)

    def _patience_ms(self) -> int:
        return _LOOK_MS if self._again_s is None else max(0, math.ceil((self._again_s - time.monotonic()) * 1000))

    def _go_on_waiting(self, again_s: float) -> None:
        """Until it is time, or somebody does not want it any more; nobody stands behind one that waits."""
        now_s, unwanted = time.monotonic(), self._flights[0].recalled or len(self._flights) > 1
        if not unwanted and now_s < again_s:
            return
        self._again_s, self._began_s = None, now_s
        if unwanted:
            self._refused()
        else:
            self._send(self._flights[0])

    def _answered(self, answer: ClaimAnswer) -> None:
        now_s = time.monotonic()
        flight, turn = self._flights[0], answer.turn
        if turn is not None:
            flight.alone = turn.alone
            if not turn.mine:
                again_s, self._began_s = now_s + self._turns.refused(now_s), now_s
                if len(self._flights) > 1:
                    self._refused()
                else:
                    self._again_s = again_s
                return
        flight.seconds, self._began_s = now_s - self._began_s, now_s
        self._turns.had(flight.seconds)
        self._end(answer.claims())

    def _refused(self) -> None:
        self._flights[0].refused = True
        self._end([])

    def _end(self, claims: list[Claim]) -> None:
        self._flights[0].reply = Exchanged(verdicts=[], states=[], claims=claims)
        if len(self._flights) == 1:
            self._line.close()  # before it lands: then the connection may be used by others
        self._flights.popleft()
        self._land()
