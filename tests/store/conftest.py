"""Every test that takes `store` runs twice: on SQLite and on PostgreSQL, each with a fresh database.

On PostgreSQL the store connects as a role that may do no more than a service needs; `raw` is the owner's.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_harness import ManualClock, RawSql, World

from shiftboss.store.base import Store
from shiftboss.store.open import open_store
from tests.conftest import as_role


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'tasks.db'}"
    return str(request.getfixturevalue("pg_database"))


@pytest.fixture
def world(backend: str, database_url: str, clock: ManualClock) -> Iterator[World]:
    used_url = database_url if backend == "sqlite" else as_role(database_url, "worker")
    with contextlib.ExitStack() as opened:

        def open_another() -> Store:
            store = open_store(used_url, clock=clock)
            opened.callback(store.close)
            return store

        store = open_another()
        store.migrate()
        raw = opened.enter_context(_operator(backend, database_url))
        yield World(backend, store, clock, raw, open_another)


@pytest.fixture
def store(world: World) -> Store:
    return world.store


@pytest.fixture
def other_store(world: World) -> Store:
    """A second connection to the same database."""
    return world.open()


@pytest.fixture
def raw(world: World) -> RawSql:
    """SQL as an operator types it, through the driver alone."""
    return world.raw


@contextlib.contextmanager
def _operator(backend: str, database_url: str) -> Iterator[RawSql]:
    if backend == "sqlite":
        connection: Any = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    else:
        import psycopg

        connection = psycopg.connect(database_url, autocommit=True)

    def run(statement: str) -> list[tuple[Any, ...]]:
        cursor = connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []

    try:
        yield run
    finally:
        connection.close()
