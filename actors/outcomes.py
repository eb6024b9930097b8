"""Outcomes of many threads, sent in batches by one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from shiftboss.model import Ended

# Each batch costs both ends a few switches of threads. They gather only while tasks wait here, so no slot waits for an answer.
LINGER_S: Final = 0.010


class Outcomes:
    """Gathers outcomes of many threads and sends them in batches from one.

    An outcome is sent at once when the sender is idle and no task waits for a slot. Others gather while the sender works, and
    for `linger_s` at most while tasks wait: then the slots have something to do without an answer.

    Args:
        send: called with cells and outcomes, in one thread, in the order of `put`.
        busy: whether tasks wait for a slot; whoever finds the last of them gone calls `hurry`.
    """

    def __init__(
        self,
        send: Callable[[list[int], list[Ended]], None],
        busy: Callable[[], bool] = lambda: False,
        linger_s: float = LINGER_S,
    ) -> None:
        self._send, self._busy, self._linger_s = send, busy, linger_s
        self._gathered: deque[tuple[int, Ended]] = deque()
        self._lock = threading.Lock()
        self._some = threading.Lock()  # free: there is something to do
        self._some.acquire()
        self._signalled = self._lingering = False
        threading.Thread(target=self._run, name="shiftboss-outcomes", daemon=True).start()

    def put(self, cell: int, ended: Ended) -> None:
        self._gathered.append((cell, ended))
        if not self._signalled:
            with self._lock:
                if not self._signalled:
                    self._signalled = True
                    self._some.release()

    def hurry(self) -> None:
        """A slot has nothing to do: what has gathered goes now."""
        if self._lingering:
            with self._lock:
                if self._lingering:
                    self._lingering = False
                    self._some.release()

    def _run(self) -> None:
        gathered = self._gathered
        while True:
            self._some.acquire()
            self._lingering = True  # before the look at what waits: whoever takes the last of it later hurries us
            hurried = self._busy() and self._some.acquire(timeout=self._linger_s)
            with self._lock:
                if not hurried and not self._lingering:
                    self._some.acquire()  # hurried in the moment in which it was over
                self._lingering = False
            self._signalled = False  # before the look at what there is: whoever comes later signals again
            batch = [gathered.popleft() for _ in range(len(gathered))]
            if batch:
                self._send([cell for cell, _ in batch], [ended for _, ended in batch])
