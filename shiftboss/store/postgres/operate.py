"""What operators do to tasks: in batches by id, so that a filter that matches a million rows blocks nobody for long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import psycopg

from shiftboss.errors import StoreError
from shiftboss.model import TaskState, TaskView
from shiftboss.store.base import Cancelled, TaskFilter
from shiftboss.store.postgres import rows
from shiftboss.store.postgres.arrays import plain_array
from shiftboss.store.postgres.link import Link, Row
from shiftboss.store.postgres.params import is_uuid
from shiftboss.store.postgres.upkeep import NIL_ID

_BATCH: Final = 1_000
_TRIES: Final = 3
# Operators' changes to `departures` do not share rows with the workers'.
_SLOT: Final = ""


def list_tasks(link: Link, which: TaskFilter, limit: int, before: str | None) -> list[TaskView]:
    found = read_tasks(link, "list_tasks", {**_which(which), "before": _id(before), "most": max(0, limit)})
    return [rows.task_view(row) for row in found]


def read_tasks(link: Link, query: str, params: dict[str, Any]) -> list[Row]:
    """Tasks as far as we may see them: without their bodies for a role that may not read those."""
    try:
        return link.rows(query, params)
    except StoreError as error:
        if not isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):
            raise
        return link.rows(f"{query}_bare", params)


def cancel(link: Link, which: TaskFilter, now: datetime | None) -> Cancelled:
    cancelled = requested = 0
    for _, status in _batches(link, "cancel", which, now):
        cancelled += status == TaskState.PENDING
        requested += status != TaskState.PENDING
    return Cancelled(cancelled=cancelled, requested=requested)


def retry(link: Link, which: TaskFilter, now: datetime | None) -> int:
    moved = 0
    for query in ("retry_dead_letters", "retry_cancelled"):
        moved += sum(1 for _, went in _batches(link, query, which, now) if went)
    if moved:
        link.rows("ring")
    return moved


def delete(link: Link, which: TaskFilter, now: datetime | None) -> int:
    return sum(1 for query in ("delete_tasks", "delete_history") for _ in _batches(link, query, which, now))


def _batches(link: Link, query: str, which: TaskFilter, now: datetime | None) -> Iterator[Row]:
    """Rows (id, …) of `query`, batch after batch in the order of ids."""
    after = NIL_ID
    while True:
        found = _tried(link, query, {**_which(which), "after": after, "most": _BATCH, "now": now, "slot": _SLOT})
        if not found:
            return
        yield from found
        after = found[-1][0]


def _tried(link: Link, query: str, params: dict[str, Any]) -> list[Row]:
    """A batch that lost a deadlock, or a unique key at the last moment, changed nothing: done again, it sees who won."""
    for _ in range(_TRIES - 1):
        try:
            return link.rows(query, params)
        except StoreError as error:
            if not isinstance(error.__cause__, psycopg.errors.DeadlockDetected | psycopg.errors.UniqueViolation):
                raise
    return link.rows(query, params)


def _which(which: TaskFilter) -> dict[str, Any]:
    return {
        "ids": None if which.ids is None else plain_array(i for i in which.ids if is_uuid(i)),
        "status": None if which.status is None else which.status.value,
        "type": which.type,
        "queue": which.queue,
        "worker_id": which.worker_id,
        "tag": which.tag,
    }


def _id(text: str | None) -> str | None:
    if text is not None and not is_uuid(text):
        raise StoreError(f"{text!r} is not a task's id")
    return text
