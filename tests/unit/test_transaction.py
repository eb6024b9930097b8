"""`using(tx=…)`: every kind of connection, on both databases. The caller's transaction decides, and stays the caller's."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import psycopg.rows
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from shiftboss import ArgumentsError, Client, TaskNotFound, TaskState, TransactionError, task
from shiftboss.default import using_client
from shiftboss.store.open import open_store
from shiftboss.store.postgres.enqueue import enqueue_in, psycopg_sql

DDL = "CREATE TABLE orders (id integer PRIMARY KEY)"


@task
def ship(order: int) -> None: ...


@pytest.fixture
def sqlite_client(tmp_path: Path) -> Iterator[Client]:
    with Client(f"sqlite:///{tmp_path}/tasks.db") as client, using_client(client):
        client.enqueue("warm:up")  # makes the tables
        yield client


@pytest.fixture
def pg_client(pg_database: str) -> Iterator[Client]:
    with Client(pg_database) as client, using_client(client):
        yield client


def file_of(client: Client) -> str:
    return client.database_url.removeprefix("sqlite:///")


def alchemy_url(client: Client, *, asynchronous: bool = False) -> sa.URL:
    if client.database_url.startswith("sqlite"):
        return sa.URL.create("sqlite+aiosqlite" if asynchronous else "sqlite", database=file_of(client))
    info = psycopg.conninfo.conninfo_to_dict(client.database_url)
    known = {name: str(info.pop(name)) for name in ("host", "port", "user", "password", "dbname") if name in info}
    return sa.URL.create(
        "postgresql+psycopg",
        username=known.get("user"),
        password=known.get("password"),
        database=known.get("dbname"),
        query={name: known[name] for name in ("host", "port") if name in known},
    )


def exists(client: Client, task_id: str) -> bool:
    return client.get(task_id) is not None


class Alchemy:
    """An SQLAlchemy connection or session under the test's common verbs."""

    def __init__(self, tx: Any) -> None:
        self.tx = tx

    def execute(self, sql: str) -> Any:
        return self.tx.execute(sa.text(sql))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tx, name)


def open_sqlite3(client: Client) -> Any:
    return sqlite3.connect(file_of(client))


def open_awkward_sqlite3(client: Client) -> Any:
    connection = sqlite3.connect(file_of(client))
    connection.row_factory = lambda cursor, row: {"row": row}
    connection.text_factory = bytes
    return connection


def open_psycopg(client: Client) -> Any:
    return psycopg.connect(client.database_url)


def open_awkward_psycopg(client: Client) -> Any:
    return psycopg.connect(
        client.database_url, row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.ClientCursor, prepare_threshold=None
    )


def open_alchemy_connection(client: Client) -> Any:
    return Alchemy(sa.create_engine(alchemy_url(client), poolclass=sa.NullPool).connect())


def open_alchemy_session(client: Client) -> Any:
    return Alchemy(Session(sa.create_engine(alchemy_url(client), poolclass=sa.NullPool)))


def open_alchemy_scoped(client: Client) -> Any:
    return Alchemy(scoped_session(sessionmaker(sa.create_engine(alchemy_url(client), poolclass=sa.NullPool))))


WAYS = [
    ("sqlite_client", open_sqlite3),
    ("sqlite_client", open_awkward_sqlite3),
    ("sqlite_client", open_alchemy_connection),
    ("sqlite_client", open_alchemy_session),
    ("sqlite_client", open_alchemy_scoped),
    ("pg_client", open_psycopg),
    ("pg_client", open_awkward_psycopg),
    ("pg_client", open_alchemy_connection),
    ("pg_client", open_alchemy_session),
    ("pg_client", open_alchemy_scoped),
]


@pytest.fixture(params=WAYS, ids=[f"{database.split('_')[0]}-{way.__name__[5:]}" for database, way in WAYS])
def joined(request: pytest.FixtureRequest) -> Iterator[tuple[Client, Any]]:
    """A client, and a connection of some kind to its database with an empty table of orders."""
    client: Client = request.getfixturevalue(request.param[0])
    tx = request.param[1](client)
    tx.execute(DDL)
    tx.commit()
    yield client, tx
    tx.close()


def tx_of(tx: Any) -> Any:
    return tx.tx if isinstance(tx, Alchemy) else tx


def orders(client: Client) -> int:
    if client.database_url.startswith("sqlite"):
        with sqlite3.connect(file_of(client)) as connection:
            return int(connection.execute("SELECT count(*) FROM orders").fetchone()[0])
    with psycopg.connect(client.database_url) as pg:
        row = pg.execute("SELECT count(*) FROM orders").fetchone()
        assert row is not None
        return int(row[0])


def test_visible_with_the_commit(joined: tuple[Client, Any]) -> None:
    client, tx = joined
    tx.execute("INSERT INTO orders VALUES (1)")
    handle = ship.using(tx=tx_of(tx), queue="q").enqueue(1)
    assert not exists(client, handle.id)
    tx.commit()
    assert handle.status() is TaskState.PENDING
    assert orders(client) == 1


def test_never_been_after_a_rollback(joined: tuple[Client, Any]) -> None:
    client, tx = joined
    tx.execute("INSERT INTO orders VALUES (1)")
    handle = ship.using(tx=tx_of(tx)).enqueue(1)
    tx.rollback()
    with pytest.raises(TaskNotFound, match="not been committed"):
        handle.status()
    assert orders(client) == 0


def test_first_statement_of_a_transaction_too(joined: tuple[Client, Any]) -> None:
    client, tx = joined
    handle = ship.using(tx=tx_of(tx)).enqueue(1)
    assert not exists(client, handle.id)
    tx.rollback()
    assert not exists(client, handle.id)


def test_unique_inside_the_transaction(joined: tuple[Client, Any]) -> None:
    client, tx = joined
    before = ship.using(unique="old").enqueue(1)
    again = ship.using(unique="old", tx=tx_of(tx)).enqueue(2)
    first = ship.using(unique="new", tx=tx_of(tx)).enqueue(3)
    second = ship.using(unique="new", tx=tx_of(tx)).enqueue(4)
    assert (again.existing, again.id) == (True, before.id)
    assert (first.existing, second.existing, second.id) == (False, True, first.id)
    tx.execute("INSERT INTO orders VALUES (1)")  # the transaction is still usable after the conflict
    tx.commit()
    assert exists(client, first.id) and orders(client) == 1


def test_many_inside_the_transaction(joined: tuple[Client, Any]) -> None:
    client, tx = joined
    handles = client.enqueue_many((ship.prepare(i) for i in range(50)), tx=tx_of(tx))
    assert not exists(client, handles[0].id)
    tx.commit()
    assert all(exists(client, handle.id) for handle in handles)


def test_a_refused_argument_leaves_the_transaction_alone(joined: tuple[Client, Any]) -> None:
    client, tx = joined
    tx.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(ArgumentsError):
        ship.using(tx=tx_of(tx)).enqueue("x")  # type: ignore[arg-type]
    tx.execute("INSERT INTO orders VALUES (2)")
    tx.commit()
    assert orders(client) == 2


def test_the_callers_savepoint_decides_too(joined: tuple[Client, Any]) -> None:
    client, tx = joined
    tx.execute("INSERT INTO orders VALUES (1)")
    tx.execute("SAVEPOINT mine")
    undone = ship.using(tx=tx_of(tx)).enqueue(1)
    tx.execute("ROLLBACK TO SAVEPOINT mine")
    kept = ship.using(tx=tx_of(tx)).enqueue(2)
    tx.commit()
    assert not exists(client, undone.id)
    assert exists(client, kept.id)


def test_factories_of_the_caller_are_as_they_were(sqlite_client: Client) -> None:
    connection = open_awkward_sqlite3(sqlite_client)
    row_factory = connection.row_factory
    ship.using(tx=connection).enqueue(1)
    assert connection.text_factory is bytes and connection.row_factory is row_factory
    connection.close()


def test_a_failure_does_not_abort_the_callers_transaction(pg_client: Client) -> None:
    with psycopg.connect(pg_client.database_url) as connection:
        connection.execute(DDL)
        connection.execute("INSERT INTO orders VALUES (1)")
        connection.execute("ALTER TABLE tasks ADD CONSTRAINT no_more CHECK (priority < 50)")
        with pytest.raises(psycopg.errors.CheckViolation):
            ship.using(tx=connection, priority=60).enqueue(1)
        connection.execute("INSERT INTO orders VALUES (2)")
        kept = ship.using(tx=connection).enqueue(1)
    assert exists(pg_client, kept.id) and orders(pg_client) == 2
    with psycopg.connect(pg_client.database_url) as connection:
        with pytest.raises(psycopg.errors.CheckViolation):  # the first statement of a transaction, too
            ship.using(tx=connection, priority=60).enqueue(1)
        connection.execute("INSERT INTO orders VALUES (3)")
    assert orders(pg_client) == 3


def test_failed_and_closed_connections_are_told(pg_client: Client) -> None:
    connection = psycopg.connect(pg_client.database_url)
    with pytest.raises(psycopg.Error):
        connection.execute("SELECT 1/0")
    with pytest.raises(TransactionError, match="failed already"):
        ship.using(tx=connection).enqueue(1)
    connection.close()
    with pytest.raises(TransactionError, match="closed connection"):
        ship.using(tx=connection).enqueue(1)


@pytest.mark.parametrize("way", ["psycopg", "alchemy", "sqlite3"])
def test_autocommit_stores_at_once(request: pytest.FixtureRequest, way: str) -> None:
    client: Client = request.getfixturevalue("sqlite_client" if way == "sqlite3" else "pg_client")
    tx: Any
    if way == "psycopg":
        tx = psycopg.connect(client.database_url, autocommit=True)
    elif way == "sqlite3":
        tx = sqlite3.connect(file_of(client), isolation_level=None)
    else:
        tx = sa.create_engine(alchemy_url(client), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect()
    first = ship.using(tx=tx, unique="u").enqueue(1)
    assert exists(client, first.id)
    assert ship.using(tx=tx, unique="u").enqueue(1).existing
    tx.close()


def test_autocommit_on_sqlite_wakes_workers(sqlite_client: Client) -> None:
    store = open_store(sqlite_client.database_url)
    listener = store.listener("w")
    connection = sqlite3.connect(file_of(sqlite_client), isolation_level=None)
    ship.using(tx=connection).enqueue(1)
    assert listener.wait(5)
    connection.execute("BEGIN")
    ship.using(tx=connection).enqueue(1)
    assert not listener.wait(0)  # nothing to see yet
    connection.close()
    listener.close()
    store.close()


def test_transaction_block_on_an_autocommit_connection(pg_client: Client) -> None:
    with psycopg.connect(pg_client.database_url, autocommit=True) as connection:
        with pytest.raises(ZeroDivisionError), connection.transaction():
            undone = ship.using(tx=connection).enqueue(1)
            raise ZeroDivisionError
        with connection.transaction():
            kept = ship.using(tx=connection).enqueue(2)
    assert (exists(pg_client, undone.id), exists(pg_client, kept.id)) == (False, True)


@pytest.mark.parametrize("driver", ["tells", "does not tell", "sqlite"])
def test_a_transaction_begun_in_sql_on_an_autocommit_connection_stays_the_callers(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    client: Client = request.getfixturevalue("sqlite_client" if driver == "sqlite" else "pg_client")
    if driver == "does not tell":
        monkeypatch.setattr("sqlalchemy.pool.base._ConnectionFairy.driver_connection", None)
    tx = sa.create_engine(alchemy_url(client), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect()
    for end, stored in (("ROLLBACK", False), ("COMMIT", True)):
        tx.execute(sa.text("BEGIN"))
        handles = [ship.using(tx=tx).enqueue(1), *client.enqueue_many([ship.prepare(2)], tx=tx)]
        assert not any(exists(client, it.id) for it in handles)
        tx.execute(sa.text(end))
        assert [exists(client, it.id) for it in handles] == [stored, stored]
    at_once = [ship.using(tx=tx).enqueue(3), *client.enqueue_many([ship.prepare(4)], tx=tx)]
    assert all(exists(client, it.id) for it in at_once)
    tx.close()


@pytest.mark.parametrize("names_it", ["sqlstate", "pgcode", "C"])
def test_every_driver_says_in_its_own_way_that_there_is_no_transaction(pg_client: Client, names_it: str) -> None:
    new, said = ship.prepare(1).new, []

    class Refused(Exception):
        def __init__(self, error: psycopg.Error) -> None:
            super().__init__({"C": error.sqlstate} if names_it == "C" else str(error))
            said.append(error.sqlstate)
            if names_it != "C":
                setattr(self, names_it, error.sqlstate)

    with psycopg.connect(pg_client.database_url, autocommit=True) as connection:

        def execute(sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
            try:
                cursor = connection.execute(psycopg_sql(sql), parameters)
            except psycopg.Error as error:
                raise Refused(error) from None
            return cursor.fetchall() if cursor.description else []

        assert [it.id for it in enqueue_in(execute, [new])] == [new.id]
    assert exists(pg_client, new.id) and said == ["25P01"]


def test_pipeline_of_the_caller(pg_client: Client) -> None:
    with psycopg.connect(pg_client.database_url) as connection, connection.pipeline():
        connection.execute(DDL)
        handle = ship.using(tx=connection).enqueue(1)
        connection.execute("INSERT INTO orders VALUES (1)")
    assert exists(pg_client, handle.id) and orders(pg_client) == 1


def test_async_pipeline_of_the_caller(pg_client: Client) -> None:
    async def main() -> str:
        async with await psycopg.AsyncConnection.connect(pg_client.database_url) as connection, connection.pipeline():
            return (await ship.using(tx=connection).aenqueue(1)).id

    assert exists(pg_client, asyncio.run(main()))


# ---- async


async def _psycopg_async(client: Client, body: Callable[[Any], Any]) -> None:
    connection = await psycopg.AsyncConnection.connect(client.database_url, row_factory=psycopg.rows.dict_row)
    await body(connection)
    await connection.close()


async def _alchemy_async_connection(client: Client, body: Callable[[Any], Any]) -> None:
    engine = create_async_engine(alchemy_url(client, asynchronous=True), poolclass=sa.NullPool)
    async with engine.connect() as connection:
        await body(connection)
    await engine.dispose()


async def _alchemy_async_session(client: Client, body: Callable[[Any], Any]) -> None:
    engine = create_async_engine(alchemy_url(client, asynchronous=True), poolclass=sa.NullPool)
    async with AsyncSession(engine) as session:
        await body(session)
    await engine.dispose()


async def _alchemy_async_scoped(client: Client, body: Callable[[Any], Any]) -> None:
    engine = create_async_engine(alchemy_url(client, asynchronous=True), poolclass=sa.NullPool)
    session = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    await body(session)
    await session.remove()
    await engine.dispose()


ASYNC_WAYS = [
    ("pg_client", _psycopg_async),
    ("pg_client", _alchemy_async_connection),
    ("pg_client", _alchemy_async_session),
    ("pg_client", _alchemy_async_scoped),
    ("sqlite_client", _alchemy_async_connection),
    ("sqlite_client", _alchemy_async_session),
]


@pytest.mark.parametrize(("database", "way"), ASYNC_WAYS, ids=[f"{d.split('_')[0]}{w.__name__}" for d, w in ASYNC_WAYS])
def test_async_transactions(request: pytest.FixtureRequest, database: str, way: Any) -> None:
    client: Client = request.getfixturevalue(database)

    async def body(tx: Any) -> None:
        undone = await ship.using(tx=tx).aenqueue(1)
        await tx.rollback()
        kept = await ship.using(tx=tx, unique="u").aenqueue(2)
        again = await ship.using(tx=tx, unique="u").aenqueue(3)
        (many,) = await client.aenqueue_many([ship.prepare(4)], tx=tx)
        assert (again.existing, again.id) == (True, kept.id)
        assert await client.aget(kept.id) is None
        await tx.commit()
        assert await client.aget(undone.id) is None
        assert await client.aget(kept.id) is not None and await client.aget(many.id) is not None
        with pytest.raises(TransactionError, match="await aenqueue"):
            ship.using(tx=tx).enqueue(1)

    asyncio.run(way(client, body))


def test_sync_transaction_in_aenqueue_is_told(sqlite_client: Client) -> None:
    connection = open_sqlite3(sqlite_client)

    async def main() -> None:
        with pytest.raises(TransactionError, match="call enqueue"):
            await ship.using(tx=connection).aenqueue(1)

    asyncio.run(main())
    connection.close()


# ---- what cannot be joined


def test_other_kinds_of_database_are_refused(sqlite_client: Client, pg_database: str) -> None:
    with psycopg.connect(pg_database) as connection, pytest.raises(TransactionError, match="a transaction cannot span both"):
        ship.using(tx=connection).enqueue(1)
    with Client(pg_database) as client, using_client(client):
        for tx in (open_sqlite3(sqlite_client), open_alchemy_connection(sqlite_client).tx):
            with pytest.raises(TransactionError, match="a transaction cannot span both"):
                ship.using(tx=tx).enqueue(1)
            tx.close()


def test_other_files_are_refused(sqlite_client: Client, tmp_path: Path) -> None:
    for name in (":memory:", str(tmp_path / "other.db")):
        connection = sqlite3.connect(name)
        with pytest.raises(TransactionError, match="open the same file"):
            ship.using(tx=connection).enqueue(1)
        connection.close()


def test_file_without_tables_says_what_to_do(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "new.db")
    connection.execute(DDL)
    with (
        Client(f"sqlite:///{tmp_path}/new.db") as client,
        using_client(client),
        pytest.raises(TransactionError, match="shiftboss db migrate"),
    ):
        ship.using(tx=connection).enqueue(1)
    connection.close()


@pytest.mark.parametrize("tx", [object(), "postgresql://host", 5, sa.create_engine("sqlite://")])
def test_anything_else_is_refused_with_the_list(sqlite_client: Client, tx: object) -> None:
    with pytest.raises(TransactionError, match=r"cannot be joined; pass a psycopg Connection.*AsyncSession"):
        ship.using(tx=tx).enqueue(1)


def test_subclasses_are_recognised(sqlite_client: Client) -> None:
    class Mine(sqlite3.Connection):
        pass

    connection = sqlite3.connect(file_of(sqlite_client), factory=Mine)
    handle = ship.using(tx=connection).enqueue(1)
    connection.commit()
    assert exists(sqlite_client, handle.id)
    connection.close()
