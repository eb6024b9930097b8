"""Storing tasks: on our own connection, and on one that belongs to the caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from shiftboss.errors import StoreUnavailable
from shiftboss.model import Enqueued, NewTask
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.times import after, to_text

# (statement with named parameters, their values) -> all rows
Execute: TypeAlias = Callable[[str, dict[str, Any]], Sequence[Any]]

_TRIES: Final = 10


def enqueue(connection: sqlite3.Connection, tasks: Sequence[NewTask], now: datetime) -> list[Enqueued]:
    """`enqueue_in` on a connection of our own, in a write transaction: most batches hold nothing but new tasks."""
    moment = to_text(now)
    rows = [row_of(task, now, moment) for task in tasks]
    ids = [task.id for task in tasks]
    ((may_have_ended,),) = connection.execute(SQL["any_ended_between"], {"first": min(ids), "last": max(ids)})
    connection.execute(SQL["savepoint"])
    try:
        if connection.executemany(SQL["enqueue_one" if may_have_ended else "enqueue_new"], rows).rowcount == len(rows):
            return [Enqueued(id=task.id) for task in tasks]
        connection.execute(SQL["rollback_to_savepoint"])
    finally:
        connection.execute(SQL["release_savepoint"])
    return enqueue_in(lambda sql, values: connection.execute(sql, values).fetchall(), tasks, now)


def enqueue_in(execute: Execute, tasks: Sequence[NewTask], now: datetime) -> list[Enqueued]:
    """Store `tasks` through `execute`, in the order given. Begins, commits and rolls back nothing, takes no lock.

    A task whose unique key is held, or whose id is known already, is not stored again: `existing` says so.

    Raises:
        StoreUnavailable: a unique key changed hands ten times while we looked.
        sqlite3.Error: whatever `execute` raises.
    """
    done: dict[int, Enqueued] = {}
    for _ in range(_TRIES):
        left = [index for index in range(len(tasks)) if index not in done]
        if not left:
            break
        stored = _insert(execute, [tasks[index] for index in left], now)
        for index in left:
            if tasks[index].id in stored:
                stored.discard(tasks[index].id)  # the same id twice in one batch is stored once
                done[index] = Enqueued(id=tasks[index].id)
        _find_existing(execute, tasks, [index for index in left if index not in done], done)
    if len(done) < len(tasks):
        raise StoreUnavailable("unique keys kept changing hands while enqueueing; nothing is wrong with the database, try again.")
    return [done[index] for index in range(len(tasks))]


def _insert(execute: Execute, tasks: Sequence[NewTask], now: datetime) -> set[str]:
    moment = to_text(now)
    rows = msgspec.json.encode([row_of(task, now, moment) for task in tasks]).decode()
    return {row[0] for row in execute(SQL["enqueue"], {"rows": rows})}


def row_of(task: NewTask, now: datetime, moment: str | None = None) -> tuple[object, ...]:
    """The values of `enqueue_one` and `enqueue_new`. `moment`: `now` as text, for those who have many."""
    moment = moment or to_text(now)
    # JSON values travel as text inside the JSON array, so that they are stored to the letter.
    run_at = after(now, task.delay_s) if task.delay_s is not None else task.run_at
    return (
        task.id,
        task.type,
        task.queue,
        task.priority,
        bytes(task.args).decode(),
        task.max_attempts,
        task.timeout_s,
        task.unique_key,
        msgspec.json.encode(task.tags).decode() if task.tags else None,
        None if task.meta is None else bytes(task.meta).decode(),
        moment,
        moment if run_at is None else to_text(run_at),
    )


def _find_existing(execute: Execute, tasks: Sequence[NewTask], left: Sequence[int], done: dict[int, Enqueued]) -> None:
    if not left:
        return
    ids = {row[0] for row in execute(SQL["known_ids"], {"rows": _texts([tasks[index].id for index in left])})}
    keys = [key for index in left if (key := tasks[index].unique_key) is not None]
    holders = {row[0]: row[1] for row in execute(SQL["holders_of_keys"], {"rows": _texts(keys)})} if keys else {}
    for index in left:
        task = tasks[index]
        existing = task.id if task.id in ids else holders.get(task.unique_key)
        if existing is not None:
            done[index] = Enqueued(id=existing, existing=True)


def _texts(texts: Sequence[str]) -> str:
    return msgspec.json.encode(texts).decode()
