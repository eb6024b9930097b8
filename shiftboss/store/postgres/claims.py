"""Claims in line: the server has the next one before it has answered the last, and works on it while the answer is read.

Each is one statement, and so a transaction of its own, followed by a Sync of its own: what becomes of one is no matter to the
others. Only where the session keeps its deadlines, its plans and its prepared statements: not behind a pooler.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import errors, generators, pq
from psycopg.adapt import Transformer

from shiftboss.errors import StoreError
from shiftboss.model import Claim
from shiftboss.store.base import ClaimAsk
from shiftboss.store.postgres import rows
from shiftboss.store.postgres.link import EXCHANGE_LOCK_TIMEOUT_S, BoundedConnection, Link, bounds
from shiftboss.store.postgres.params import claim_params
from shiftboss.store.postgres.prepared import can_prepare, encoded, prepare, prepared_name

_READABLE: Final = 1  # psycopg's READY_R


class PostgresClaimLine:
    """See `ClaimLine`. The connection is in pipeline mode until `close`."""

    def __init__(self, link: Link, connection: BoundedConnection, now: datetime | None) -> None:
        self._link, self._connection, self._now = link, connection, now
        self._waiting = 0  # claims without an answer
        self._since_s = 0.0  # when the server could begin with the oldest of them
        self._reading: Generator[Any, Any, list[pq.abc.PGresult]] | None = None
        self._result: pq.abc.PGresult | None = None
        with self._guarded():
            connection.pgconn.enter_pipeline_mode()

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, worker_id: str, ask: ClaimAsk) -> None:
        query = claim_query(ask)
        params = {name: None if value is None else str(value) for name, value in claim_params(worker_id, ask, self._now).items()}
        values = encoded(query, params)
        with self._guarded():
            if values is None:
                raise errors.DataError("a name that is no text to PostgreSQL")
            pgconn = self._connection.pgconn
            pgconn.send_query_prepared(prepared_name(query), values, result_format=pq.Format.BINARY)
            pgconn.pipeline_sync()
            self._connection.wait(generators.send(pgconn))
            if not self._waiting:
                self._since_s = time.monotonic()
            self._waiting += 1

    def answer(self) -> PostgresClaimAnswer | None:
        with self._guarded():
            while self._waiting and (results := self._read()) is not None:
                if self._result is None:
                    (self._result,) = results
                    continue
                result, self._result = self._result, None  # these were its Sync
                self._waiting -= 1
                self._since_s = time.monotonic()
                if result.status != pq.ExecStatus.TUPLES_OK:
                    raise errors.error_from_result(result, encoding="utf-8")
                return PostgresClaimAnswer(result, self._connection)
            if self._waiting and time.monotonic() > self._since_s + self._connection.patience_s:
                raise psycopg.OperationalError("no answer from the server within the deadline")
        return None

    def close(self) -> None:
        if not self._connection.closed:
            if self._waiting:
                self._connection.close()
            else:
                with self._guarded():
                    self._connection.pgconn.exit_pipeline_mode()

    def _read(self) -> list[pq.abc.PGresult] | None:
        """The results of one message that have come, all of them; `None`: not yet."""
        try:
            if self._reading is None:
                self._reading = generators.fetch_many(self._connection.pgconn)
                next(self._reading)
            self._reading.send(_READABLE)
        except StopIteration as end:
            self._reading = None
            found: list[pq.abc.PGresult] = end.value
            return found
        return None

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """After any error nothing is known of what is still in the line: the connection is closed, and the error one of ours."""
        try:
            yield
        except BaseException as error:
            self._connection.close()
            if isinstance(error, errors.LockNotAvailable):
                raise StoreError(f"PostgreSQL at {self._link.address.where}: the table is locked") from error
            if (ours := self._link.failed(error)) is not None:
                raise ours from error
            raise


class PostgresClaimAnswer:
    """See `ClaimAnswer`."""

    def __init__(self, result: pq.abc.PGresult, connection: BoundedConnection) -> None:
        self._result, self._connection = result, connection

    def claims(self) -> list[Claim]:
        cursor = self._connection.cursor(binary=True)
        rows.claim_loaders(cursor)
        transformer = Transformer(cursor)
        transformer.set_pgresult(self._result)
        return rows.claims(transformer.load_rows(0, self._result.ntuples, tuple))


def claim_query(ask: ClaimAsk) -> str:
    """The name of the query for it."""
    return "claim" if ask.merge is None else f"claim_{ask.merge}"


def claim_line(link: Link, ask: ClaimAsk, now: datetime | None) -> PostgresClaimLine | None:
    """One for claims like `ask`; `None` where there can be none."""
    query = claim_query(ask)
    with link.connected() as connection:
        link.pin(connection)
        if not can_prepare(connection):
            return None
        if not connection.hasty:
            bounds(connection, pinned=True, lock_timeout_s=EXCHANGE_LOCK_TIMEOUT_S, here_only=False)
            connection.hasty = True
        prepare(connection, query)
    return PostgresClaimLine(link, connection, now)
