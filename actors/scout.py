"""Looks into the database that take long, in a thread and on a connection of their own, while rounds go on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from shiftboss.actors.messages import Looked
from shiftboss.store.base import Store

Ask = Callable[[Store], Any]
Tell = Callable[[Any, float], None]  # the answer, and how many seconds it took
Miss = Callable[[float], None]  # how many seconds it took to get none


class Look:
    """One question to the database."""

    def __init__(self, name: str, ask: Ask, tell: Tell, miss: Miss) -> None:
        self.name, self._ask, self._tell, self._miss = name, ask, tell, miss
        self._answer: Any = None
        self._error: BaseException | None = None
        self._seconds = 0.0

    def take(self, open_store: Callable[[], Store]) -> None:
        """Ask; called in the thread."""
        began_s = time.monotonic()
        try:
            self._answer = self._ask(open_store())
        except BaseException as error:  # noqa: BLE001  the actor raises it again, in its own thread
            self._error = error
        self._seconds = time.monotonic() - began_s

    def tell(self) -> None:
        """Have the answer dealt with.

        Raises:
            StoreUnavailable: there is none.
        """
        if self._error is not None:
            self._miss(self._seconds)
            raise self._error
        self._tell(self._answer, self._seconds)


class Scout:
    """Takes one look at a time. Belongs to the actor's thread.

    Args:
        open_store: for the first look, and for the next one after a rest.
        land: called in the scout's thread when the answer is there.
    """

    def __init__(self, open_store: Callable[[], Store], land: Callable[[Looked], None]) -> None:
        self._open_store, self._land = open_store, land
        self._store: Store | None = None
        self._looks: queue.SimpleQueue[Look] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._under_way: Look | None = None

    @property
    def busy(self) -> bool:
        return self._under_way is not None

    def send(self, name: str, ask: Ask, tell: Tell, miss: Miss) -> bool:
        """Take this look; false when another one is under way, or no thread can be had."""
        if self.busy or not self._started():
            return False
        self._under_way = Look(name, ask, tell, miss)
        self._looks.put(self._under_way)
        return True

    def back(self) -> Look:
        """The look that has been taken."""
        look, self._under_way = self._under_way, None
        assert look is not None
        return look

    def rest(self) -> None:
        """Give the connection back, unless it is in use."""
        if self._store is not None and not self.busy:
            self._store.close()
            self._store = None

    def _started(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="shiftboss-scout", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):  # at a limit on threads or memory
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            look = self._looks.get()
            look.take(self._opened)
            self._land(Looked(look.name))

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
        return self._store
