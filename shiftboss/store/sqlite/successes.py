"""Successes, which nearly all ends are: encoded before the write lock is asked for, then stored by three statements for all."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import Final

import msgspec

from shiftboss.model import DEFAULT_MAX_ATTEMPTS, NULL, Ended, Outcome
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.times import to_text, unix_to_text

# Refuses what is not JSON: people and scripts read the column with JSON functions.
_json_decoder: Final = msgspec.json.Decoder(msgspec.Raw)
_places_decoder: Final = msgspec.json.Decoder(list[int])


class Successes:
    """Attempts that succeeded, no task twice.

    Everybody who writes waits for the lock, so that what can be done without it is done here.

    Args:
        ended: in any order; the places that `store` speaks of are theirs.
        keep: whether their tasks move to the history. Else one row of traces is left of them all.

    Raises:
        ValueError: a result that is not JSON, a time that is none.
    """

    def __init__(self, ended: Sequence[Ended], keep: bool) -> None:
        self._ended, self._keep = ended, keep
        self._task_ids = [one.task_id for one in ended]
        self._ids = _json(self._task_ids)
        self._rows = _json([_row(one) for one in ended] if keep else [(one.task_id, one.fence) for one in ended])

    def store(self, connection: sqlite3.Connection, now: datetime) -> dict[str, list[int]]:
        """Store those that still hold their task; which ones, by type of the task."""
        if not self._ended:
            return {}
        stored: dict[str, list[int]] = {}
        for type_, fence, text in connection.execute(SQL["leased_places"], {"ids": self._ids}):
            places = [place for place in _places_decoder.decode(text) if self._ended[place].fence == fence]
            if places:
                stored.setdefault(type_, []).extend(places)
        count = sum(map(len, stored.values()))
        if count == len(self._ended):
            self._write(connection, now)
        elif count:
            some = sorted(chain.from_iterable(stored.values()))
            Successes([self._ended[place] for place in some], self._keep)._write(connection, now)
        if stored:
            connection.executemany(SQL["depart"], [(type_, len(places)) for type_, places in stored.items()])
        return stored

    def _write(self, connection: sqlite3.Connection, now: datetime) -> None:
        """All of them: each is leased under its fence, as was seen in this transaction."""
        moment = to_text(now)
        if self._keep:
            values = {"rows": self._rows, "now": moment, "default_max_attempts": DEFAULT_MAX_ATTEMPTS}
            connection.execute(SQL["complete"], values)
        else:
            leave_trace(connection, self._task_ids, self._rows, moment)
        connection.execute(SQL["delete_ended"], {"ids": self._ids})


def leave_trace(connection: sqlite3.Connection, ids: Sequence[str], leases: str, moment: str) -> None:
    """One row for these tasks, which leave no other. `leases`: JSON, `[[id, fence], …]`."""
    connection.execute(SQL["add_trace"], (max(ids), min(ids), moment, leases))


def result_of(ended: Ended) -> str | None:
    """The result as stored. Raises ValueError when it is not JSON."""
    # Most handlers return nothing: that takes no room, and no entry in the index of results to clear.
    if ended.result == NULL or ended.outcome is not Outcome.SUCCESS:
        return None
    return bytes(_json_decoder.decode(ended.result)).decode()


def duration_of(ended: Ended) -> float:
    """What is no number of seconds becomes 0: a sum never recovers from an infinity."""
    return ended.duration_s if 0.0 <= ended.duration_s < math.inf else 0.0


def _row(one: Ended) -> tuple[str, str | None, str | None, float]:
    """As the statement `complete` reads it."""
    started_at = None if one.started_at is None else unix_to_text(one.started_at)
    return one.task_id, result_of(one), started_at, duration_of(one)


def _json(rows: Sequence[object]) -> str:
    return msgspec.json.encode(rows).decode()
