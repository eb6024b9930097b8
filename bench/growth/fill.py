"""A store as it is after months of work: many finished tasks, or many that are due later."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

import psycopg

from bench.target import Target
from shiftboss.store.queries import load_queries

_SQLITE: Final = load_queries("bench.growth", "sqlite.sql")
_POSTGRES: Final = load_queries("bench.growth", "postgres.sql")
_BATCH: Final = 500_000  # rows in a transaction: bounds the write-ahead log of either database


class Filler:
    """A connection of its own to the database of a target."""

    def __init__(self, target: Target) -> None:
        self._connection: sqlite3.Connection | psycopg.Connection[tuple[Any, ...]]
        if target.url.startswith("sqlite"):
            self._connection = sqlite3.connect(target.url.removeprefix("sqlite:///"), isolation_level=None, timeout=60)
            self._queries: Mapping[str, str] = _SQLITE
        else:
            self._connection = psycopg.connect(target.url, autocommit=True)
            self._queries = _POSTGRES

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._connection.close()

    def finished(self, rows: int) -> None:
        """Completed tasks of the last six days."""
        if "add_history_days" in self._queries:
            self.rows("add_history_days")
        self._fill("fill_history", rows)

    def future(self, rows: int) -> None:
        """Tasks due tomorrow and later, in the lane that is drained."""
        self._fill("fill_future", rows)

    def rows(self, query: str, **params: object) -> list[tuple[Any, ...]]:
        """What one of the queries says; nothing for one that only changes."""
        if isinstance(self._connection, sqlite3.Connection):
            return self._connection.execute(self._queries[query], params).fetchall()
        cursor = self._connection.execute(self._queries[query].encode(), params)
        return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """A transaction with a snapshot that is held and does nothing, for the time of the block."""
        if isinstance(self._connection, sqlite3.Connection):
            self._connection.execute("BEGIN")
        else:
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        self.rows("pin")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    def _fill(self, query: str, rows: int) -> None:
        for first in range(1, rows + 1, _BATCH):
            self.rows(query, first=first, last=min(rows, first + _BATCH - 1), rows=rows)
        self.rows("settle")
