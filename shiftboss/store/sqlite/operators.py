"""What people do to tasks and queues: list, cancel, retry, delete, pause."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from shiftboss.model import LEASED_STATES, QueueView, TaskState, TaskView
from shiftboss.store.base import Cancelled, TaskFilter
from shiftboss.store.sqlite.leader import delete_history, delete_tasks
from shiftboss.store.sqlite.ledger import Ledger
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.times import to_text
from shiftboss.store.sqlite.views import rows_of, task_view

_AFTER_EVERY_ID: Final = "~"  # sorts behind all hexadecimal digits


class Match(NamedTuple):
    """A task that a filter chose."""

    id: str
    type: str
    status: str
    attempts: int


def list_tasks(connection: sqlite3.Connection, which: TaskFilter, limit: int, before: str | None) -> list[TaskView]:
    """See `Store.list_tasks`."""
    values = _values(which) | {"limit": max(0, limit), "before": before or _AFTER_EVERY_ID}
    found = [
        row for table in ("tasks", "history") for row in rows_of(connection.execute(SQL[f"list_{table}{_by_id(which)}"], values))
    ]
    found.sort(key=lambda row: str(row["id"]), reverse=True)
    return [task_view(row) for row in found[: max(0, limit)]]


def cancel(connection: sqlite3.Connection, which: TaskFilter, now: datetime) -> Cancelled:
    """See `Store.cancel`."""
    found = _match(connection, "tasks", which)
    pending = [match for match in found if match.status == TaskState.PENDING]
    leased = [match for match in found if match.status in LEASED_STATES]
    ledger = Ledger(now)
    for match in pending:
        ledger.cancelled(match.id, match.type, match.attempts)
    ledger.write(connection)
    connection.executemany(SQL["request_cancel"], [(match.id, to_text(now)) for match in leased])
    return Cancelled(cancelled=len(pending), requested=len(leased))


def retry(connection: sqlite3.Connection, which: TaskFilter, now: datetime) -> int:
    """See `Store.retry`."""
    moment = to_text(now)
    dead = [match for match in _match(connection, "tasks", which) if match.status == TaskState.DEAD_LETTER]
    moved = sum(connection.execute(SQL["retry_dead_letter"], (match.id, moment)).rowcount for match in dead)
    cancelled = [match for match in _match(connection, "history", which) if match.status == TaskState.CANCELLED]
    revived = [match for match in cancelled if connection.execute(SQL["retry_cancelled"], (match.id, moment)).rowcount == 1]
    connection.execute(SQL["delete_history"], {"ids": _json([match.id for match in revived])})
    ledger = Ledger(now)
    ledger.departed((match.type for match in revived), sign=-1)
    ledger.write(connection)
    return moved + len(revived)


def delete(connection: sqlite3.Connection, which: TaskFilter, now: datetime) -> int:
    """See `Store.delete`."""
    idle = [match.id for match in _match(connection, "tasks", which) if match.status not in LEASED_STATES]
    ended = [match.id for match in _match(connection, "history", which)]
    delete_tasks(connection, idle, now)
    delete_history(connection, ended)
    return len(idle) + len(ended)


def queues(connection: sqlite3.Connection, now: datetime) -> list[QueueView]:
    """See `Store.queues`."""
    known: dict[str, dict[str, Any]] = {}
    for name, paused, concurrency, weight in connection.execute(SQL["queue_settings"]):
        known[name] = {"paused": bool(paused), "concurrency": concurrency, "weight": weight}
    for name, status, count in connection.execute(SQL["queue_counts"]):
        known.setdefault(name, {})[status] = count
    for name, count in connection.execute(SQL["queue_due"], {"now": to_text(now)}):
        known.setdefault(name, {})["due"] = count
    return [QueueView(name=name, **known[name]) for name in sorted(known)]


def set_queue(
    connection: sqlite3.Connection, name: str, paused: bool | None, concurrency: int | None, weight: int | None
) -> None:
    """See `Store.set_queue`."""
    connection.execute(SQL["set_queue"], {"name": name, "paused": paused, "concurrency": concurrency, "weight": weight})


def _match(connection: sqlite3.Connection, table: str, which: TaskFilter) -> list[Match]:
    cursor = connection.execute(SQL[f"match_{table}{_by_id(which)}"], _values(which))
    return [Match._make(row) for row in cursor]


def _by_id(which: TaskFilter) -> str:
    # Two statements, so that a look-up by id uses the primary key.
    return "" if which.ids is None else "_by_id"


def _values(which: TaskFilter) -> dict[str, Any]:
    return {
        "ids": _json(list(which.ids or ())),
        "status": which.status,
        "type": which.type,
        "queue": which.queue,
        "worker_id": which.worker_id,
        "tag": which.tag,
    }


def _json(texts: list[str]) -> str:
    return msgspec.json.encode(texts).decode()
