"""One scrape of /metrics: the board as it stands, and what the database counts, read by a thread with a connection of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from shiftboss.actors.health import Health
from shiftboss.actors.metrics import CONTENT_TYPE, Sample, exposition
from shiftboss.actors.outage import Outage
from shiftboss.actors.process import Process
from shiftboss.actors.web import Answer
from shiftboss.errors import StoreUnavailable
from shiftboss.store.base import CounterDelta, Counts, Store
from shiftboss.store.open import open_store

log = logging.getLogger("shiftboss.gateway")
COUNTS_FRESH_S: Final = 5.0  # a scrape makes the database count pending tasks at most this often
READ_PATIENCE_S: Final = 2.0  # a scrape waits so long for the database, and then shows what was read before


class Scraper:
    """Answers scrapes; those who ask meanwhile wait for one reading."""

    def __init__(self, process: Process, database_url: str) -> None:
        self._process, self._board, self._database_url = process, process.board, database_url
        self._store: Store | None = None  # opened by the thread that uses it
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")  # the store belongs to its thread
        self._outage = Outage(log, process.board)
        self._reading: Future[None] | None = None
        self._asking = threading.Lock()
        self._counters: Sequence[CounterDelta] = ()
        self._counts: Counts | None = None
        self._counted_s = 0.0

    def answer(self, health: Callable[[], Health]) -> Answer:
        """The figures as they stand; while the database is away those of the last time, and without a long wait."""
        with self._asking:
            if self._reading is None or self._reading.done():
                self._reading = self._reader.submit(self._read)
            reading = self._reading
        if wait({reading}, READ_PATIENCE_S).done:
            reading.result()  # what nobody foresaw is an error of this request
        return Answer(body=exposition(self._sample(health())), content_type=CONTENT_TYPE)

    def _read(self) -> None:
        """In the reader's thread."""
        try:
            if self._store is None:
                self._store = open_store(
                    self._database_url,
                    application_name=f"shiftboss {self._process.name}",
                    create=False,
                    memory=self._board,
                )
            self._counters = self._store.counters(self._board.worker_id)
            if time.monotonic() - self._counted_s > COUNTS_FRESH_S:
                self._counts = self._store.counts()
                self._counted_s = time.monotonic()
            self._outage.over()
        except StoreUnavailable as error:
            self._outage.wait_s(error)

    def _sample(self, health: Health) -> Sample:
        return Sample(
            worker_id=self._board.worker_id,
            health=health,
            active=int(self._board.get("active")),
            capacity=int(self._board.get("capacity")),
            counters=self._counters,
            counts=self._counts,
        )
