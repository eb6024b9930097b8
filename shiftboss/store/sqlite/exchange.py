"""One transaction of a claimer: ended, starts, releases, progress, counters, claim, in this order."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeVar

import msgspec

from shiftboss.model import NULL, Ended, Lease, Outcome, Progress, TaskState, Verdict
from shiftboss.store.base import Exchange, Exchanged
from shiftboss.store.counting import Applied, Tally
from shiftboss.store.sqlite import settle
from shiftboss.store.sqlite.claim import Taken, claims_of, take
from shiftboss.store.sqlite.database import Database, savepoint
from shiftboss.store.sqlite.errors import DATA_ERRORS, RowRefused
from shiftboss.store.sqlite.ledger import Ledger, add_counters, storable
from shiftboss.store.sqlite.settle import Held
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.successes import Successes, duration_of
from shiftboss.store.sqlite.times import to_text

_log: Final = logging.getLogger(__name__)
_MAX_NOTE_CHARS: Final = 500
# An enum's attribute costs as much as the rest of a comparison.
_SUCCESS, _APPLIED, _COMPLETED = Outcome.SUCCESS, Verdict.APPLIED, TaskState.COMPLETED

_Item = TypeVar("_Item")


def exchange(database: Database, request: Exchange, now: datetime) -> Exchanged:
    """See `Store.exchange`."""
    try:
        ends = _Ends(request.ended, request.keep_completed)
        with database.write() as connection:
            answers, taken = _apply(connection, request, ends, now)
    except (RowRefused, ValueError, OverflowError):
        with database.write() as connection:
            answers, taken = _apply_singly(connection, request, now)
    return Exchanged(verdicts=answers.verdicts, states=answers.states, claims=claims_of(taken))


class _Ends:
    """What has ended, sorted before the write lock is asked for: whoever waits for it then waits for less."""

    def __init__(self, ended: Sequence[Ended], keep_completed: bool) -> None:
        self.ended, self.keep_completed = ended, keep_completed
        is_success = [one.outcome is _SUCCESS for one in ended]
        if len({one.task_id for one in ended}) < len(ended):
            is_success = [False] * len(ended)  # of two with one fence the first counts
        self.places_of_successes = [place for place, it in enumerate(is_success) if it]
        self.others = [place for place, it in enumerate(is_success) if not it]
        self.successes = Successes([ended[place] for place in self.places_of_successes], keep_completed)


class _Answers(NamedTuple):
    """What is said of each end, in the order of the request."""

    verdicts: list[Verdict]
    states: list[TaskState | None]


def _apply(connection: sqlite3.Connection, request: Exchange, ends: _Ends, now: datetime) -> tuple[_Answers, list[Taken]]:
    answers = _end(connection, request.worker_id, ends, now)
    _start(connection, request.starts, now)
    _release(connection, request.releases, now)
    _note_progress(connection, request.progress)
    add_counters(connection, request.worker_id, request.counters)
    return answers, take(connection, request.claim, request.worker_id, now) if request.claim else []


def _apply_singly(connection: sqlite3.Connection, request: Exchange, now: datetime) -> tuple[_Answers, list[Taken]]:
    # Something in the batch cannot be stored: find it by storing each row under a savepoint of its own.
    results = [_end_one(connection, request, ended, now) for ended in request.ended]
    _each(connection, request.starts, lambda lease: _start(connection, [lease], now))
    _each(connection, request.releases, lambda lease: _release(connection, [lease], now))
    _each(connection, request.progress, lambda progress: _note_progress(connection, [progress]))
    _each(connection, request.counters, lambda delta: add_counters(connection, request.worker_id, [delta]))
    taken = take(connection, request.claim, request.worker_id, now) if request.claim else []
    return _Answers([verdict for verdict, _ in results], [state for _, state in results]), taken


def _end_one(connection: sqlite3.Connection, request: Exchange, ended: Ended, now: datetime) -> tuple[Verdict, TaskState | None]:
    # Without its result, times and traceback a task can still end; a task that cannot would block its worker for ever.
    for attempt in (ended, msgspec.structs.replace(ended, result=NULL, traceback=None, started_at=None, duration_s=0.0)):
        try:
            with savepoint(connection):
                answers = _end(connection, request.worker_id, _Ends([attempt], request.keep_completed), now)
                return answers.verdicts[0], answers.states[0]
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


def _end(connection: sqlite3.Connection, worker_id: str, ends: _Ends, now: datetime) -> _Answers:
    ended = ends.ended
    answers = _Answers([Verdict.FENCED] * len(ended), [None] * len(ended))
    if not ended:
        return answers
    tally = Tally()
    _complete(connection, ends, now, answers, tally)
    if ends.others:
        _end_others(connection, ends, now, answers, tally)
    add_counters(connection, worker_id, tally.deltas())
    _tell_resends(connection, ended, answers.verdicts)
    return answers


def _complete(connection: sqlite3.Connection, ends: _Ends, now: datetime, answers: _Answers, tally: Tally) -> None:
    for type_, stored in ends.successes.store(connection, now).items():
        places = [ends.places_of_successes[place] for place in stored]
        for place in places:
            answers.verdicts[place], answers.states[place] = _APPLIED, _COMPLETED
        tally.add_completed(type_, [duration_of(ends.ended[place]) for place in places])


def _end_others(connection: sqlite3.Connection, ends: _Ends, now: datetime, answers: _Answers, tally: Tally) -> None:
    """Store these ends one decision at a time."""
    held = held_rows(connection, [ends.ended[place].task_id for place in ends.others])
    ledger = Ledger(now, ends.keep_completed)
    for place in ends.others:
        ended = ends.ended[place]
        row = held.get(ended.task_id)
        if row is not None and row.fence == ended.fence:
            del held[ended.task_id]  # the same lease again in this batch is a resend
            fit = _fit(ended)
            move = settle.end(row, fit, now)
            ledger.ended(row, move, fit)
            answers.verdicts[place], answers.states[place] = Verdict.APPLIED, move.state
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
    stored = {(row[0], row[1]): row[2] for row in connection.execute(SQL["stored_before"], {"leases": leases})}
    for index in rest:
        if stored[batch[index].task_id, batch[index].fence] == batch[index].outcome:
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
