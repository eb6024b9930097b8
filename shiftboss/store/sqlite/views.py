"""Rows as people and scripts see them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from shiftboss.model import AttemptView, Outcome, TaskState, TaskView, WorkerView
from shiftboss.store.sqlite.claim import tags
from shiftboss.store.sqlite.times import from_text, from_text_or_none


def rows_of(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    """The rest of a result as column name -> value."""
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def task_view(row: Mapping[str, Any]) -> TaskView:
    """A row of `tasks` or `task_history`."""
    return TaskView(
        id=row["id"],
        type=row["type"],
        queue=row["queue"],
        status=TaskState(row["status"]),
        priority=row["priority"],
        args=msgspec.Raw(row["args"].encode()),
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        fence=row["fence"],
        enqueued_at=from_text(row["enqueued_at"]),
        run_at=from_text(row["run_at"]),
        updated_at=from_text(row["updated_at"]),
        worker_id=row["worker_id"],
        last_error=row["last_error"],
        next_retry_at=from_text_or_none(row.get("next_retry_at")),
        started_at=from_text_or_none(row["started_at"]),
        finished_at=from_text_or_none(row.get("finished_at")),
        duration_s=row.get("duration_s"),
        result=_raw(row.get("result")),
        unique_key=row["unique_key"],
        timeout_s=row["timeout_s"],
        cancel_requested=bool(row.get("cancel_requested", 0)),
        progress=_raw(row.get("progress")),
        tags=tags(row["tags"]),
        meta=_raw(row["meta"]),
    )


def attempt_view(row: Mapping[str, Any]) -> AttemptView:
    """A row of `task_attempts`."""
    return AttemptView(
        task_id=row["task_id"],
        fence=row["fence"],
        attempt=row["attempt"],
        outcome=Outcome(row["outcome"]),
        ended_at=from_text(row["ended_at"]),
        worker_id=row["worker_id"],
        started_at=from_text_or_none(row["started_at"]),
        duration_s=row["duration_s"],
        error=row["error"],
        traceback=row["traceback"],
    )


def worker_view(row: Mapping[str, Any], now: datetime) -> WorkerView:
    """A row of `workers`, with `is_leader`."""
    last_heartbeat = from_text(row["last_heartbeat"])
    return WorkerView(
        id=row["id"],
        hostname=row["hostname"],
        pid=row["pid"],
        version=row["version"],
        started_at=from_text(row["started_at"]),
        last_heartbeat=last_heartbeat,
        pool_size=row["pool_size"],
        active=row["active"],
        is_leader=bool(row["is_leader"]),
        alive=now - last_heartbeat <= timedelta(seconds=row["timeout_s"]),
    )


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
