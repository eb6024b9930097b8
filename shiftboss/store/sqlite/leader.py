"""The leader's row, and the maintenance that only its holder does."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from shiftboss.lease import LeaderLease
from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import TRACE_S, Election, Recovered, Retention
from shiftboss.store.counting import Applied, outcome_counters
from shiftboss.store.sqlite import settle
from shiftboss.store.sqlite.database import savepoint
from shiftboss.store.sqlite.errors import DATA_ERRORS
from shiftboss.store.sqlite.ledger import Ledger, add_counters
from shiftboss.store.sqlite.settle import Held, Move
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.times import after, from_text, to_text

_log: Final = logging.getLogger(__name__)

# A term that ends later than this many of ours was written before the wall clock was set back.
_LONGEST_TERM: Final = 2.0
_BATCH: Final = 200
_leases: Final = msgspec.json.Decoder(list[tuple[str, int]])


def elect(connection: sqlite3.Connection, worker_id: str, term_s: float, now: datetime) -> Election:
    """See `Store.elect`."""
    row = connection.execute(SQL["get_leader"]).fetchone()
    term = 1
    if row is not None:
        holder, term, expires_at = str(row[0]), int(row[1]), from_text(row[2])
        left_s = (expires_at - now).total_seconds()
        running = 0 < left_s <= term_s * _LONGEST_TERM or (left_s > 0 and holder == worker_id)
        if running and holder != worker_id:
            return Election(lease=None, retry_in_s=left_s)
        term += not running
    connection.execute(SQL["set_leader"], {"worker_id": worker_id, "term": term, "expires_at": to_text(after(now, term_s))})
    return Election(lease=LeaderLease(worker_id, term), retry_in_s=term_s)


def set_term_end(connection: sqlite3.Connection, lease: LeaderLease, ends_at: datetime, now: datetime) -> bool:
    """Move the end of a term that is still ours; whether it was."""
    values = {"worker_id": lease.worker_id, "term": lease.term, "expires_at": to_text(ends_at), "now": to_text(now)}
    return connection.execute(SQL["set_term_end"], values).rowcount == 1


def leads(connection: sqlite3.Connection, lease: LeaderLease, now: datetime) -> bool:
    """Whether the term runs now; asked in the same transaction as every write that only a leader may do."""
    values = {"worker_id": lease.worker_id, "term": lease.term, "now": to_text(now)}
    return connection.execute(SQL["leads"], values).fetchone() is not None


# ---- the dead


def recover(connection: sqlite3.Connection, worker_id: str, limit: int, now: datetime) -> Recovered:
    """Remove expired workers, then recover up to `limit` tasks that no worker's row stands for; `worker_id` counts them."""
    connection.execute(SQL["forget_future_heartbeats"], {"now": to_text(now)})
    removed, next_in_s = _remove_expired(connection, now)
    moves = recover_orphans(connection, worker_id, limit, now)
    dead = sum(move.state is TaskState.DEAD_LETTER for move in moves)
    pending = sum(move.state is TaskState.PENDING for move in moves)
    return Recovered(workers=removed, pending=pending, dead_letter=dead, next_in_s=0.0 if len(moves) >= limit else next_in_s)


def _remove_expired(connection: sqlite3.Connection, now: datetime) -> tuple[list[str], float | None]:
    removed: list[str] = []
    next_in_s: float | None = None
    for worker_id, last_heartbeat, timeout_s in connection.execute(SQL["heartbeats"]).fetchall():
        left_s = (from_text(last_heartbeat) + timedelta(seconds=timeout_s) - now).total_seconds()
        if left_s < 0:
            connection.execute(SQL["deregister"], {"id": worker_id})
            removed.append(worker_id)
        else:
            next_in_s = left_s if next_in_s is None else min(next_in_s, left_s)
    return removed, next_in_s


def recover_everything(connection: sqlite3.Connection, worker_id: str, now: datetime) -> list[Move]:
    """Recover every orphan there is: a single instance has just started, and nobody else runs."""
    (orphans,) = connection.execute(SQL["count_leased"]).fetchone()
    return recover_orphans(connection, worker_id, orphans, now)


def recover_orphans(connection: sqlite3.Connection, worker_id: str, limit: int, now: datetime) -> list[Move]:
    """Recover up to `limit` orphans; one that cannot be stored is passed over, so that it stops nobody else's."""
    moves: list[Move] = []
    last_id = ""
    while len(moves) < limit:
        rows = connection.execute(SQL["orphans"], {"after": last_id, "limit": min(_BATCH, limit - len(moves))}).fetchall()
        if not rows:
            break
        last_id = rows[-1][0]
        moves += _recover_batch(connection, worker_id, [Held._make(row) for row in rows], now)
    return moves


def _recover_batch(connection: sqlite3.Connection, worker_id: str, batch: Sequence[Held], now: datetime) -> list[Move]:
    moves = [settle.recover(held) for held in batch]
    try:
        with savepoint(connection):
            _store(connection, worker_id, batch, moves, now)
        return moves
    except DATA_ERRORS:
        return [move for held in batch if (move := _recover_one(connection, worker_id, held, now)) is not None]


def _recover_one(connection: sqlite3.Connection, worker_id: str, held: Held, now: datetime) -> Move | None:
    move = settle.recover(held)
    try:
        with savepoint(connection):
            _store(connection, worker_id, [held], [move], now)
        return move
    except DATA_ERRORS as error:
        return _bury(connection, worker_id, held, now, error)


def _bury(connection: sqlite3.Connection, worker_id: str, held: Held, now: datetime, cause: Exception) -> Move | None:
    # Left as it is it would be looked at for ever and never run: a person has to see it.
    move = Move(
        TaskState.DEAD_LETTER,
        held.attempts,
        held.refunds,
        error=f"worker {held.worker_id} is gone and the task cannot go on: {cause}",
    )
    try:
        with savepoint(connection):
            _store(connection, worker_id, [held], [move], now)
        return move
    except DATA_ERRORS as error:
        _log.error("task %s of worker %s cannot be recovered: %s; change or delete its row", held.id, held.worker_id, error)
        return None


def _store(connection: sqlite3.Connection, worker_id: str, batch: Sequence[Held], moves: Sequence[Move], now: datetime) -> None:
    ledger = Ledger(now)
    for held, move in zip(batch, moves, strict=True):
        ledger.recovered(held, move)
    ledger.write(connection)
    pairs = zip(batch, moves, strict=True)
    lost = [Applied(held.type, move.attempts, Outcome.LOST, move.state, 0.0) for held, move in pairs]
    add_counters(connection, worker_id, outcome_counters(lost))


# ---- the old


def prune(connection: sqlite3.Connection, retention: Retention, limit: int, now: datetime) -> int:
    """Remove up to `limit` rows that are older than their retention; clearing a result counts as one."""
    left = limit
    left -= _prune_history(connection, TaskState.COMPLETED, after(now, -retention.completed_s), left)
    left -= _prune_history(connection, TaskState.CANCELLED, after(now, -retention.cancelled_s), left)
    left -= _prune_dead_letters(connection, after(now, -retention.dead_letter_s), left, now)
    left -= _prune_traces(connection, after(now, -TRACE_S), left)
    before = to_text(after(now, -retention.result_s))
    left -= connection.execute(SQL["clear_results"], {"before": before, "limit": left}).rowcount
    connection.execute(SQL["prune_counters"])
    return limit - left


def _prune_history(connection: sqlite3.Connection, status: TaskState, before: datetime, limit: int) -> int:
    found = connection.execute(SQL["prunable_history"], {"status": status, "before": to_text(before), "limit": limit}).fetchall()
    delete_history(connection, [row[0] for row in found])
    return len(found)


def _prune_dead_letters(connection: sqlite3.Connection, before: datetime, limit: int, now: datetime) -> int:
    found = connection.execute(SQL["prunable_dead_letters"], {"before": to_text(before), "limit": limit}).fetchall()
    delete_tasks(connection, [row[0] for row in found], now)
    return len(found)


def _prune_traces(connection: sqlite3.Connection, before: datetime, limit: int) -> int:
    found = connection.execute(SQL["prunable_traces"], {"before": to_text(before), "limit": limit}).fetchall()
    # Only who was claimed before can have failed before.
    again = [task_id for _, leases in found for task_id, fence in _leases.decode(leases) if fence > 1]
    connection.execute(SQL["delete_attempts_of_gone"], {"ids": msgspec.json.encode(again).decode()})
    connection.execute(SQL["delete_traces"], {"rows": msgspec.json.encode([row[0] for row in found]).decode()})
    return len(found)


def delete_history(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Forget ended tasks and their attempts."""
    values = {"ids": msgspec.json.encode(ids).decode()}
    connection.execute(SQL["delete_history"], values)
    connection.execute(SQL["delete_attempts"], values)


def delete_tasks(connection: sqlite3.Connection, ids: Sequence[str], now: datetime) -> None:
    """Forget tasks of the hot table and their attempts; they stay counted as enqueued."""
    values = {"ids": msgspec.json.encode(ids).decode()}
    ledger = Ledger(now)
    ledger.departed(row[0] for row in connection.execute(SQL["delete_tasks"], values).fetchall())
    ledger.write(connection)
    connection.execute(SQL["delete_attempts"], values)
