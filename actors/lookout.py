"""What the claimer asks the database beside its rounds: in its own thread what is quick, by a scout what is not.

While somebody holds a snapshot, whatever has left an index still stands in it. A look that begins where the index begins takes
seconds then, and the rounds would wait for it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from shiftboss.actors.carrier import Carrier
from shiftboss.actors.outage import Outage
from shiftboss.actors.pace import DEAR_PAUSE_S, Pace
from shiftboss.actors.scout import Ask, Miss, Scout, Tell
from shiftboss.actors.timer import Timer
from shiftboss.errors import StoreUnavailable

AGAIN_S: Final = 0.02  # every connection is in use


class Lookout:
    """Looks are left out while the database is away, which the rounds find out and wait for."""

    def __init__(self, carrier: Carrier, scout: Scout, timer: Timer, outage: Outage) -> None:
        self._carrier, self._scout = carrier, scout
        self._timer, self._outage = timer, outage
        self._paces = defaultdict[str, Pace](Pace)

    def look(self, name: str, ask: Ask, tell: Callable[[Any], None]) -> None:
        """Have the answer told, at once or later. `name` is that of a timer, which is set to the next time where it is dear."""

        def paced(answer: Any, seconds: float) -> None:
            self._taken(name, seconds)
            tell(answer)

        if self._paces[name].dear and self._carrier.flies:
            if not self._outage.lasting and not self._scout.send(name, ask, paced, lambda seconds: self._missed(name, seconds)):
                self._timer.after(name, DEAR_PAUSE_S)  # what it is out for takes its time
        elif not self._at_once(ask, paced):
            self._timer.after(name, AGAIN_S)

    def now(self, ask: Ask, tell: Callable[[Any], None]) -> None:
        """Have the answer told at once, or never."""
        self._at_once(ask, lambda answer, _seconds: tell(answer))

    def send(self, name: str, ask: Ask, tell: Tell, miss: Miss) -> None:
        """Have the scout ask, unless it is away."""
        if not self._outage.lasting:
            self._scout.send(name, ask, tell, miss)

    def back(self) -> None:
        """The scout is. Where it got no answer, its next look is soon enough, and not sooner for that."""
        try:
            self._scout.back().tell()
        except StoreUnavailable:
            self._scout.rest()

    def rest(self) -> None:
        """Give the scout's connection back when nothing is dear any more."""
        if not any(pace.dear for pace in self._paces.values()):
            self._scout.rest()

    def _at_once(self, ask: Ask, tell: Callable[[Any, float], None]) -> bool:
        """Whether there was a connection for it."""
        if self._outage.lasting:
            return True  # nothing is to be had sooner than by the next look of that name
        store = self._carrier.idle
        if store is None:
            return False
        began_s = time.monotonic()
        try:
            answer = ask(store)
        except StoreUnavailable as error:
            self._timer.after("round", self._outage.wait_s(error))
        else:
            tell(answer, time.monotonic() - began_s)
        return True

    def _taken(self, name: str, seconds: float) -> None:
        self._paces[name].taken(time.monotonic(), seconds)
        self._set_timer(name)

    def _missed(self, name: str, seconds: float) -> None:
        self._paces[name].missed(time.monotonic(), seconds)
        self._set_timer(name)

    def _set_timer(self, name: str) -> None:
        if pause_s := self._paces[name].pause_s:
            self._timer.later(name, pause_s)
