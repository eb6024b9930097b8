"""The claimer's one transaction: what ended, started, goes back and got further is written, and new tasks are claimed.

All of it travels in a pipeline: one round trip, and one more before the commit when outcomes have to be counted. When the
values of one row are refused, the same is done again row by row, each in a savepoint. When somebody else has locked a row, the
same is done again without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from itertools import chain, islice
from operator import attrgetter, lt
from typing import Final, NamedTuple, TypeAlias

import msgspec
import psycopg
from psycopg import errors as pg

from shiftboss.errors import StoreError, StoreUnavailable
from shiftboss.events import Event, emit
from shiftboss.model import (
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
from shiftboss.store.counting import Applied, Tally
from shiftboss.store.postgres import rows
from shiftboss.store.postgres.arrays import ascii_only, plain_array, uuid_array
from shiftboss.store.postgres.claims import claim_alone, claim_cursor, claim_query
from shiftboss.store.postgres.errors import is_data_error
from shiftboss.store.postgres.link import EXCHANGE_LOCK_TIMEOUT_S, BoundedConnection, Link, Params, Row, bounds, run
from shiftboss.store.postgres.params import (
    Key,
    claim_params,
    complete_params,
    counter_params,
    durations_of,
    end_params,
    forget_params,
    is_uuid,
    key_params,
    lease_keys,
    lease_params,
    progress_params,
    pseudo_end_params,
)
from shiftboss.store.postgres.sqltext import queries

log = logging.getLogger(__name__)

Statement: TypeAlias = tuple[str, Params]
_KEY: Final = attrgetter("task_id", "fence")
_MAX_DEADLOCKS: Final = 3
_MAX_LOCKED: Final = 3
_SUCCESS: Final = Outcome.SUCCESS  # an enum's attribute costs as much as the rest of a comparison
_ANYWAY: Final = {"complete_tasks": "complete_tasks_anyway"}


def exchange(link: Link, request: Exchange, now: datetime | None) -> Exchanged:
    """Write and claim in one transaction; see `Store.exchange`."""
    later = _locked(link, request) if request.cautious else frozenset()
    for _ in range(_MAX_LOCKED):
        try:
            return _with_later(request, later, _exchange(link, _without(request, later), now))
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, pg.LockNotAvailable):
                raise
            later |= _locked(link, request)  # none: it has just become free, or was not a task's row
    return _with_later(request, later, _exchange(link, _without(request, later), now))


def _exchange(link: Link, request: Exchange, now: datetime | None) -> Exchanged:
    in_order = _in_order(request.ended)
    applied, claims = _stored(link, request, in_order, now)
    if applied is None:  # nearly always, and then there is nothing to judge, or to look up
        count = len(request.ended)
        return Exchanged(verdicts=[Verdict.APPLIED] * count, states=[TaskState.COMPLETED] * count, claims=claims)
    if len(applied) == len(request.ended):
        states = list(map(applied.__getitem__, map(_KEY, request.ended)))
        return Exchanged(verdicts=[Verdict.APPLIED] * len(states), states=states, claims=claims)
    verdicts = _verdicts(link, request.ended, applied)
    told = [applied[key] if verdict is Verdict.APPLIED else None for key, verdict in _keyed(request.ended, verdicts)]
    return Exchanged(verdicts=verdicts, states=told, claims=claims)


def _in_order(ended: Sequence[Ended]) -> Sequence[Ended]:
    """By id, since two writers then never wait for each other in a circle; of two with one fence the first counts."""
    ids = [item.task_id for item in ended]
    if uuid_array(ids) is not None and all(map(lt, ids, islice(ids, 1, None))):
        return ended  # as the claimer sends them
    first = {(item.task_id, item.fence): item for item in reversed(ended) if is_uuid(item.task_id)}
    return [first[key] for key in sorted(first)]


# ---- rows that others have locked


def _locked(link: Link, request: Exchange) -> frozenset[str]:
    """Ids of the tasks of this request that somebody else has locked just now."""
    named: Iterable[Ended | Lease | Progress] = chain(request.ended, request.starts, request.releases, request.progress)
    ids = sorted({item.task_id for item in named if is_uuid(item.task_id)})
    return frozenset(row[0] for row in link.rows("locked_tasks", {"ids": plain_array(ids)}, pinned=True)) if ids else frozenset()


def _without(request: Exchange, later: AbstractSet[str]) -> Exchange:
    if not later:
        return request
    return msgspec.structs.replace(
        request,
        ended=[one for one in request.ended if one.task_id not in later],
        starts=[one for one in request.starts if one.task_id not in later],
        releases=[one for one in request.releases if one.task_id not in later],
        progress=[one for one in request.progress if one.task_id not in later],
    )


def _with_later(request: Exchange, later: AbstractSet[str], answer: Exchanged) -> Exchanged:
    """The answer to the whole request, from that to the part that was carried out."""
    if not later:
        return answer
    told = zip(answer.verdicts, answer.states, strict=True)
    both = [(Verdict.LATER, None) if one.task_id in later else next(told) for one in request.ended]
    verdicts, states = [verdict for verdict, _ in both], [state for _, state in both]
    return Exchanged(verdicts=verdicts, states=states, claims=answer.claims, later=later)


# ---- what is stored


def _stored(
    link: Link, request: Exchange, ended: Sequence[Ended], now: datetime | None
) -> tuple[Mapping[Key, TaskState] | None, list[Claim]]:
    """Where each led that was stored, and what was claimed. `None`: `ended` is the whole of it, and all are completed now."""
    for _ in range(_MAX_DEADLOCKS):
        try:
            claims = _claimed_alone(link, request, now)
            return _pipelined(link, request, ended, now) if claims is None else ({}, claims)
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


def _claimed_alone(link: Link, request: Exchange, now: datetime | None) -> list[Claim] | None:
    """One statement, where nothing else is asked for: a task that has just come waits for it."""
    writes = request.ended or request.starts or request.releases or request.progress or request.counters
    if writes or request.claim is None or not request.claim.lanes or request.claim.limit <= 0:
        return None
    return claim_alone(link, request.worker_id, request.claim, now)


def _pipelined(
    link: Link, request: Exchange, ended: Sequence[Ended], now: datetime | None
) -> tuple[Mapping[Key, TaskState] | None, list[Claim]]:
    applied: Mapping[Key, TaskState] | None = {}
    tally = Tally()
    claimed: psycopg.Cursor[Row] | None = None
    with link.transaction(pinned=True, lock_timeout_s=EXCHANGE_LOCK_TIMEOUT_S) as connection:
        answers = [(run(connection, end.query, end.params, binary=True), end) for end in _end_statements(request, ended, now)]
        for statement in _other_statements(request, now):
            run(connection, *statement)
        if request.claim is not None and request.claim.lanes and request.claim.limit > 0:
            claimed = _ask(connection, _claim_statement(request, request.claim, now))
        if answers:
            connection.collect()  # the counters of this transaction follow from what was applied
            applied = _applied(answers, tally, whole=len(request.ended))
        for statement in _counter_statements(request, tally):
            run(connection, *statement)
    return applied, _claims(claimed)


class _End(NamedTuple):
    """One statement that ends attempts."""

    query: str
    params: Params
    ended: Sequence[Ended]


def _ledger(request: Exchange) -> str:
    return request.ledger or request.worker_id


def _end_statements(request: Exchange, ended: Sequence[Ended], now: datetime | None) -> Iterator[_End]:
    others = [item for item in ended if item.outcome is not _SUCCESS]
    successes = [item for item in ended if item.outcome is _SUCCESS] if others else ended
    if successes and request.keep_completed:
        yield _End("complete_tasks", complete_params(_ledger(request), successes, now), successes)
    elif successes:
        yield _End("forget_completed", forget_params(_ledger(request), successes, now), successes)
    if others:
        yield _End("end_attempts", end_params(_ledger(request), others, now), others)


def _other_statements(request: Exchange, now: datetime | None) -> Iterator[Statement]:
    if request.starts:
        yield "start_tasks", lease_params(request.starts, now)
    if request.releases:
        yield (
            "end_attempts",
            pseudo_end_params(_ledger(request), "released", [*dict.fromkeys(lease_keys(request.releases))], now),
        )
    if request.progress:
        latest = {(item.task_id, item.fence): item for item in request.progress if is_uuid(item.task_id)}
        yield "store_progress", progress_params(list(latest.values()), now)


def _claim_statement(request: Exchange, ask: ClaimAsk, now: datetime | None) -> Statement:
    return claim_query(ask), claim_params(request.worker_id, ask, now)


def _ask(connection: BoundedConnection, statement: Statement) -> psycopg.Cursor[Row]:
    query, params = statement
    return claim_cursor(connection).execute(queries()[query], params)


def _counter_statements(request: Exchange, tally: Tally) -> Iterator[Statement]:
    totals: dict[tuple[str, str], float] = {}
    for delta in (*request.counters, *tally.deltas()):
        totals[delta.name, delta.labels] = totals.get((delta.name, delta.labels), 0.0) + delta.value
    if totals:
        yield "add_counters", counter_params(_ledger(request), totals)


def _applied(answers: Iterable[tuple[psycopg.Cursor[Row], _End]], tally: Tally, whole: int = 0) -> dict[Key, TaskState] | None:
    """What was stored, and where it led; counted in `tally`. `None`: as many as `whole`, all of one type, are completed now."""
    applied: dict[Key, TaskState] = {}
    for cursor, end in answers:
        if end.query == "end_attempts":
            told = {_KEY(item): item for item in end.ended}
            for task_id, fence, type_, attempt, status in cursor.fetchall():
                item, state = told[task_id, fence], TaskState(status)
                applied[task_id, fence] = state
                tally.add(Applied(type_, attempt, item.outcome, state, *durations_of([item])))
        else:
            for type_, places in cursor.fetchall():
                done = end.ended if len(places) == len(end.ended) else [end.ended[place - 1] for place in places]
                tally.add_completed(type_, durations_of(done))
                if len(done) == whole:
                    return None
                applied.update(dict.fromkeys(map(_KEY, done), TaskState.COMPLETED))
    return applied


def _claims(cursor: psycopg.Cursor[Row] | None) -> list[Claim]:
    return [] if cursor is None else rows.claims(cursor.fetchall())


# ---- row by row


def _row_by_row(
    link: Link, request: Exchange, ended: Sequence[Ended], now: datetime | None
) -> tuple[Mapping[Key, TaskState], list[Claim]]:
    applied: dict[Key, TaskState] = {}
    tally = Tally()
    claimed: psycopg.Cursor[Row] | None = None
    with link.connected() as connection, connection.transaction():
        bounds(connection, pinned=True, lock_timeout_s=EXCHANGE_LOCK_TIMEOUT_S)
        for item in ended:
            applied |= _end_one(connection, request, item, now, tally)
        for statement in _single_statements(request, now):
            _tried(connection, statement)
        if request.claim is not None and request.claim.lanes and request.claim.limit > 0:
            claimed = _tried(connection, _claim_statement(request, request.claim, now), _ask)
        for statement in _counter_statements(request, tally):
            _tried(connection, statement)
    return applied, _claims(claimed)


def _end_one(
    connection: BoundedConnection, request: Exchange, item: Ended, now: datetime | None, tally: Tally
) -> dict[Key, TaskState]:
    """Store one end; when its texts are refused, without its result and in ASCII: an end is worth more than its words."""
    plain = msgspec.structs.replace(item, result=NULL, error=ascii_only(item.error), traceback=ascii_only(item.traceback))
    for version, names in ((item, {}), (plain, {}), (plain, _ANYWAY)):
        for end in _end_statements(request, [version], now):
            cursor = _tried(connection, (names.get(end.query, end.query), end.params))
            if cursor is not None:
                return _applied([(cursor, end)], tally) or {}
    return {}


def _single_statements(request: Exchange, now: datetime | None) -> Iterator[Statement]:
    for start in request.starts:
        yield from _other_statements(Exchange(worker_id=request.worker_id, starts=[start]), now)
    for release in request.releases:
        yield from _other_statements(Exchange(worker_id=_ledger(request), releases=[release]), now)
    for progress in request.progress:
        yield from _other_statements(Exchange(worker_id=request.worker_id, progress=[progress]), now)


def _plainly(connection: BoundedConnection, statement: Statement) -> psycopg.Cursor[Row]:
    return run(connection, *statement)


def _tried(
    connection: BoundedConnection,
    statement: Statement,
    how: Callable[[BoundedConnection, Statement], psycopg.Cursor[Row]] = _plainly,
) -> psycopg.Cursor[Row] | None:
    """Run one statement in a savepoint; `None` when its values were refused."""
    try:
        with connection.transaction():
            return how(connection, statement)
    except (psycopg.Error, UnicodeError) as error:
        if not is_data_error(error):
            raise
        emit(log, logging.WARNING, Event.TASK_FENCED, f"{statement[0]}: refused by PostgreSQL: {error}")
        return None


# ---- verdicts


def _verdicts(link: Link, ended: Sequence[Ended], applied: Mapping[Key, TaskState]) -> list[Verdict]:
    refused = {(item.task_id, item.fence) for item in ended} - applied.keys()
    stored = _stored_before(link, [key for key in sorted(refused) if is_uuid(key[0])])
    verdicts: list[Verdict] = []
    fresh = set(applied)
    for item in ended:
        key = (item.task_id, item.fence)
        if key in fresh:
            fresh.remove(key)
            stored[key] = item.outcome  # a second one with the same fence meets it
            verdicts.append(Verdict.APPLIED)
        else:
            verdicts.append(Verdict.ALREADY_APPLIED if stored.get(key) == item.outcome else Verdict.FENCED)
    return verdicts


def _stored_before(link: Link, refused: Sequence[Key]) -> dict[Key, str]:
    """The outcomes that stand there for these fences."""
    if not refused:
        return {}
    answers = link.rows("judge_refused", key_params(refused), pinned=True)
    return {(task_id, fence): outcome for task_id, fence, outcome in answers if outcome is not None}


def _keyed(ended: Iterable[Ended], verdicts: Iterable[Verdict]) -> Iterator[tuple[Key, Verdict]]:
    return (((item.task_id, item.fence), verdict) for item, verdict in zip(ended, verdicts, strict=True))
