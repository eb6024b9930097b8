"""Claiming: look into the lanes, choose, take. All inside the caller's write transaction."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Final, TypeAlias

import msgspec

from shiftboss.model import NULL, Claim, TaskState, TypeInfo
from shiftboss.store.base import ClaimAsk, LaneAsk
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.times import to_text, to_unix, unix_to_text

# A pending row, in the order of the query `claimable`; not a named tuple, which takes as long to make as the claim itself.
Candidate: TypeAlias = tuple[Any, ...]
_ID, _TYPE, _ATTEMPTS, _MAX_ATTEMPTS, _TIMEOUT_S, _DUE_AT = 0, 1, 4, 5, 7, 9

_tags_decoder: Final = msgspec.json.Decoder(tuple[str, ...])


class Taken(msgspec.Struct, frozen=True, eq=False, gc=False):  # a named tuple takes four times as long to make
    """A row as it was before it was taken, and what it was taken with."""

    row: Candidate
    running: bool
    max_attempts: int
    timeout_s: float | None


def take(connection: sqlite3.Connection, ask: ClaimAsk, worker_id: str, now: datetime) -> list[Taken]:
    """Take up to `ask.limit` due tasks; the first `ask.running` of them are running, the others claimed.

    What they are for the claimer, `claims_of` tells: everybody who writes waits for the lock, and that can be done without it.
    """
    moment = to_text(now)
    types = {info.type: info for info in ask.types}
    taken = [_terms(row, types[row[_TYPE]], place < ask.running) for place, row in enumerate(_choose(connection, ask, moment))]
    alike: defaultdict[tuple[bool, int, float | None], list[str]] = defaultdict(list)
    for one in taken:
        alike[one.running, one.max_attempts, one.timeout_s].append(one.row[_ID])
    for (running, max_attempts, timeout_s), ids in alike.items():
        connection.execute(
            SQL["claim"],
            {
                "status": TaskState.RUNNING if running else TaskState.CLAIMED,
                "worker_id": worker_id,
                "charge": int(running),
                "max_attempts": max_attempts,
                "timeout_s": timeout_s,
                "started_at": moment if running else None,
                "now": moment,
                "ids": msgspec.json.encode(ids).decode(),
            },
        )
    return taken


def _terms(row: Candidate, info: TypeInfo, running: bool) -> Taken:
    max_attempts, timeout_s, least = row[_MAX_ATTEMPTS], row[_TIMEOUT_S], row[_ATTEMPTS] + 1
    if max_attempts is None:
        max_attempts = info.max_attempts
    if max_attempts < least:
        max_attempts = least  # an operator may set a dead letter to pending and forget its attempts: he means it to run
    return Taken(row, running, max_attempts, info.timeout_s if timeout_s is None else timeout_s)


def _choose(connection: sqlite3.Connection, ask: ClaimAsk, moment: str) -> list[Candidate]:
    types = msgspec.json.encode([info.type for info in ask.types]).decode()
    chosen: list[Candidate] = []
    for lane in ask.lanes:
        left = ask.limit if ask.merge else ask.limit - len(chosen)
        if left <= 0:
            break
        chosen += _look(connection, ask, lane, min(left, lane.limit), types, moment)
    if ask.merge:
        chosen.sort(key=itemgetter(_DUE_AT, _ID), reverse=ask.merge == "lifo")
    return chosen[: max(0, ask.limit)]


def _look(connection: sqlite3.Connection, ask: ClaimAsk, lane: LaneAsk, limit: int, types: str, moment: str) -> list[Candidate]:
    rows = connection.execute(
        SQL["claimable_newest" if ask.merge == "lifo" else "claimable"],
        {
            "queue": lane.queue,
            "priority": lane.priority,
            "since": "" if lane.since is None else unix_to_text(lane.since),
            "now": moment,
            "types": types,
            "unread": ask.unread,
            "limit": max(0, limit),
        },
    )
    return rows.fetchall()


def claims_of(taken: Sequence[Taken]) -> list[Claim]:
    """What the claimer is told of the rows that were taken, in their order."""
    return [_claim(one) for one in taken]


def _claim(taken: Taken) -> Claim:
    (id_, type_, queue, priority, attempts, _, fence, _, enqueued_at, due_at, tags_text, meta, args) = taken.row
    return Claim(
        task_id=id_,
        fence=fence + 1,
        attempt=attempts + 1,
        type=type_,
        queue=queue,
        priority=priority,
        args=msgspec.Raw(args.encode()),
        max_attempts=taken.max_attempts,
        timeout_s=taken.timeout_s,
        running=taken.running,
        enqueued_at=_unix(enqueued_at),
        due_at=_unix(due_at),
        tags=tags(tags_text) if tags_text else (),
        meta=NULL if meta is None else msgspec.Raw(meta.encode()),
    )


def _unix(text: str) -> float:
    """A time that is none (an operator's hand) counts as 1970, so that it blocks nobody."""
    try:
        return to_unix(text)
    except ValueError:
        return 0.0


def tags(text: str | None) -> tuple[str, ...]:
    """Stored tags; what is not a list of texts (an operator's hand) counts as none, so that it blocks nobody."""
    if not text:
        return ()
    try:
        return _tags_decoder.decode(text)
    except msgspec.DecodeError:
        return ()
