"""What the database says at the end of a round, read as plain rows past every part of Shiftboss but its connection string."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import psycopg

from shiftboss.store.queries import load_queries

SQL: Final = load_queries("tests.chaos", "rows.sql")
Run: TypeAlias = Callable[[str], list[tuple[Any, ...]]]


@dataclass(slots=True, frozen=True)
class TaskRow:
    """A row of `tasks` or `task_history`. `result`: of a completed one, decoded."""

    id: str
    type: str
    status: str
    attempts: int
    max_attempts: int | None
    fence: int
    worker_id: str | None
    unique_key: str | None
    hot: bool
    refunds: int = 0
    last_error: str | None = None
    result: Any = None


@dataclass(slots=True, frozen=True)
class AttemptRow:
    """A row of `task_attempts`."""

    task_id: str
    fence: int
    attempt: int
    outcome: str
    worker_id: str | None
    error: str | None
    started_s: float = 0.0  # by the clock on the wall of who ran it
    duration_s: float = 0.0


@dataclass(slots=True, frozen=True)
class Rows:
    """The whole database."""

    tasks: list[TaskRow]
    attempts: list[AttemptRow]
    workers: list[str]
    leader: tuple[str, int] | None
    departures: dict[str, int]


@contextlib.contextmanager
def reading(url: str) -> Iterator[Run]:
    """Runs queries of rows.sql by their names, on a connection of its own."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(Path(url.removeprefix("sqlite:///")), timeout=30.0)) as connection:
            yield lambda name: connection.execute(SQL[name]).fetchall()
    else:
        with psycopg.connect(url, autocommit=True, application_name="chaos harness") as server:
            yield lambda name: server.execute(SQL[name].encode()).fetchall()


def read(url: str) -> Rows:
    """Everything there is."""
    with reading(url) as run:
        leader = run("leader")
        return Rows(
            tasks=[_hot(row) for row in run("tasks")] + [_ended(row) for row in run("history")],
            attempts=[_attempt(row) for row in run("attempts")],
            workers=[row[0] for row in run("workers")],
            leader=(str(leader[0][0]), int(leader[0][1])) if leader else None,
            departures={type_: int(n) for type_, n in run("departures")},
        )


def unfinished(url: str) -> int:
    """How many tasks still have to end."""
    with reading(url) as run:
        return int(run("unfinished")[0][0])


def workers(url: str) -> int:
    """How many workers are known, whether they live or not."""
    with reading(url) as run:
        return len(run("workers"))


def _attempt(row: tuple[Any, ...]) -> AttemptRow:
    task_id, fence, attempt, outcome, worker, error, started, duration_s = row
    if isinstance(started, str):
        started = datetime.fromisoformat(started).replace(tzinfo=UTC)  # as SQLite keeps it: UTC, and no word of that
    started_s = started.timestamp() if started is not None else 0.0
    return AttemptRow(task_id, fence, attempt, outcome, worker, error, started_s, duration_s or 0.0)


def _hot(row: tuple[Any, ...]) -> TaskRow:
    task_id, type_, status, attempts, most, fence, refunds, worker, key, error = row
    return TaskRow(task_id, type_, status, attempts, most, fence, worker, key, True, refunds, error)


def _ended(row: tuple[Any, ...]) -> TaskRow:
    task_id, type_, status, attempts, most, fence, worker, key, result = row
    return TaskRow(task_id, type_, status, attempts, most, fence, worker, key, False, result=json.loads(result or "null"))
