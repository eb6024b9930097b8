"""The application's side: enqueues the workload, and notes in the ledger what it tried and what it was told."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shiftboss.bound import Prepared
from shiftboss.clock import Clock
from shiftboss.errors import StoreUnavailable
from shiftboss.store.base import Store
from shiftboss.store.open import open_store
from tests.chaos import workload
from tests.chaos.ledger import Book

BATCHES: Final = (1, 1, 1, 10, 50, 100, 200, 400)
TRICKLE_S: Final = 0.2
TRICKLE_SIZES: Final = (1, 1, 1, 10)
ONE_BY_ONE: Final = (1,)  # so that at any moment one is due, or soon will be
REMEMBERED: Final = 5_000
FRESH: Final = 0.5
SENT_AGAIN: Final = 0.5  # at once, when its outcome is not known


class Producer:
    """Enqueues tasks until `count` are acknowledged, spread over the time that the faults take; then a trickle, if asked for.

    Faults come later than planned on a slow machine. What they are aimed at, enqueues and tasks that run, must still be there.

    Args:
        batches: how many at once, at random.
        clock: the machine's, unless that is made to jump.

    Attributes:
        acknowledged: how many so far.
        recent: ids that were acknowledged lately, for operators to act on.
    """

    def __init__(
        self,
        url: str,
        ledger_folder: Path,
        count: int,
        seed: int,
        batches: Sequence[int] = BATCHES,
        clock: Clock | None = None,
    ) -> None:
        self.count = count
        self._clock = clock
        self._batches = batches
        self.acknowledged = 0
        self.unknown = 0
        self.recent: deque[str] = deque(maxlen=REMEMBERED)
        self.error: BaseException | None = None
        self._url = url
        self._book = Book(ledger_folder, "producer")
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._enough = threading.Event()

    def start(self, over_s: float, *, trickle: bool = False) -> None:
        """Begin; the rate is such that `over_s` seconds would do, if nothing were in the way.

        Args:
            trickle: a few tasks now and then when there are enough, until `join()` is called.
        """
        if not trickle:
            self._enough.set()
        self._thread = threading.Thread(target=self._run, args=(self.count / max(over_s, 0.1),), name="producer", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Until all are acknowledged.

        Raises:
            AssertionError: not within `timeout_s`, or the producer failed.
        """
        assert self._thread is not None
        self._enough.set()
        self._thread.join(timeout_s)
        if self.error is not None:
            raise AssertionError(f"the producer failed: {self.error!r}") from self.error
        assert not self._thread.is_alive(), f"only {self.acknowledged} of {self.count} tasks could be enqueued in time"

    def _run(self, per_s: float) -> None:
        began_s, pause = time.monotonic(), threading.Event()
        try:
            store = open_store(self._url, clock=self._clock, application_name="chaos producer")
            while self.acknowledged < self.count:
                size = min(self._rng.choice(self._batches), self.count - self.acknowledged)
                ahead_s = self.acknowledged / per_s - (time.monotonic() - began_s)
                if ahead_s > 0:
                    pause.wait(min(ahead_s, 1.0))
                if not self.send(store, size):
                    pause.wait(0.1)
            while not self._enough.wait(TRICKLE_S):
                self.send(store, self._rng.choice(TRICKLE_SIZES))
            store.close()
        except BaseException as error:  # noqa: BLE001  it is told by join()
            self.error = error

    def send(self, store: Store, size: int) -> bool:
        """Enqueue so many in one statement, from any thread with a store of its own; False: the outcome is unknown."""
        with self._lock:
            prepared = workload.draw(self._rng, size)
        return self.send_these(store, prepared)

    def send_these(self, store: Store, prepared: Sequence[Prepared[int]]) -> bool:
        """The same with tasks that somebody else has chosen."""
        tasks, size = [one.new for one in prepared], len(prepared)
        self._book.write("".join(f"T {one.id}\n" for one in tasks))
        # As a client sends what it has just made; the other way is for what may have been sent before.
        fresh = self._rng.random() < FRESH
        try:
            done = store.enqueue(tasks, fresh=fresh)
        except StoreUnavailable:
            self.unknown += size
            if self._rng.random() > SENT_AGAIN:
                return False
            try:
                done = store.enqueue(tasks)
            except StoreUnavailable:
                return False
        stored = [one.id for one, asked in zip(done, tasks, strict=True) if one.id == asked.id]  # now, or the first time
        refused = {one.id for one in tasks} - set(stored)
        self._book.write("".join([f"A {one}\n" for one in stored] + [f"X {one}\n" for one in refused]))
        with self._lock:
            self.acknowledged += len(stored)
            self.recent.extend(stored)
        return True
