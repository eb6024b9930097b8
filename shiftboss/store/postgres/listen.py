"""The doorbell: a connection of its own that LISTENs, and is asked now and then whether it still lives."""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress
from typing import Final

import psycopg

from shiftboss.errors import StoreUnavailable
from shiftboss.store.postgres.dsn import Address
from shiftboss.store.postgres.errors import one_line, translated
from shiftboss.store.postgres.link import connect, is_pooled, watch_client

_PROBE_EVERY_S: Final = 10.0
_PROBE_ANSWER_S: Final = 4.0


class PostgresListener:
    """Waits for NOTIFY. A connection whose other end has silently gone is noticed within 15 seconds of waiting.

    Behind a pooler, where LISTEN cannot work, it only lets the time pass: polling does the rest.
    """

    def __init__(
        self, address: Address, *, probe_every_s: float = _PROBE_EVERY_S, probe_answer_s: float = _PROBE_ANSWER_S
    ) -> None:
        """Connect and listen.

        Raises:
            StoreUnavailable: the server cannot be reached.
        """
        self._where = address.where
        self._probe_every_s, self._probe_answer_s = probe_every_s, probe_answer_s
        self._closed_read, self._closed_write = os.pipe()
        try:
            self._connection = connect(address)
            self._connection.patience_s = probe_answer_s
            self.listening = address.listen if address.listen is not None else not is_pooled(self._connection)
            if self.listening:
                watch_client(self._connection)
                self._connection.execute("LISTEN shiftboss")
        except psycopg.Error as error:
            self._close_pipe()
            raise translated(error, address.where) from error
        self._probe_at_s = time.monotonic() + probe_every_s
        self._in_use = threading.Lock()
        self._closing = False

    def wait(self, timeout_s: float) -> bool:
        """See `Listener.wait`."""
        deadline_s = time.monotonic() + timeout_s
        with self._in_use:
            try:
                return self._wait(deadline_s)
            except psycopg.Error as error:
                self._connection.close()
                gone = f"PostgreSQL at {self._where}: the LISTEN connection is gone: {one_line(str(error))}"
                raise StoreUnavailable(gone) from error

    def close(self) -> None:
        """End a `wait` under way, from any thread, and free the connection; returns when both are done."""
        if self._closing:
            return
        self._closing = True
        os.write(self._closed_write, b"x")
        with self._in_use:  # a descriptor must not be closed under a poll: its number may be someone else's by then
            self._connection.close()
            self._close_pipe()

    def _wait(self, deadline_s: float) -> bool:
        while not self._closing:
            if self._rang():
                return True
            now_s = time.monotonic()
            if now_s >= deadline_s:
                return False
            if now_s >= self._probe_at_s:
                self._connection.execute("SELECT 1")
                self._probe_at_s = time.monotonic() + self._probe_every_s
            else:
                self._sleep(min(deadline_s, self._probe_at_s) - now_s)
        return False

    def _rang(self) -> bool:
        """Whether a notification has arrived; takes all that have. Not by the driver's generator, which takes a tenth of a
        millisecond, and somebody's task waits."""
        pgconn = self._connection.pgconn
        pgconn.consume_input()
        rang = False
        while pgconn.notifies() is not None:
            rang = True
        return rang

    def _sleep(self, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        poll.register(self._closed_read, select.POLLIN)
        poll.poll(timeout_s * 1000)

    def _close_pipe(self) -> None:
        for fd in (self._closed_read, self._closed_write):
            with suppress(OSError):
                os.close(fd)
