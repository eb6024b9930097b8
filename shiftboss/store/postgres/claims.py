"""Claims alone, and claims in line: one statement, which the server knows, and so a transaction of its own.

In line the server has the next one before it has answered the last, and works on it while the answer is read. Each is followed
by a Sync of its own: what becomes of one is no matter to the others. Only where the session keeps its deadlines, its plans and
its prepared statements: not behind a pooler.
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
from shiftboss.store.base import ClaimAsk, Turn
from shiftboss.store.postgres import rows
from shiftboss.store.postgres.link import EXCHANGE_LOCK_TIMEOUT_S, BoundedConnection, Link, Params, Row, bounds
from shiftboss.store.postgres.params import claim_params, turn_params
from shiftboss.store.postgres.prepared import can_prepare, encoded, execute, prepare, prepared_name

_TAKE_TURN: Final = "take_turn"
_READABLE: Final = 1  # psycopg's READY_R
_TRUE: Final = b"\x01"  # in binary


class PostgresClaimLine:
    """See `ClaimLine`. The connection is in pipeline mode until `close`."""

    def __init__(self, link: Link, connection: BoundedConnection, now: datetime | None) -> None:
        self._link, self._connection, self._now = link, connection, now
        self._waiting = 0  # claims without an answer
        self._since_s = 0.0  # when the server could begin with the oldest of them
        self._reading: Generator[Any, Any, list[pq.abc.PGresult]] | None = None
        self._results: list[pq.abc.PGresult] = []
        with self._guarded():
            connection.pgconn.enter_pipeline_mode()

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, worker_id: str, ask: ClaimAsk, in_turn: bool) -> None:
        statements: list[tuple[str, Params]] = [(_TAKE_TURN, turn_params(ask))] if in_turn else []
        statements.append((claim_query(ask), claim_params(worker_id, ask, self._now)))
        with self._guarded():
            pgconn = self._connection.pgconn
            for query, params in statements:
                values = _values(query, params)
                if values is None:
                    raise errors.DataError("a name that is no text to PostgreSQL")
                pgconn.send_query_prepared(prepared_name(query), values, result_format=pq.Format.BINARY)
            pgconn.pipeline_sync()
            self._connection.wait(generators.send(pgconn))
            if not self._waiting:
                self._since_s = time.monotonic()
            self._waiting += 1

    def answer(self) -> PostgresClaimAnswer | None:
        with self._guarded():
            while self._waiting and (results := self._read()) is not None:
                if results[0].status != pq.ExecStatus.PIPELINE_SYNC:
                    self._results += results
                    continue
                answers, self._results = self._results, []
                self._waiting -= 1
                self._since_s = time.monotonic()
                for result in answers:
                    if result.status != pq.ExecStatus.TUPLES_OK:
                        raise errors.error_from_result(result, encoding="utf-8")
                *turns, claimed = answers
                return PostgresClaimAnswer(claimed, self._connection, _turn(turns[0]) if turns else None)
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

    def __init__(self, result: pq.abc.PGresult, connection: BoundedConnection, turn: Turn | None) -> None:
        self._result, self._connection = result, connection
        self.turn = turn

    def claims(self) -> list[Claim]:
        return _claims(self._result, self._connection)


def _values(query: str, params: Params) -> list[bytes | None] | None:
    return encoded(query, {name: None if value is None else str(value) for name, value in params.items()})


def _claims(result: pq.abc.PGresult, connection: BoundedConnection) -> list[Claim]:
    if connection.claim_transformer is None:  # knows how each column is read once it has read one
        connection.claim_transformer = Transformer(claim_cursor(connection))
    transformer = connection.claim_transformer
    transformer.set_pgresult(result)
    found = transformer.load_rows(0, result.ntuples, tuple)
    transformer.set_pgresult(None)  # it may be large
    return rows.claims(found)


def claim_cursor(connection: BoundedConnection) -> psycopg.Cursor[Row]:
    """The connection's own that reads claims; to make one costs as much as to read ten."""
    if connection.claim_cursor is None:
        connection.claim_cursor = connection.cursor(binary=True)
        rows.claim_loaders(connection.claim_cursor)
    return connection.claim_cursor


def _turn(result: pq.abc.PGresult) -> Turn:
    """From the binary row of `take_turn`."""
    mine, alone = (result.get_value(0, column) == _TRUE for column in range(2))
    return Turn(mine=mine, alone=alone)


def claim_query(ask: ClaimAsk) -> str:
    """The name of the query for it."""
    return "claim" if ask.merge is None else f"claim_{ask.merge}"


def claim_line(link: Link, ask: ClaimAsk, now: datetime | None) -> PostgresClaimLine | None:
    """One for claims like `ask`; `None` where there can be none."""
    with link.connected() as connection:
        if not _is_ready(link, connection, _TAKE_TURN, claim_query(ask)):
            return None
    return PostgresClaimLine(link, connection, now)


def claim_alone(link: Link, worker_id: str, ask: ClaimAsk, now: datetime | None) -> list[Claim] | None:
    """A claim that nothing is written with; `None` where it has to go the ordinary way, and nothing was done."""
    query = claim_query(ask)
    values = _values(query, claim_params(worker_id, ask, now))
    with link.connected() as connection:
        if values is None or not _is_ready(link, connection, query):
            return None
        result = execute(connection, query, values, pq.Format.BINARY)
        return None if result is None else _claims(result, connection)


def _is_ready(link: Link, connection: BoundedConnection, *queries: str) -> bool:
    """Whether the session keeps what these need, which it has then."""
    link.pin(connection)
    if not can_prepare(connection):
        return False
    if not connection.hasty:
        bounds(connection, pinned=True, lock_timeout_s=EXCHANGE_LOCK_TIMEOUT_S, here_only=False)
        connection.hasty = True
    for query in queries:
        prepare(connection, query)
    return True
