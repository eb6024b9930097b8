"""What the leader does: elections, recovering what the dead held, pruning, and the coming days' partitions."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from shiftboss.errors import StoreUnavailable
from shiftboss.events import Event, emit
from shiftboss.lease import LeaderLease
from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import TRACE_S, Election, Recovered, Retention
from shiftboss.store.counting import Applied, outcome_counters
from shiftboss.store.postgres.errors import is_data_error
from shiftboss.store.postgres.link import BoundedConnection, Link, bounds, run
from shiftboss.store.postgres.params import Key, counter_params, pseudo_end_params

log = logging.getLogger(__name__)

NIL_ID: Final = "00000000-0000-0000-0000-000000000000"
DAYS_AHEAD: Final = 7
_DAY_S: Final = 86_400.0
# Kept for less than this, rows go one by one: a day's partition would outlive them too far.
_EXACT_BELOW_S: Final = 2 * _DAY_S
_PREFIX: Final = "task_history_"
_BATCH: Final = 500
_COVER_BATCH: Final = 10_000
_COVER_S: Final = 0.2
# Dropping a partition shuts everyone out of the history for a moment; rather try again at the next prune than queue up.
_DROP_LOCK_S: Final = 1.0


class Upkeep:
    """Leader-only writes over one link; every one of them holds the term while it works.

    `now` is given by tests; else the database's clock decides.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._after = NIL_ID  # past orphans that could not be recovered
        self._covered = NIL_ID  # up to this task the ranges of claims have been gone through

    # ---- elections

    def elect(self, worker_id: str, term_s: float, now: datetime | None) -> Election:
        won = self._link.rows("elect", {"worker_id": worker_id, "term_s": term_s, "now": now})
        if won:
            return Election(lease=LeaderLease(worker_id, won[0][0]), retry_in_s=term_s)
        remaining = self._link.rows("leader_remaining", {"now": now})
        return Election(lease=None, retry_in_s=min(term_s, remaining[0][0]) if remaining else 0.0)

    def renew(self, lease: LeaderLease, term_s: float, now: datetime | None) -> bool:
        return bool(self._link.rows("renew", {**_holder(lease, now), "term_s": term_s}))

    def resign(self, lease: LeaderLease, now: datetime | None) -> None:
        self._link.changed("resign", _holder(lease, now))

    # ---- the dead

    def recover(self, lease: LeaderLease, limit: int, now: datetime | None) -> Recovered:
        found = self._link.rows("look_for_dead", _holder(lease, now))
        if not found:
            return Recovered()  # the lead is not ours
        ((anything, next_in_s),) = found
        return self._recover(lease, limit, now) if anything else Recovered(workers=[], next_in_s=next_in_s)

    def _recover(self, lease: LeaderLease, limit: int, now: datetime | None) -> Recovered:
        with self._link.connected() as connection, connection.transaction():
            bounds(connection, pinned=True)  # ranges are gone through by index, whatever ANALYZE saw last
            if not self._holds(connection, lease, now):
                return Recovered()
            run(connection, "pull_back_heartbeats", {"now": now})
            removed = [row[0] for row in run(connection, "remove_expired_workers", {"now": now})]
            orphans = self._orphans(connection, limit)
            states = self._lose(connection, lease.worker_id, orphans, now)
            run(connection, "forget_ranges", {})
            expiry = run(connection, "next_expiry", {"now": now}).fetchone()
        return Recovered(
            workers=removed,
            pending=states.count(TaskState.PENDING),
            dead_letter=states.count(TaskState.DEAD_LETTER),
            next_in_s=_next_in_s(expiry, more=len(orphans) >= limit),
        )

    def take_over(self, connection: BoundedConnection, worker_id: str, now: datetime | None) -> int:
        """In the open transaction: remove every other worker, end their lead, recover all that they held; how many tasks."""
        run(connection, "remove_other_workers", {"worker_id": worker_id})
        run(connection, "end_other_terms", {"worker_id": worker_id, "now": now})
        recovered, after = 0, NIL_ID
        while True:
            found = run(connection, "held_by_others", {"worker_id": worker_id, "after": after, "most": _BATCH}).fetchall()
            if not found:
                run(connection, "forget_ranges", {})
                return recovered
            recovered += len(self._lose(connection, worker_id, [(id_, fence) for id_, fence in found], now))
            after = found[-1][0]

    def _orphans(self, connection: BoundedConnection, limit: int) -> list[Key]:
        """The next orphans, from the beginning again after the last: one that cannot be recovered must not hide the rest."""
        found = run(connection, "orphans", {"after": self._after, "most": limit}).fetchall()
        self._after = found[-1][0] if len(found) == limit else NIL_ID
        return [(task_id, fence) for task_id, fence in found]

    def _lose(self, connection: BoundedConnection, slot: str, keys: Sequence[Key], now: datetime | None) -> list[TaskState]:
        """End attempts whose worker is gone; row by row when the batch is refused."""
        if not keys:
            return []
        try:
            with connection.transaction():
                rows = run(connection, "end_attempts", pseudo_end_params(slot, "lost", keys, now)).fetchall()
                lost = [Applied(row[2], row[3], Outcome.LOST, TaskState(row[4]), 0.0) for row in rows]
                totals = {(delta.name, delta.labels): delta.value for delta in outcome_counters(lost)}
                if totals:
                    run(connection, "add_counters", counter_params(slot, totals))
                return [one.state for one in lost]
        except psycopg.Error as error:
            if not is_data_error(error):
                raise
            if len(keys) == 1:
                emit(log, logging.ERROR, Event.TASK_RECOVERED, f"not recovered: {error}", task_id=keys[0][0])
                return []
        return [state for key in keys for state in self._lose(connection, slot, [key], now)]

    def _holds(self, connection: BoundedConnection, lease: LeaderLease, now: datetime | None) -> bool:
        return run(connection, "hold_term", _holder(lease, now)).fetchone() is not None

    # ---- retention

    def prune(self, lease: LeaderLease, retention: Retention, limit: int, now: datetime | None) -> int:
        pruned = self._prune_rows(lease, retention, limit, now)
        if pruned is None:
            return 0
        self._cover(lease, now)
        today = self._link.rows("now", {"now": now})[0][0]
        return pruned + self._turn_partitions(lease, retention, today, now)

    def _cover(self, lease: LeaderLease, now: datetime | None) -> None:
        """See to it that what is leased is found when its worker is dead: for a while, and on from there next time."""
        until_s = time.monotonic() + _COVER_S
        while time.monotonic() < until_s:
            with self._link.connected() as connection, connection.transaction():
                bounds(connection, pinned=True)  # of this alone: all else that a leader asks has plans as ever
                if not self._holds(connection, lease, now):
                    return
                further = run(connection, "cover_leased", {"after": self._covered, "most": _COVER_BATCH}).fetchone()
            self._covered = NIL_ID if further is None else further[0]
            if further is None:
                return

    def _prune_rows(self, lease: LeaderLease, retention: Retention, limit: int, now: datetime | None) -> int | None:
        """Rows that do not go with a partition; `None` when the term is not ours any more."""
        longest_s = max(retention.completed_s, retention.cancelled_s, retention.dead_letter_s)
        with self._link.connected() as connection, connection.transaction():
            bounds(connection)
            if not self._holds(connection, lease, now):
                return None
            base = {"now": now, "most": limit}
            dead = run(connection, "prune_dead_letters", {**base, "slot": lease.worker_id, "keep_s": retention.dead_letter_s})
            pruned = _count(dead)
            for status, keep_s in (("completed", retention.completed_s), ("cancelled", retention.cancelled_s)):
                query = "prune_history" if _row_by_row(keep_s, retention) else "prune_default_history"
                pruned += _count(run(connection, query, {**base, "status": status, "keep_s": keep_s}))
            run(connection, "clear_results", {**base, "keep_s": retention.result_s})
            run(connection, "prune_attempts", {**base, "keep_s": longest_s})
            pruned += run(connection, "prune_traces", {**base, "keep_s": TRACE_S}).rowcount
            run(connection, "fold_departures", {})
            run(connection, "forget_counters", {})
        return pruned

    def _turn_partitions(self, lease: LeaderLease, retention: Retention, today: datetime, now: datetime | None) -> int:
        """Create the coming days', drop those that ended before every retention."""
        oldest = today - timedelta(seconds=max(retention.completed_s, retention.cancelled_s))
        pruned = 0
        for name, *_ in self._link.rows("partitions"):
            day = _day_of(name)
            if day is not None and day + timedelta(days=1) <= oldest:
                pruned += self._alter(lease, "drop_history_day", day, "dropped", now)
        for ahead in range(DAYS_AHEAD + 1):
            self._alter(lease, "add_history_day", today + timedelta(days=ahead), "created", now)
        return pruned

    def _alter(self, lease: LeaderLease, query: str, day: datetime, done: str, now: datetime | None) -> int:
        """Make or drop one day, unless the history is in use; what the query answers."""
        try:
            with self._link.connected() as connection, connection.transaction():
                bounds(connection, lock_timeout_s=_DROP_LOCK_S)
                return _count(run(connection, query, {"day": day.date()})) if self._holds(connection, lease, now) else 0
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                raise
            emit(log, logging.WARNING, Event.TASKS_PRUNED, f"the history's {day:%Y-%m-%d} is not {done} yet: it is in use")
            return 0


def _next_in_s(expiry: tuple[float | None, ...] | None, more: bool) -> float | None:
    """When to look again: at once when a limit cut this pass short."""
    if more:
        return 0.0
    return None if expiry is None or expiry[0] is None else max(0.0, expiry[0])


def _row_by_row(keep_s: float, retention: Retention) -> bool:
    """Whether rows of one status have to go before their partition does."""
    return keep_s < _EXACT_BELOW_S or keep_s < max(retention.completed_s, retention.cancelled_s)


def _day_of(partition: str) -> datetime | None:
    try:
        return datetime.strptime(partition.removeprefix(_PREFIX), "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return None


def _holder(lease: LeaderLease, now: datetime | None) -> dict[str, object]:
    return {"worker_id": lease.worker_id, "term": lease.term, "now": now}


def _count(cursor: psycopg.Cursor[tuple[int, ...]]) -> int:
    row = cursor.fetchone()
    return 0 if row is None else row[0]
