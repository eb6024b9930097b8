"""One transaction of a claimer: ended, starts, releases, progress, counters, claim, in this order."""

from __future__ import annotations

import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from shiftboss.model import NULL, Ended, Lease, Outcome, Progress, TaskState, Verdict
from shiftboss.store.base import Exchange, Exchanged
from shiftboss.store.counting import Applied, Tally
from shiftboss.store.sqlite import settle
from shiftboss.store.sqlite.claim import claim
from shiftboss.store.sqlite.database import Database, savepoint
from shiftboss.store.sqlite.errors import DATA_ERRORS, RowRefused
from shiftboss.store.sqlite.ledger import Ledger, add_counters, complete, duration_of, forget, storable
from shiftboss.store.sqlite.settle import Held
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.times import to_text

_log: Final = logging.getLogger(__name__)
_MAX_NOTE_CHARS: Final = 500

_Item = TypeVar("_Item")


def exchange(database: Database, request: Exchange, now: datetime) -> Exchanged:
    """See `Store.exchange`."""
    try:
        with database.write() as connection:
            return _apply(connection, request, now)
    except RowRefused:
        with database.write() as connection:
            return _apply_singly(connection, request, now)


def _apply(connection: sqlite3.Connection, request: Exchange, now: datetime) -> Exchanged:
    verdicts, states = _end(connection, request, request.ended, now)
    _start(connection, request.starts, now)
    _release(connection, request.releases, now)
    _note_progress(connection, request.progress)
    add_counters(connection, request.worker_id, request.counters)
    claims = claim(connection, request.claim, request.worker_id, now) if request.claim else []
    return Exchanged(verdicts=verdicts, states=states, claims=claims)


def _apply_singly(connection: sqlite3.Connection, request: Exchange, now: datetime) -> Exchanged:
    # Something in the batch cannot be stored: find it by storing each row under a savepoint of its own.
    results = [_end_one(connection, request, ended, now) for ended in request.ended]
    _each(connection, request.starts, lambda lease: _start(connection, [lease], now))
    _each(connection, request.releases, lambda lease: _release(connection, [lease], now))
    _each(connection, request.progress, lambda progress: _note_progress(connection, [progress]))
    _each(connection, request.counters, lambda delta: add_counters(connection, request.worker_id, [delta]))
    claims = claim(connection, request.claim, request.worker_id, now) if request.claim else []
    return Exchanged(verdicts=[verdict for verdict, _ in results], states=[state for _, state in results], claims=claims)


def _end_one(connection: sqlite3.Connection, request: Exchange, ended: Ended, now: datetime) -> tuple[Verdict, TaskState | None]:
    # Without its result, times and traceback a task can still end; a task that cannot would block its worker for ever.
    for attempt in (ended, msgspec.structs.replace(ended, result=NULL, traceback=None, started_at=None, duration_s=0.0)):
        try:
            with savepoint(connection):
                verdicts, states = _end(connection, request, [attempt], now)
                return verdicts[0], states[0]
        except DATA_ERRORS as error:
            _log.warning(
                "task %s fence %d: its %s cannot be stored as reported: %s", ended.task_id, ended.fence, ended.outcome, error
            )
    return Verdict.FENCED, None


def _each(connection: sqlite3.Connection, items: Iterable[_Item], act: Callable[[_Item], None]) -> None:
    for item in items:
        try:
            with savepoint(connection):
                act(item)
        except DATA_ERRORS as error:
            _log.warning("dropped %r, which cannot be stored: %s", item, error)


def _end(
    connection: sqlite3.Connection, request: Exchange, batch: Sequence[Ended], now: datetime
) -> tuple[list[Verdict], list[TaskState | None]]:
    if not batch:
        return [], []
    verdicts = [Verdict.FENCED] * len(batch)
    states: list[TaskState | None] = [None] * len(batch)
    tally = Tally()
    left: Sequence[int] = range(len(batch))
    ids = {ended.task_id for ended in batch}
    if len(ids) == len(batch):  # else of two with one fence the first counts
        left = _complete(connection, request, batch, now, verdicts, states, tally)
    if left:
        _end_others(connection, request, batch, left, now, verdicts, states, tally)
    add_counters(connection, request.worker_id, tally.deltas())
    _tell_resends(connection, batch, verdicts)
    return verdicts, states


def _complete(
    connection: sqlite3.Connection,
    request: Exchange,
    batch: Sequence[Ended],
    now: datetime,
    verdicts: list[Verdict],
    states: list[TaskState | None],
    tally: Tally,
) -> Sequence[int]:
    """Store the successes of the batch, which names no task twice; the places of the others in it."""
    successes = {ended.task_id: index for index, ended in enumerate(batch) if ended.outcome is Outcome.SUCCESS}
    if not successes:
        return range(len(batch))
    durations: defaultdict[str, list[float]] = defaultdict(list)
    store = complete if request.keep_completed else forget
    done = store(connection, [batch[index] for index in successes.values()], now)
    for task_id, type_ in done:
        index = successes[task_id]
        verdicts[index], states[index] = Verdict.APPLIED, TaskState.COMPLETED
        durations[type_].append(duration_of(batch[index]))
    for type_, seconds in durations.items():
        tally.add_completed(type_, seconds)
    return [index for index, ended in enumerate(batch) if ended.outcome is not Outcome.SUCCESS]


def _end_others(
    connection: sqlite3.Connection,
    request: Exchange,
    batch: Sequence[Ended],
    places: Sequence[int],
    now: datetime,
    verdicts: list[Verdict],
    states: list[TaskState | None],
    tally: Tally,
) -> None:
    """Store these ends of the batch one decision at a time."""
    held = held_rows(connection, [batch[index].task_id for index in places])
    ledger = Ledger(now, request.keep_completed)
    for index in places:
        ended = batch[index]
        row = held.get(ended.task_id)
        if row is not None and row.fence == ended.fence:
            del held[ended.task_id]  # the same lease again in this batch is a resend
            fit = _fit(ended)
            move = settle.end(row, fit, now)
            ledger.ended(row, move, fit)
            verdicts[index], states[index] = Verdict.APPLIED, move.state
            tally.add(Applied(row.type, row.charged, fit.outcome, move.state, fit.duration_s))
    ledger.write(connection)


def _fit(ended: Ended) -> Ended:
    error, duration_s = storable(ended.error), duration_of(ended)
    if error is ended.error and duration_s == ended.duration_s:
        return ended
    return msgspec.structs.replace(ended, error=error, duration_s=duration_s)


def _tell_resends(connection: sqlite3.Connection, batch: Sequence[Ended], verdicts: list[Verdict]) -> None:
    if verdicts.count(Verdict.APPLIED) == len(verdicts):
        return
    rest = [index for index, verdict in enumerate(verdicts) if verdict is not Verdict.APPLIED]
    leases = msgspec.json.encode([(batch[index].task_id, batch[index].fence) for index in rest]).decode()
    stored = set(connection.execute(SQL["stored_before"], {"leases": leases}))
    for index in rest:
        if (batch[index].task_id, batch[index].fence) in stored:
            verdicts[index] = Verdict.ALREADY_APPLIED


def held_rows(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Held]:
    """The leased tasks among `ids`, by id."""
    rows = connection.execute(SQL["held"], {"ids": msgspec.json.encode(ids).decode()})
    return {row[0]: Held._make(row) for row in rows}


def _start(connection: sqlite3.Connection, starts: Sequence[Lease], now: datetime) -> None:
    if starts:
        moment = to_text(now)
        connection.executemany(SQL["start"], [(lease.task_id, lease.fence, moment) for lease in starts])


def _release(connection: sqlite3.Connection, releases: Sequence[Lease], now: datetime) -> None:
    if not releases:
        return
    held = held_rows(connection, [lease.task_id for lease in releases])
    ledger = Ledger(now)
    for lease in releases:
        row = held.get(lease.task_id)
        if row is not None and row.fence == lease.fence:
            del held[lease.task_id]
            ledger.released(row, settle.release(row))
    ledger.write(connection)


def _note_progress(connection: sqlite3.Connection, batch: Sequence[Progress]) -> None:
    rows = [
        (p.task_id, p.fence, msgspec.json.encode({"percent": p.percent, "note": storable(p.note, _MAX_NOTE_CHARS)}).decode())
        for p in batch
    ]
    if rows:
        connection.executemany(SQL["set_progress"], rows)
