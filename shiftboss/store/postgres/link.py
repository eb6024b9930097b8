"""One connection that heals itself: opened at the next call after a failure, every wait bounded on both sides."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TypeVar

import psycopg
from psycopg import abc as pg_abc
from psycopg import pq
from psycopg.types.datetime import TimestamptzLoader

from shiftboss.errors import StoreError, StoreUnavailable
from shiftboss.store.postgres.arrays import register_arrays
from shiftboss.store.postgres.dsn import Address
from shiftboss.store.postgres.errors import is_pooler_trouble, is_unavailable, translated
from shiftboss.store.postgres.sqltext import queries

RV = TypeVar("RV")
Row = tuple[Any, ...]
Params = Mapping[str, object]

# With the grace below less than the supervisor's default patience (ping_timeout): who waits for a frozen server is not hung.
STATEMENT_TIMEOUT_S: Final = 20.0
LOCK_TIMEOUT_S: Final = 5.0
# Of an exchange: longer than any transaction of ours holds a row; who is told LATER does not even wait for so long.
EXCHANGE_LOCK_TIMEOUT_S: Final = 1.0
IDLE_TIMEOUT_S: Final = 15.0
# How much longer than the server's own deadline we wait for its word, before we take it for frozen.
_GRACE_S: Final = 5.0
_PREPARE_THRESHOLD: Final = 5
_CHECK_INTERVAL: Final = "SELECT set_config('client_connection_check_interval', '5s', false)"
# A statement of its own is a transaction of its own, by whatever isolation the database's owner has made the default.
_ISOLATION: Final = "SELECT set_config('default_transaction_isolation', 'read committed', false)"
# The server notices that we have vanished, as we do of it (see dsn.py). By itself it asks after two hours, or sends an answer
# again for a quarter of one; and a client that was cut off in the middle of a pipeline leaves its transaction open with all its
# locks meanwhile: to the server it is not idle.
_KEEPALIVES: Final = """
SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '15000', false)
"""


class BoundedConnection(psycopg.Connection[Row]):
    """A connection that waits for an answer only so long: a frozen server still acknowledges packets."""

    patience_s: float = STATEMENT_TIMEOUT_S + _GRACE_S
    pipelined: psycopg.Pipeline | None = None
    bounded: bool = False  # the deadlines stand in the session: not behind a pooler, where the next transaction is another's
    pinned: bool = False  # and so do the plans of the hot path
    hasty: bool = False  # and it waits no longer for a lock than an exchange does

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.uses: dict[str, int] = {}  # query -> how often it went the ordinary way; see prepared.py
        self.prepared: set[str] = set()
        self.claim_cursor: psycopg.Cursor[Row] | None = None  # knows how claims are read; see claims.py
        self.claim_transformer: pg_abc.Transformer | None = None

    def wait(self, gen: pg_abc.PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        try:
            return super().wait(_bounded(gen, time.monotonic() + self.patience_s), *args, **kwargs)
        except _NoAnswer:
            self.close()  # now, or leaving the pipeline would wait for the same answer
            raise

    def collect(self) -> None:
        """Wait for the answers to all that was queued, in the middle of a transaction.

        With a Sync, not the Flush that fetching would send: only after a Sync does the server count the time that we
        then let pass as idle, and ends the transaction of a client that froze with its locks.
        """
        if self.pipelined is not None:
            self.pipelined.sync()


class _NoAnswer(psycopg.OperationalError):
    """The deadline of one wait has passed."""


def _bounded(gen: pg_abc.PQGen[RV], deadline_s: float) -> Generator[Any, Any, RV]:
    """Pass everything through until the deadline. Nothing ready (0) is sent about ten times a second while waiting."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline_s:
                gen.close()
                raise _NoAnswer("no answer from the server within the deadline")
            wanted = gen.send(ready)
    except StopIteration as end:
        value: RV = end.value
        return value


class Link:
    """The connection of one store object; belongs to one thread."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._connection: BoundedConnection | None = None
        self._no_prepare = False  # learned: a pooler refused a prepared statement

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def connected(self) -> _Connected:
        """A context: the open connection; errors come out as ours, and after any that leaves it in doubt it is closed.

        Raises:
            StoreUnavailable: not reachable, read-only, or ended under way: the outcome is unknown.
            StoreError: the database refused the statement.
        """
        return _Connected(self)

    @contextmanager
    def transaction(
        self, *, pinned: bool = False, statement_timeout_s: float = STATEMENT_TIMEOUT_S, lock_timeout_s: float = LOCK_TIMEOUT_S
    ) -> Iterator[BoundedConnection]:
        """One transaction in pipeline mode: one round trip, unless the body fetches a result before its end.

        Results fetched after the block cost no round trip of their own. `pinned` fixes the plans of the hot path.
        """
        with self.connected() as connection:
            connection.patience_s = statement_timeout_s + _GRACE_S
            with connection.pipeline() as connection.pipelined:
                connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                bounds(connection, pinned, statement_timeout_s, lock_timeout_s)
                yield connection
                committed = connection.execute("COMMIT")
            if committed.statusmessage != "COMMIT":  # a failed transaction answers ROLLBACK, without an error
                raise StoreUnavailable(f"PostgreSQL at {self.address.where} rolled the transaction back instead of committing it")

    def rows(self, query: str, params: Params | None = None, *, pinned: bool = False) -> list[Row]:
        """The rows of one query in a transaction of its own."""
        return self.alone(queries()[query], params or {}, pinned, prepare=None if pinned else False).fetchall()

    def changed(self, query: str, params: Params, *, pinned: bool = False) -> int:
        """How many rows one statement changed, in a transaction of its own."""
        return self.alone(queries()[query], params, pinned, prepare=None).rowcount

    def alone(self, sql: str, params: Params, pinned: bool, *, prepare: bool | None = None) -> psycopg.Cursor[Row]:
        """One statement, a transaction of its own. Where the session has its deadlines and plans it is all that the server
        hears: an idle worker looks into the database every second, for as long as it lives, and whoever enqueues waits."""
        with self.connected() as connection:
            if pinned:
                self.pin(connection)
            if connection.bounded and connection.pinned == pinned:
                return connection.execute(sql, params, prepare=prepare)
        with self.transaction(pinned=pinned) as connection:
            return connection.execute(sql, params, prepare=prepare)

    def pin(self, connection: BoundedConnection) -> None:
        """Fix the plans of the hot path for the session, unless it is another's with the next transaction. By a claimer, or by
        who enqueues: both go on like this."""
        if connection.bounded and not connection.pinned:
            bounds(connection, pinned=True, here_only=False)
            connection.pinned = True

    def in_transaction(self) -> bool:
        """Whether one was begun by name and has not ended."""
        connection = self._connection
        return (
            connection is not None and not connection.closed and connection.info.transaction_status != pq.TransactionStatus.IDLE
        )

    def open(self) -> BoundedConnection:
        """The connection, made anew where there is none. Raises as psycopg does: use it inside `connected`."""
        connection = self._connection
        if connection is None or connection.closed:
            self._connection = connection = connect(self.address)
            pooled = is_pooled(connection)
            connection.prepare_threshold = self._threshold(pooled)
            if not pooled:
                watch_client(connection)
                # Before version 14, or not on Linux: works without.
                with suppress(psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject):
                    connection.execute(_CHECK_INTERVAL)
                connection.execute(_ISOLATION)
                bounds(connection, here_only=False)
                connection.bounded = True
        connection.patience_s = STATEMENT_TIMEOUT_S + _GRACE_S
        return connection

    def _threshold(self, pooled: bool) -> int | None:
        wanted = self.address.prepare_threshold
        if self._no_prepare or wanted == 0:
            return None
        return wanted or (None if pooled else _PREPARE_THRESHOLD)

    def failed(self, error: BaseException) -> StoreError | None:
        """After an error on the connection: leave it in no doubt. What to raise instead, for one of the driver's."""
        if not isinstance(error, psycopg.Error):
            self._settle(keep=isinstance(error, Exception))
            return None
        self._no_prepare = self._no_prepare or is_pooler_trouble(error)
        self._settle(keep=not is_unavailable(error) and not is_pooler_trouble(error))
        return translated(error, self.address.where)

    def _settle(self, keep: bool) -> None:
        """After an error: roll back when the connection is sound, else close it."""
        connection = self._connection
        try:
            if connection is None or not keep or connection.closed:
                self.close()
            elif connection.info.transaction_status != pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self.close()


class _Connected:
    """What `Link.connected` returns; a generator as a context costs three times as much."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> BoundedConnection:
        try:
            return self._link.open()
        except BaseException as error:
            self._leave(error)
            raise

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None) -> None:
        if error is not None:
            self._leave(error)

    def _leave(self, error: BaseException) -> None:
        if (ours := self._link.failed(error)) is not None:
            raise ours from error


class _UtcLoader(TimestamptzLoader):
    """Times in UTC, whatever the session's time zone is."""

    def load(self, data: pg_abc.Buffer) -> datetime:
        return super().load(data).astimezone(UTC)


def connect(address: Address) -> BoundedConnection:
    """A new connection in autocommit mode: transactions are begun by name."""
    connection = BoundedConnection.connect(address.conninfo, autocommit=True, prepare_threshold=None)
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.adapters.register_loader("timestamptz", _UtcLoader)
    register_arrays(connection)
    return connection


def is_pooled(connection: BoundedConnection) -> bool:
    """Whether something in between answers for the server: a pooler cannot tell us the number of a backend it may change."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is None or row[0] != connection.info.backend_pid


def watch_client(connection: BoundedConnection) -> None:
    """Have the server notice within half a minute when we have vanished without a word. Not behind a pooler."""
    connection.execute(_KEEPALIVES)


def bounds(
    connection: BoundedConnection,
    pinned: bool = False,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    here_only: bool = True,
) -> None:
    """Set the deadlines of the open transaction, and the plans of the hot path when `pinned`.

    Args:
        here_only: `False`: of the session, outside a transaction.
    """
    query = "pinned_bounds" if pinned else "unpinned_bounds" if connection.pinned else "bounds"
    timeouts = {"statement_timeout": statement_timeout_s, "lock_timeout": lock_timeout_s, "idle_timeout": IDLE_TIMEOUT_S}
    run(connection, query, {**{name: f"{s * 1000:.0f}" for name, s in timeouts.items()}, "here_only": here_only})


def lift_bounds(connection: BoundedConnection) -> None:
    """The open transaction takes as long as it takes, or as the database's owner allows."""
    run(connection, "lift_bounds", {})


def run(
    connection: BoundedConnection,
    query: str,
    params: Params,
    *,
    binary: bool = False,
) -> psycopg.Cursor[Row]:
    """Queue a named query in an open transaction; `binary`: have the rows in that form, which is quicker to write and to read."""
    return connection.cursor(binary=binary).execute(queries()[query], params)
