"""Writes decisions: collects the moves of a batch and stores them with few statements."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from shiftboss.model import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS, Ended, Outcome, TaskState
from shiftboss.store.base import CounterDelta
from shiftboss.store.sqlite.settle import Held, Move
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.successes import leave_trace, result_of
from shiftboss.store.sqlite.times import to_text, unix_to_text


class Ledger:
    """The writes of one transaction, by statement; `write` stores them."""

    def __init__(self, now: datetime, keep_completed: bool = True) -> None:
        self._now = to_text(now)
        self._keep_completed = keep_completed
        self._back: list[tuple[object, ...]] = []
        self._archived: list[tuple[object, ...]] = []
        self._forgotten: list[tuple[str, int]] = []
        self._attempts: list[tuple[object, ...]] = []
        self._departed: Counter[str] = Counter()

    def ended(self, held: Held, move: Move, ended: Ended) -> None:
        """An attempt that its owner has ended."""
        started_at = held.started_at if ended.started_at is None else unix_to_text(ended.started_at)
        self._moved(held, move, result=result_of(ended), started_at=started_at, duration_s=ended.duration_s)
        if ended.outcome is not Outcome.SUCCESS:
            traceback = storable(ended.traceback, MAX_TRACEBACK_CHARS)
            self._attempts.append(
                (
                    held.id,
                    held.fence,
                    held.charged,
                    ended.outcome,
                    held.worker_id,
                    started_at,
                    self._now,
                    ended.duration_s,
                    ended.error,
                    traceback,
                )
            )

    def released(self, held: Held, move: Move) -> None:
        """A task that its owner gave back unstarted; an attempt that stays charged is recorded as interrupted."""
        self._moved(held, move)
        if move.attempts == held.charged:
            self._unended(held, Outcome.INTERRUPTED, move.error)

    def recovered(self, held: Held, move: Move) -> None:
        """A task whose worker is gone; a charged attempt is recorded as lost."""
        self._moved(held, move)
        if move.attempts == held.charged:
            self._unended(held, Outcome.LOST, move.error or f"worker {held.worker_id} is gone")

    def _unended(self, held: Held, outcome: Outcome, error: str | None) -> None:
        """A charged attempt of which its owner reported no end."""
        self._attempts.append(
            (held.id, held.fence, held.charged, outcome, held.worker_id, held.started_at, self._now, None, error, None)
        )

    def cancelled(self, task_id: str, type_: str, attempts: int) -> None:
        """A pending task that an operator cancelled."""
        self._archive(task_id, type_, TaskState.CANCELLED, attempts)

    def departed(self, types: Iterable[str], sign: int = 1) -> None:
        """Tasks that left `tasks` for good, or with `sign` -1 came back."""
        for type_ in types:
            self._departed[type_] += sign

    def write(self, connection: sqlite3.Connection) -> None:
        """Store everything collected so far."""
        _many(connection, "put_back", self._back)
        if self._archived:
            rows = msgspec.json.encode(self._archived).decode()
            connection.execute(SQL["archive"], {"rows": rows, "now": self._now})
            connection.execute(SQL["delete_ended"], {"ids": msgspec.json.encode([row[0] for row in self._archived]).decode()})
        if self._forgotten:
            ids = [task_id for task_id, _ in self._forgotten]
            leave_trace(connection, ids, msgspec.json.encode(self._forgotten).decode(), self._now)
            connection.execute(SQL["delete_ended"], {"ids": msgspec.json.encode(ids).decode()})
        _many(connection, "add_attempt", self._attempts)
        _many(connection, "depart", list(self._departed.items()))

    def _moved(
        self, held: Held, move: Move, result: str | None = None, started_at: str | None = None, duration_s: float | None = None
    ) -> None:
        if move.state is TaskState.COMPLETED and not self._keep_completed:
            self._forgotten.append((held.id, held.fence))
            self._departed[held.type] += 1
        elif move.state in (TaskState.COMPLETED, TaskState.CANCELLED):
            self._archive(held.id, held.type, move.state, move.attempts, move.error, result, started_at, duration_s)
        else:
            self._back.append((held.id, move.state, move.attempts, move.refunds, move.next_retry_at, move.error, self._now))

    def _archive(
        self,
        task_id: str,
        type_: str,
        state: TaskState,
        attempts: int,
        error: str | None = None,
        result: str | None = None,
        started_at: str | None = None,
        duration_s: float | None = None,
    ) -> None:
        self._archived.append((task_id, state, attempts, error, result, started_at, duration_s))
        self._departed[type_] += 1


def storable(text: str | None, max_chars: int = MAX_ERROR_CHARS) -> str | None:
    """`text` cut to size, with what a database cannot keep (NUL, lone surrogates) written out as an escape."""
    if text is None:
        return None
    if len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _many(connection: sqlite3.Connection, query: str, rows: list[tuple[object, ...]] | list[tuple[str, int]]) -> None:
    if rows:
        connection.executemany(SQL[query], rows)


def add_counters(connection: sqlite3.Connection, worker_id: str, deltas: Sequence[CounterDelta]) -> None:
    """Add to a worker's counters, in the transaction of what they count."""
    if deltas:
        connection.executemany(SQL["add_counter"], [(worker_id, delta.name, delta.labels, delta.value) for delta in deltas])
