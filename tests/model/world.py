"""A real store with everything that the rule machine needs beside it: a clock that stands still, the tables as text, a sponge."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from shiftboss.store.base import Store
from shiftboss.store.open import open_store

Line = tuple[str | None, ...]

# All that is compared with the oracle, one line a row; and after it whatever must never be true.
_LINES: Final = """
SELECT 'task', CAST(id AS text), status, CAST(attempts AS text), CAST(fence AS text), CAST(refunds AS text), worker_id,
       CASE WHEN cancel_requested = {true} THEN 'asked' END, CAST(max_attempts AS text) FROM tasks
UNION ALL SELECT 'ended', CAST(id AS text), status, CAST(attempts AS text), CAST(fence AS text), NULL,
       CASE WHEN status = 'completed' THEN worker_id END, NULL, CAST(max_attempts AS text) FROM task_history
UNION ALL SELECT 'attempt', CAST(task_id AS text), outcome, CAST(attempt AS text), CAST(fence AS text), NULL, NULL, NULL, NULL
       FROM task_attempts
UNION ALL SELECT 'worker', id, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM workers
UNION ALL SELECT 'leader', worker_id, NULL, NULL, CAST(term AS text), NULL, NULL, NULL, NULL FROM leader
UNION ALL SELECT 'counter', worker_id, name, labels, CAST(CAST(value * 2 AS integer) AS text), NULL, NULL, NULL, NULL
       FROM counters
UNION ALL SELECT 'broken', CAST(id AS text), 'a leased task has an owner', NULL, NULL, NULL, NULL, NULL, NULL FROM tasks
       WHERE status IN ('claimed', 'running') AND worker_id IS NULL
UNION ALL SELECT 'broken', CAST(id AS text), 'attempts stay within their bounds', NULL, NULL, NULL, NULL, NULL, NULL FROM tasks
       WHERE attempts < 0 OR attempts > coalesce(max_attempts, attempts) OR refunds NOT BETWEEN 0 AND 100
UNION ALL SELECT 'broken', CAST(t.id AS text), 'a task is alive or ended, not both', NULL, NULL, NULL, NULL, NULL, NULL
       FROM tasks t JOIN task_history h ON h.id = t.id
UNION ALL SELECT 'broken', CAST(a.task_id AS text), 'no outcome has a fence of the future', NULL, NULL, NULL, NULL, NULL, NULL
       FROM task_attempts a JOIN tasks t ON t.id = a.task_id WHERE a.fence > t.fence
UNION ALL SELECT 'broken', CAST(h.id AS text), 'a completed attempt has no other outcome', NULL, NULL, NULL, NULL, NULL, NULL
       FROM task_attempts a JOIN task_history h ON h.id = a.task_id AND h.fence = a.fence WHERE h.status = 'completed'
UNION ALL SELECT 'broken', min(unique_key), 'a unique key is held once', NULL, NULL, NULL, NULL, NULL, NULL FROM tasks
       WHERE status IN ('pending', 'claimed', 'running') AND unique_key IS NOT NULL GROUP BY unique_key HAVING count(*) > 1
"""
_TABLES: Final = (
    "tasks",
    "task_history",
    "task_attempts",
    "task_traces",
    "workers",
    "leader",
    "counters",
    "departures",
    "queues",
)


class StillClock:
    """Moves only when told."""

    def __init__(self) -> None:
        self.start = datetime.now(UTC).replace(microsecond=0)
        self.passed_s = 0.0

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.passed_s)

    def monotonic_s(self) -> float:
        return 1_000.0 + self.passed_s


@dataclass(frozen=True)
class World:
    """One database for many runs."""

    backend: str
    store: Store
    clock: StillClock
    run: Callable[[str], list[tuple[Any, ...]]]

    def lines(self) -> set[Line]:
        """The whole database as text."""
        return set(self.run(_LINES.format(true="true" if self.backend == "postgres" else "1")))

    def wipe(self) -> None:
        """As after the migration: faster than a new database."""
        self.clock.passed_s = 0.0
        self.run("BEGIN")
        for table in _TABLES:
            self.run(f"DELETE FROM {table}")
        self.run("COMMIT")


@contextlib.contextmanager
def opened(backend: str, url: str) -> Iterator[World]:
    """The store at `url`, migrated."""
    clock = StillClock()
    store = open_store(url, clock=clock)
    with contextlib.closing(store):
        store.migrate()
        with contextlib.closing(_connect(backend, url)) as connection:

            def run(statement: str) -> list[tuple[Any, ...]]:
                cursor = connection.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []

            yield World(backend, store, clock, run)


def _connect(backend: str, url: str) -> Any:
    if backend == "sqlite":
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=10.0)
    import psycopg

    return psycopg.connect(url, autocommit=True)
