"""Messages to oneself, later: one thread and a heap, on the monotonic clock."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Timer:
    """Calls `deliver(name)` when a named time has come. Setting a name again replaces its time."""

    def __init__(self, deliver: Callable[[str], None]) -> None:
        self._deliver = deliver
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, str]] = []
        self._due: dict[str, float] = {}
        self._order = itertools.count()
        threading.Thread(target=self._run, name="shiftboss-timer", daemon=True).start()

    def at(self, name: str, due_s: float) -> None:
        """Deliver `name` at monotonic `due_s`, instead of any time set for it before."""
        with self._condition:
            self._due[name] = due_s
            heapq.heappush(self._heap, (due_s, next(self._order), name))
            if self._heap[0][2] == name:
                self._condition.notify()

    def after(self, name: str, delay_s: float) -> None:
        """Deliver `name` in `delay_s` seconds."""
        self.at(name, time.monotonic() + delay_s)

    def sooner(self, name: str, delay_s: float) -> None:
        """Like `after`, but never later than the time that is set already."""
        due_s = time.monotonic() + delay_s
        if due_s < self._due.get(name, float("inf")):
            self.at(name, due_s)

    def later(self, name: str, delay_s: float) -> None:
        """Like `after`, but never sooner than the time that is set already."""
        due_s = time.monotonic() + delay_s
        if due_s > self._due.get(name, 0.0):
            self.at(name, due_s)

    def cancel(self, name: str) -> None:
        with self._condition:
            self._due.pop(name, None)

    def _run(self) -> None:
        while True:
            with self._condition:
                name = self._next()
            if name is not None:
                self._deliver(name)

    def _next(self) -> str | None:
        while not self._heap:
            self._condition.wait()
        due_s, _order, name = self._heap[0]
        if self._due.get(name) != due_s:
            heapq.heappop(self._heap)  # replaced or cancelled
            return None
        wait_s = due_s - time.monotonic()
        if wait_s > 0:
            self._condition.wait(wait_s)
            return None
        heapq.heappop(self._heap)
        del self._due[name]
        return name
