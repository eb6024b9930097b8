"""Joining the caller's transaction: `using(tx=…)`.

Connections are recognised by the names of their classes, so no library is imported that the application has not. What is
stored becomes visible when the caller commits. Nothing here commits, rolls back or closes; on PostgreSQL a failure is
undone to a savepoint of ours, so the caller's transaction goes on. With a connection in autocommit the task is stored at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from shiftboss.errors import StoreError, TransactionError
from shiftboss.model import Enqueued, NewTask
from shiftboss.store.queries import load_queries

Database: TypeAlias = Literal["sqlite", "postgresql"]
_Execute: TypeAlias = Callable[[str, dict[str, Any]], Sequence[Any]]

_ACCEPTED: Final = (
    "a psycopg Connection or AsyncConnection, a sqlite3.Connection, or an SQLAlchemy Session, Connection, AsyncSession or "
    "AsyncConnection"
)
# (module, class) -> what it is. Subclasses are found through the method resolution order.
_KINDS: Final = {
    ("sqlite3", "Connection"): "sqlite3",
    ("psycopg", "Connection"): "psycopg",
    ("psycopg", "AsyncConnection"): "psycopg-async",
    ("sqlalchemy.engine.base", "Connection"): "alchemy",
    ("sqlalchemy.orm.session", "Session"): "alchemy-session",
    ("sqlalchemy.orm.scoping", "scoped_session"): "alchemy-scoped",
    ("sqlalchemy.ext.asyncio.engine", "AsyncConnection"): "alchemy-async",
    ("sqlalchemy.ext.asyncio.session", "AsyncSession"): "alchemy-async-session",
    ("sqlalchemy.ext.asyncio.scoping", "async_scoped_session"): "alchemy-async-scoped",
}
_LIBPQ_IDLE: Final = 0  # PQTRANS_IDLE


def kind_of(database_url: str) -> Database:
    """Which database a URL names. Raises `StoreError` when it is neither."""
    scheme = database_url.partition("://")[0]
    if scheme == "sqlite":
        return "sqlite"
    if scheme in ("postgresql", "postgres"):
        return "postgresql"
    raise StoreError(f"database URL {scheme}://…: write sqlite:///file.db or postgresql://user@host/database")


def enqueue_in(
    tx: object, database_url: str, tasks: Sequence[NewTask], now: datetime | None = None, *, fresh: bool = False
) -> list[Enqueued]:
    """Store tasks in the transaction of a sync connection or session.

    Args:
        database_url: the client's; `tx` must be a connection to the same kind of database, for SQLite to the same file.
        now: replaces the database's clock, in tests.
        fresh: see `Store.enqueue`.

    Raises:
        TransactionError: it cannot be joined. The driver's own errors pass through.
    """
    kind, connection = _recognised(tx)
    match kind:
        case "sqlite3":
            _same_kind("sqlite", database_url)
            return _through_sqlite3(connection, database_url, tasks, now)
        case "psycopg":
            _same_kind("postgresql", database_url)
            return _through_psycopg(connection, tasks, now, fresh)
        case "alchemy" | "alchemy-session":
            return _through_alchemy(connection, database_url, tasks, now, fresh)
    raise TransactionError(f"tx is an async {type(tx).__name__}: await aenqueue() instead of enqueue()")


async def aenqueue_in(
    tx: object, database_url: str, tasks: Sequence[NewTask], now: datetime | None = None, *, fresh: bool = False
) -> list[Enqueued]:
    """`enqueue_in` for an async connection or session."""
    kind, connection = _recognised(tx)
    match kind:
        case "psycopg-async":
            _same_kind("postgresql", database_url)
            return await _through_async_psycopg(connection, tasks, now, fresh)
        case "alchemy-async" | "alchemy-async-session":
            # SQLAlchemy's own bridge: runs the sync code on the sync face of this connection.
            stored: list[Enqueued] = await connection.run_sync(_through_alchemy, database_url, tasks, now, fresh)
            return stored
    raise TransactionError(
        f"tx is a sync {type(tx).__name__}: call enqueue() instead of aenqueue(), in the thread that owns the connection"
    )


def _recognised(tx: object) -> tuple[str, Any]:
    """What `tx` is, and the thing itself behind a scoped session's registry."""
    for base in type(tx).__mro__:
        module = "psycopg" if base.__module__.startswith("psycopg.") else base.__module__
        kind = _KINDS.get((module, base.__name__))
        if kind is not None and kind.endswith("-scoped"):
            return _recognised(tx.registry())  # type: ignore[attr-defined]
        if kind is not None:
            return kind, tx
    raise TransactionError(f"tx={type(tx).__module__}.{type(tx).__qualname__} cannot be joined; pass {_ACCEPTED}")


def _same_kind(kind: str, database_url: str) -> None:
    ours = kind_of(database_url)
    if kind != ours:
        raise TransactionError(
            f"tx is a connection to {kind}, but this client's tasks are in {ours}: a transaction cannot span both. "
            "Use a client of that database, or enqueue after your commit."
        )


# ---- sqlite3


def _sqlite3_execute(connection: Any) -> _Execute:
    import sqlite3

    def execute(sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
        # A cursor of our own has no row factory; the text factory belongs to the connection, so it is lent to us.
        lent, connection.text_factory = connection.text_factory, str
        try:
            return sqlite3.Cursor(connection).execute(sql, parameters).fetchall()
        finally:
            connection.text_factory = lent

    return execute


def _through_sqlite3(connection: Any, database_url: str, tasks: Sequence[NewTask], now: datetime | None) -> list[Enqueued]:
    stored = _through_sqlite(_sqlite3_execute(connection), database_url, tasks, now)
    if not connection.in_transaction:
        from shiftboss.store.sqlite import ring
        from shiftboss.store.sqlite.files import parse_url

        ring(parse_url(database_url))  # autocommit: it is visible now. Else nobody tells us of the commit, and workers poll.
    return stored


def _through_sqlite(execute: _Execute, database_url: str, tasks: Sequence[NewTask], now: datetime | None) -> list[Enqueued]:
    from shiftboss.store.sqlite import enqueue_in as enqueue_in_sqlite
    from shiftboss.store.sqlite.files import parse_url

    queries = load_queries("shiftboss", "transaction.sql")
    ((file,),) = execute(queries["sqlite_main_file"], {})
    path = parse_url(database_url)
    if not file or not path.exists() or not Path(file).samefile(path):
        raise TransactionError(
            f"tx is a connection to {file or 'a database in memory'}, but this client's tasks are in {path}: "
            "open the same file, or enqueue after your commit"
        )
    if not execute(queries["sqlite_has_tasks"], {}):
        raise TransactionError(f"{path} has no tables of Shiftboss yet: start a worker once, or run `shiftboss db migrate`")
    return enqueue_in_sqlite(execute, tasks, now or datetime.now(UTC))


# ---- psycopg


def _through_psycopg(connection: Any, tasks: Sequence[NewTask], now: datetime | None, fresh: bool) -> list[Enqueued]:
    from shiftboss.store.postgres.enqueue import enqueue_in as enqueue_in_postgres
    from shiftboss.store.postgres.enqueue import psycopg_sql

    psycopg = sys.modules["psycopg"]  # loaded: someone made a connection of it
    in_transaction = _psycopg_transaction(psycopg, connection)

    def execute(sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
        # Cursor and row factories of the caller are not asked.
        with psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            if connection.pgconn.pipeline_status:
                with connection.pipeline():  # inside the caller's: at its end the result is here
                    cursor.execute(psycopg_sql(sql), parameters)
            else:
                cursor.execute(psycopg_sql(sql), parameters)
            rows: Sequence[Any] = cursor.fetchall() if cursor.description else []
            return rows

    return enqueue_in_postgres(execute, tasks, in_transaction=in_transaction, now=now, fresh=fresh)


async def _through_async_psycopg(connection: Any, tasks: Sequence[NewTask], now: datetime | None, fresh: bool) -> list[Enqueued]:
    from shiftboss.store.postgres.enqueue import aenqueue_in as aenqueue_in_postgres
    from shiftboss.store.postgres.enqueue import psycopg_sql

    psycopg = sys.modules["psycopg"]
    in_transaction = _psycopg_transaction(psycopg, connection)

    async def execute(sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
        async with psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            if connection.pgconn.pipeline_status:
                async with connection.pipeline():
                    await cursor.execute(psycopg_sql(sql), parameters)
            else:
                await cursor.execute(psycopg_sql(sql), parameters)
            rows: Sequence[Any] = await cursor.fetchall() if cursor.description else []
            return rows

    return await aenqueue_in_postgres(execute, tasks, in_transaction=in_transaction, now=now, fresh=fresh)


def _psycopg_transaction(psycopg: Any, connection: Any) -> bool:
    """Whether our statements are part of a transaction, the caller's or one that they begin."""
    if connection.closed:
        raise TransactionError("tx is a closed connection; nothing was enqueued")
    status = connection.info.transaction_status
    if status == psycopg.pq.TransactionStatus.INERROR:
        raise TransactionError("tx has failed already and can only be rolled back; nothing was enqueued")
    return not connection.autocommit or status != psycopg.pq.TransactionStatus.IDLE


# ---- SQLAlchemy


def _through_alchemy(tx: Any, database_url: str, tasks: Sequence[NewTask], now: datetime | None, fresh: bool) -> list[Enqueued]:
    connection = tx if hasattr(tx, "dialect") else _connection_of(tx)
    kind = connection.dialect.name
    _same_kind(kind, database_url)
    text = sys.modules["sqlalchemy"].text

    def execute(sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
        result = connection.execute(text(sql), parameters)
        rows: Sequence[Any] = result.fetchall() if result.returns_rows else []
        return rows

    if kind == "sqlite":
        return _through_sqlite(execute, database_url, tasks, now)
    from shiftboss.store.postgres.enqueue import enqueue_in as enqueue_in_postgres

    return enqueue_in_postgres(execute, tasks, in_transaction=_alchemy_transaction(connection), now=now, fresh=fresh)


def _alchemy_transaction(connection: Any) -> bool | None:
    """As `_psycopg_transaction`. In autocommit the caller may have begun one in SQL: libpq's drivers know; others do not say."""
    pooled = connection.connection
    if getattr(pooled.dbapi_connection, "autocommit", False) is not True:
        return True
    status = getattr(getattr(pooled.driver_connection, "info", None), "transaction_status", None)
    return None if status is None else bool(status != _LIBPQ_IDLE)


def _connection_of(session: Any) -> Any:
    try:
        return session.connection()
    except sys.modules["sqlalchemy"].exc.UnboundExecutionError as error:
        raise TransactionError(
            "tx is a session with several binds; pass session.connection(bind_arguments={'bind': engine}) instead"
        ) from error
