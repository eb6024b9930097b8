"""From rows to the records of the model."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Final

import msgspec
import psycopg
from psycopg.types.numeric import Int8BinaryLoader
from psycopg.types.string import ByteaBinaryLoader

from shiftboss.model import NULL, AttemptView, Claim, Outcome, QueueView, TaskState, TaskView, WorkerView

_YEAR_2000_US: Final = 946_684_800_000_000
_YEAR_2000_S: Final = _YEAR_2000_US / 1e6
_place: Final = itemgetter(0)
_tags = msgspec.json.Decoder(tuple[str, ...])


def raw(text: str | None) -> msgspec.Raw | None:
    """JSON text as it is stored."""
    return None if text is None else msgspec.Raw(text.encode())


def tags(text: str | None) -> tuple[str, ...]:
    return () if text is None else _tags.decode(text)


def claims(found: list[tuple[Any, ...]]) -> list[Claim]:
    """From `claim_chosen`, in the order of its first column, the place.

    Times come as the server keeps them, and go out as Unix seconds, not before 1970: an operator may have set one to -infinity.
    """
    found.sort(key=_place)
    return [
        Claim(
            task_id=task_id,
            fence=fence,
            attempt=attempt,
            type=type_,
            queue=queue,
            priority=priority,
            args=msgspec.Raw(args),
            max_attempts=max_attempts,
            timeout_s=timeout_s,
            running=running,
            enqueued_at=enqueued_us / 1e6 + _YEAR_2000_S if enqueued_us > -_YEAR_2000_US else 0.0,
            due_at=due_us / 1e6 + _YEAR_2000_S if due_us > -_YEAR_2000_US else 0.0,
            tags=() if tags_text is None else _tags.decode(tags_text),
            meta=NULL if meta is None else msgspec.Raw(meta.encode()),
        )
        for (
            _,
            task_id,
            fence,
            attempt,
            type_,
            queue,
            priority,
            args,
            max_attempts,
            timeout_s,
            running,
            enqueued_us,
            due_us,
            tags_text,
            meta,
        ) in found
    ]


def claim_loaders(cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
    """Have `cursor`, which reads binary, leave a claim's times and arguments as they come."""
    cursor.adapters.register_loader("timestamptz", Int8BinaryLoader)
    cursor.adapters.register_loader("json", ByteaBinaryLoader)


def task_view(row: tuple[Any, ...]) -> TaskView:
    """From `task_columns` or `history_columns` and their bodies; arguments that we may not read are a JSON null."""
    (id_, type_, queue, status, priority, attempts, max_attempts, fence, enqueued_at, run_at, updated_at, *rest) = row
    (worker_id, last_error, next_retry_at, started_at, finished_at, duration_s, unique_key, timeout_s, *more) = rest
    cancel_requested, tags_text, args, result, progress, meta = more
    return TaskView(
        id=id_,
        type=type_,
        queue=queue,
        status=TaskState(status),
        priority=priority,
        args=raw(args) or NULL,
        attempts=attempts,
        max_attempts=max_attempts,
        fence=fence,
        enqueued_at=enqueued_at,
        run_at=run_at,
        updated_at=updated_at,
        worker_id=worker_id,
        last_error=last_error,
        next_retry_at=next_retry_at,
        started_at=started_at,
        finished_at=finished_at,
        duration_s=duration_s,
        result=raw(result),
        unique_key=unique_key,
        timeout_s=timeout_s,
        cancel_requested=cancel_requested,
        progress=raw(progress),
        tags=tags(tags_text),
        meta=raw(meta),
    )


def attempt_view(row: tuple[Any, ...]) -> AttemptView:
    task_id, fence, attempt, outcome, ended_at, worker_id, started_at, duration_s, error, traceback = row
    return AttemptView(
        task_id=task_id,
        fence=fence,
        attempt=attempt,
        outcome=Outcome(outcome),
        ended_at=ended_at,
        worker_id=worker_id,
        started_at=started_at,
        duration_s=duration_s,
        error=error,
        traceback=traceback,
    )


def worker_view(row: tuple[Any, ...]) -> WorkerView:
    id_, hostname, pid, version, started_at, last_heartbeat, pool_size, active, is_leader, alive = row
    return WorkerView(
        id=id_,
        hostname=hostname,
        pid=pid,
        version=version,
        started_at=started_at,
        last_heartbeat=last_heartbeat,
        pool_size=pool_size,
        active=active,
        is_leader=is_leader,
        alive=alive,
    )


def queue_view(row: tuple[Any, ...]) -> QueueView:
    name, paused, concurrency, weight, pending, due, claimed, running, dead_letter = row
    return QueueView(
        name=name,
        paused=paused,
        concurrency=concurrency,
        weight=weight,
        pending=pending,
        due=due,
        claimed=claimed,
        running=running,
        dead_letter=dead_letter,
    )
