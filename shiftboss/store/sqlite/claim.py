"""Claiming: look into the lanes, choose, take. All inside the caller's write transaction."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from shiftboss.model import NULL, Claim, TaskState, TypeInfo
from shiftboss.store.base import ClaimAsk, LaneAsk
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.times import to_text, to_unix, unix_to_text

_tags_decoder: Final = msgspec.json.Decoder(tuple[str, ...])


class Candidate(NamedTuple):
    """A pending row, in the order of the query `claimable`."""

    id: str
    type: str
    queue: str
    priority: int
    attempts: int
    max_attempts: int | None
    fence: int
    timeout_s: float | None
    enqueued_at: str
    due_at: str
    tags: str | None
    meta: str | None
    args: str


def claim(connection: sqlite3.Connection, ask: ClaimAsk, worker_id: str, now: datetime) -> list[Claim]:
    """Take up to `ask.limit` due tasks; the first `ask.running` of them are running, the others claimed."""
    moment = to_text(now)
    candidates = _choose(connection, ask, moment)
    types = {info.type: info for info in ask.types}
    claims = [_claim(row, types[row.type], index < ask.running) for index, row in enumerate(candidates)]
    _take(connection, claims, worker_id, moment)
    return claims


def _take(connection: sqlite3.Connection, claims: Sequence[Claim], worker_id: str, moment: str) -> None:
    alike: defaultdict[tuple[bool, int, float | None], list[str]] = defaultdict(list)
    for it in claims:
        alike[it.running, it.max_attempts, it.timeout_s].append(it.task_id)
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


def _choose(connection: sqlite3.Connection, ask: ClaimAsk, moment: str) -> list[Candidate]:
    types = msgspec.json.encode([info.type for info in ask.types]).decode()
    chosen: list[Candidate] = []
    for lane in ask.lanes:
        left = ask.limit if ask.merge else ask.limit - len(chosen)
        if left <= 0:
            break
        chosen += _look(connection, lane, min(left, lane.limit), types, moment, newest=ask.merge == "lifo")
    if ask.merge:
        chosen.sort(key=lambda row: (row.due_at, row.id), reverse=ask.merge == "lifo")
    return chosen[: max(0, ask.limit)]


def _look(connection: sqlite3.Connection, lane: LaneAsk, limit: int, types: str, moment: str, *, newest: bool) -> list[Candidate]:
    rows = connection.execute(
        SQL["claimable_newest" if newest else "claimable"],
        {
            "queue": lane.queue,
            "priority": lane.priority,
            "since": "" if lane.since is None else unix_to_text(lane.since),
            "now": moment,
            "types": types,
            "limit": max(0, limit),
        },
    )
    return [Candidate._make(row) for row in rows]


def _claim(row: Candidate, info: TypeInfo, running: bool) -> Claim:
    attempt = row.attempts + 1
    # An operator may set a dead letter to pending and forget its attempts: he means it to run, so it gets one more.
    max_attempts = max(info.max_attempts if row.max_attempts is None else row.max_attempts, attempt)
    return Claim(
        task_id=row.id,
        fence=row.fence + 1,
        attempt=attempt,
        type=row.type,
        queue=row.queue,
        priority=row.priority,
        args=msgspec.Raw(row.args.encode()),
        max_attempts=max_attempts,
        timeout_s=info.timeout_s if row.timeout_s is None else row.timeout_s,
        running=running,
        enqueued_at=to_unix(row.enqueued_at),
        due_at=to_unix(row.due_at),
        tags=tags(row.tags),
        meta=NULL if row.meta is None else msgspec.Raw(row.meta.encode()),
    )


def tags(text: str | None) -> tuple[str, ...]:
    """Stored tags; what is not a list of texts (an operator's hand) counts as none, so that it blocks nobody."""
    if not text:
        return ()
    try:
        return _tags_decoder.decode(text)
    except msgspec.DecodeError:
        return ()
