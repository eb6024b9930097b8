"""Outcomes of many threads, sent in batches by one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from shiftboss.model import Ended


class Outcomes:
    """Gathers outcomes of many threads and sends them in batches from one.

    An outcome is sent at once when the sender is idle; while it works, others gather.
    """

    def __init__(self, send: Callable[[list[int], list[Ended]], None]) -> None:
        self._send = send
        self._gathered: deque[tuple[int, Ended]] = deque()
        self._lock = threading.Lock()
        self._some = threading.Lock()
        self._some.acquire()
        self._signalled = False
        threading.Thread(target=self._run, name="shiftboss-outcomes", daemon=True).start()

    def put(self, cell: int, ended: Ended) -> None:
        self._gathered.append((cell, ended))
        if not self._signalled:
            with self._lock:
                if not self._signalled:
                    self._signalled = True
                    self._some.release()

    def _run(self) -> None:
        gathered = self._gathered
        while True:
            self._some.acquire()
            self._signalled = False  # before the look at what there is: whoever comes later signals again
            batch = [gathered.popleft() for _ in range(len(gathered))]
            if batch:
                self._send([cell for cell, _ in batch], [ended for _, ended in batch])
