"""The claimer's one transaction: what ended, started, goes back and got further is written, and new tasks are claimed.

All of it travels in a pipeline: one round trip, and one more before the commit when outcomes have to be counted. When the
values of one row are refused, the same is done again row by row, each in a savepoint.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec
import psycopg
from psycopg import errors as pg

from shiftboss.errors import StoreError
from shiftboss.events import Event, emit
from shiftboss.model import (
    DEFAULT_MAX_ATTEMPTS,
    MAX_ERROR_CHARS,
    MAX_REFUNDS,
    MAX_TRACEBACK_CHARS,
    NULL,
    Claim,
    Ended,
    Lease,
    Outcome,
    Progress,
    TaskState,
    Verdict,
)
from shiftboss.store.base import ClaimAsk, Exchange, Exchanged
from shiftboss.store.counting import Applied, outcome_counters
from shiftboss.store.postgres import rows
from shiftboss.store.postgres.arrays import ascii_only, plain_array, storable, text_array
from shiftboss.store.postgres.errors import is_data_error
from shiftboss.store.postgres.link import BoundedConnection, Link, Params, Row, bounds, run

log = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, int]
Statement: TypeAlias = tuple[str, Params]
_MAX_DEADLOCKS: Final = 3
_ANYWAY: Final = {"complete_tasks": "complete_tasks_anyway"}
_LATEST_S: Final = 1e11  # the year 5138
_UUID: Final = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def exchange(link: Link, request: Exchange, now: datetime | None) -> Exchanged:
    """Write and claim in one transaction; see `Store.exchange`."""
    # Of two with one fence the first counts.
    ended = {(item.task_id, item.fence): item for item in reversed(request.ended) if is_uuid(item.task_id)}
    in_order = [ended[key] for key in sorted(ended)]  # two writers never wait for each other in a circle
    applied, claims = _stored(link, request, in_order, now)
    verdicts = _verdicts(link, request.ended, applied)
    states = [applied[key].state if verdict is Verdict.APPLIED else None for key, verdict in _keyed(request.ended, verdicts)]
    return Exchanged(verdicts=verdicts, states=states, claims=claims)


def _stored(
    link: Link, request: Exchange, ended: Sequence[Ended], now: datetime | None
) -> tuple[Mapping[Key, Applied], list[Claim]]:
    for _ in range(_MAX_DEADLOCKS):
        try:
            return _pipelined(link, request, ended, now)
        except StoreError as error:
            if isinstance(error.__cause__, pg.DeadlockDetected):
                continue  # rolled back as a whole, and the other side has what it wanted by now
            if error.__cause__ is None or not is_data_error(error.__cause__):
                raise
        except UnicodeError:
            pass
        break
    return _row_by_row(link, request, ended, now)


# ---- all at once


def _pipelined(
    link: Link, request: Exchange, ended: Sequence[Ended], now: datetime | None
) -> tuple[Mapping[Key, Applied], list[Claim]]:
    applied: Mapping[Key, Applied] = {}
    claimed: psycopg.Cursor[Row] | None = None
    with link.transaction(pinned=True) as connection:
        cursors = [run(connection, *statement) for statement in _end_statements(request, ended, now)]
        for statement in _other_statements(request, now):
            run(connection, *statement)
        if request.claim is not None and request.claim.lanes and request.claim.limit > 0:
            claimed = run(connection, *_claim_statement(request, request.claim, now))
        if cursors:
            connection.collect()  # the counters of this transaction follow from what was applied
            applied = _applied(ended, (row for cursor in cursors for row in cursor))
        for statement in _counter_statements(request, applied):
            run(connection, *statement)
    return applied, _claims(claimed)


def _end_statements(request: Exchange, ended: Sequence[Ended], now: datetime | None) -> Iterator[Statement]:
    successes = [item for item in ended if item.outcome is Outcome.SUCCESS]
    others = [item for item in ended if item.outcome is not Outcome.SUCCESS]
    if successes:
        yield "complete_tasks", complete_params(request.worker_id, successes, now)
    if others:
        yield "end_attempts", end_params(request.worker_id, others, now)


def _other_statements(request: Exchange, now: datetime | None) -> Iterator[Statement]:
    if request.starts:
        yield "start_tasks", _lease_params(request.starts, now)
    if request.releases:
        yield "end_attempts", pseudo_end_params(request.worker_id, "released", [*dict.fromkeys(_keys(request.releases))], now)
    if request.progress:
        latest = {(item.task_id, item.fence): item for item in request.progress if is_uuid(item.task_id)}
        yield "store_progress", _progress_params(list(latest.values()), now)


def _counter_statements(request: Exchange, applied: Mapping[Key, Applied]) -> Iterator[Statement]:
    totals: dict[tuple[str, str], float] = {}
    for delta in (*request.counters, *outcome_counters(applied.values())):
        totals[delta.name, delta.labels] = totals.get((delta.name, delta.labels), 0.0) + delta.value
    if totals:
        ordered = sorted(totals)
        yield (
            "add_counters",
            {
                "worker_id": request.worker_id,
                "names": text_array(name for name, _ in ordered),
                "labels": text_array(storable(labels) for _, labels in ordered),
                "values": plain_array(totals[key] for key in ordered),
            },
        )


def _applied(ended: Iterable[Ended], answers: Iterable[Row]) -> dict[Key, Applied]:
    """From (id, fence, type, attempt[, status]) of what was stored."""
    told = {(item.task_id, item.fence): item for item in ended}
    applied: dict[Key, Applied] = {}
    for task_id, fence, type_, attempt, *status in answers:
        item = told[task_id, fence]
        state = TaskState(status[0]) if status else TaskState.COMPLETED
        applied[task_id, fence] = Applied(type_, attempt, item.outcome, state, _duration(item))
    return applied


def _claims(cursor: psycopg.Cursor[Row] | None) -> list[Claim]:
    return [] if cursor is None else [rows.claim(row) for row in sorted(cursor.fetchall(), key=lambda row: int(row[0]))]


# ---- row by row


def _row_by_row(
    link: Link, request: Exchange, ended: Sequence[Ended], now: datetime | None
) -> tuple[Mapping[Key, Applied], list[Claim]]:
    applied: dict[Key, Applied] = {}
    claimed: psycopg.Cursor[Row] | None = None
    with link.connected() as connection, connection.transaction():
        bounds(connection, pinned=True)
        for item in ended:
            applied |= _end_one(connection, request, item, now)
        for statement in _single_statements(request, now):
            _tried(connection, statement)
        if request.claim is not None and request.claim.lanes and request.claim.limit > 0:
            claimed = _tried(connection, _claim_statement(request, request.claim, now))
        for statement in _counter_statements(request, applied):
            _tried(connection, statement)
    return applied, _claims(claimed)


def _end_one(connection: BoundedConnection, request: Exchange, item: Ended, now: datetime | None) -> dict[Key, Applied]:
    """Store one end; when its texts are refused, without its result and in ASCII: an end is worth more than its words."""
    plain = msgspec.structs.replace(item, result=NULL, error=ascii_only(item.error), traceback=ascii_only(item.traceback))
    for version, names in ((item, {}), (plain, {}), (plain, _ANYWAY)):
        for name, params in _end_statements(request, [version], now):
            cursor = _tried(connection, (names.get(name, name), params))
            if cursor is not None:
                return _applied([item], cursor.fetchall())
    return {}


def _single_statements(request: Exchange, now: datetime | None) -> Iterator[Statement]:
    for start in request.starts:
        yield from _other_statements(Exchange(worker_id=request.worker_id, starts=[start]), now)
    for release in request.releases:
        yield from _other_statements(Exchange(worker_id=request.worker_id, releases=[release]), now)
    for progress in request.progress:
        yield from _other_statements(Exchange(worker_id=request.worker_id, progress=[progress]), now)


def _tried(connection: BoundedConnection, statement: Statement) -> psycopg.Cursor[Row] | None:
    """Run one statement in a savepoint; `None` when its values were refused."""
    try:
        with connection.transaction():
            return run(connection, *statement)
    except (psycopg.Error, UnicodeError) as error:
        if not is_data_error(error):
            raise
        emit(log, logging.WARNING, Event.TASK_FENCED, f"{statement[0]}: refused by PostgreSQL: {error}")
        return None


# ---- verdicts


def _verdicts(link: Link, ended: Sequence[Ended], applied: Mapping[Key, Applied]) -> list[Verdict]:
    refused = {(item.task_id, item.fence) for item in ended} - applied.keys()
    already = _already_applied(link, [key for key in sorted(refused) if is_uuid(key[0])]) | applied.keys()
    verdicts: list[Verdict] = []
    fresh = set(applied)
    for item in ended:
        key = (item.task_id, item.fence)
        if key in fresh:
            fresh.remove(key)  # a second one with the same fence was stored before: just now
            verdicts.append(Verdict.APPLIED)
        else:
            verdicts.append(Verdict.ALREADY_APPLIED if key in already else Verdict.FENCED)
    return verdicts


def _already_applied(link: Link, refused: Sequence[Key]) -> set[Key]:
    if not refused:
        return set()
    answers = link.rows("judge_refused", _key_params(refused), pinned=True)
    return {(task_id, fence) for task_id, fence, already in answers if already}


def _keyed(ended: Iterable[Ended], verdicts: Iterable[Verdict]) -> Iterator[tuple[Key, Verdict]]:
    return (((item.task_id, item.fence), verdict) for item, verdict in zip(ended, verdicts, strict=True))


def is_uuid(text: str) -> bool:
    """Whether PostgreSQL will take `text` for a task's id."""
    return _UUID.fullmatch(text) is not None


# ---- parameters


def complete_params(worker_id: str, ended: Sequence[Ended], now: datetime | None) -> Params:
    return {
        **_key_params([(item.task_id, item.fence) for item in ended]),
        "results": text_array(None if item.result == NULL else _text(item.result) for item in ended),
        "starts": plain_array(_moment(item.started_at) for item in ended),
        "durations": plain_array(_duration(item) for item in ended),
        "slot": worker_id,
        "now": now,
    }


def end_params(worker_id: str, ended: Sequence[Ended], now: datetime | None) -> Params:
    return {
        **_key_params([(item.task_id, item.fence) for item in ended]),
        "outcomes": plain_array(item.outcome.value for item in ended),
        "errors": text_array(storable(item.error, MAX_ERROR_CHARS) for item in ended),
        "tracebacks": text_array(storable(item.traceback, MAX_TRACEBACK_CHARS) for item in ended),
        "retries": plain_array(item.retry_in_s for item in ended),
        "starts": plain_array(_moment(item.started_at) for item in ended),
        "durations": plain_array(_duration(item) for item in ended),
        **_end_constants(worker_id, now),
    }


def pseudo_end_params(slot: str, outcome: str, keys: Sequence[Key], now: datetime | None) -> Params:
    """For ends that no attempt reports: `released` and `lost`."""
    nothing = plain_array(None for _ in keys)
    return {
        **_key_params(keys),
        "outcomes": plain_array(outcome for _ in keys),
        **dict.fromkeys(("errors", "tracebacks", "retries", "starts", "durations"), nothing),
        **_end_constants(slot, now),
    }


def _text(json: msgspec.Raw) -> str:
    """What is not UTF-8 becomes lone surrogates, which psycopg refuses: the row then goes its own way."""
    return bytes(json).decode("utf-8", "surrogateescape")


def _moment(unix_s: float | None) -> float | None:
    """A worker's clock may say anything; only what a timestamp can hold is worth keeping."""
    return unix_s if unix_s is not None and 0 <= unix_s < _LATEST_S else None


def _duration(item: Ended) -> float:
    return item.duration_s if math.isfinite(item.duration_s) else 0.0


def _end_constants(slot: str, now: datetime | None) -> dict[str, Any]:
    return {"slot": slot, "now": now, "default_max_attempts": DEFAULT_MAX_ATTEMPTS, "max_refunds": MAX_REFUNDS}


def _key_params(keys: Sequence[Key]) -> dict[str, str]:
    return {"ids": plain_array(task_id for task_id, _ in keys), "fences": plain_array(fence for _, fence in keys)}


def _keys(leases: Iterable[Lease]) -> Iterator[Key]:
    return ((lease.task_id, lease.fence) for lease in leases if is_uuid(lease.task_id))


def _lease_params(leases: Sequence[Lease], now: datetime | None) -> Params:
    return {**_key_params([*dict.fromkeys(_keys(leases))]), "now": now}


def _progress_params(progress: Sequence[Progress], now: datetime | None) -> Params:
    texts = [msgspec.json.encode({"percent": item.percent, "note": storable(item.note)}).decode() for item in progress]
    return {**_key_params([(item.task_id, item.fence) for item in progress]), "progress": text_array(texts), "now": now}


def _claim_statement(request: Exchange, ask: ClaimAsk, now: datetime | None) -> Statement:
    params = {
        "queues": text_array(lane.queue for lane in ask.lanes),
        "priorities": plain_array(lane.priority for lane in ask.lanes),
        "limits": plain_array(lane.limit for lane in ask.lanes),
        "sinces": plain_array(lane.since for lane in ask.lanes),
        "types": text_array(info.type for info in ask.types),
        "max_attempts": plain_array(info.max_attempts for info in ask.types),
        "timeouts": plain_array(info.timeout_s for info in ask.types),
        "most": ask.limit,
        "running": ask.running,
        "worker_id": request.worker_id,
        "now": now,
    }
    return ("claim" if ask.merge is None else f"claim_{ask.merge}"), params
