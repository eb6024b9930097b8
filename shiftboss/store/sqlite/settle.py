"""What becomes of a leased task: pure decisions from a row and an event. Nothing here reads or writes."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from shiftboss.model import DEFAULT_MAX_ATTEMPTS, MAX_REFUNDS, Ended, Outcome, TaskState
from shiftboss.store.sqlite.times import after, to_text

_REFUNDS_USED_UP: Final = f"its {MAX_REFUNDS} refunds are used up, so this attempt counts"
_NEVER_MORE: Final = "and it was the last one"


class Held(NamedTuple):
    """A leased row of `tasks`, in the order of the query `held`."""

    id: str
    type: str
    status: str
    fence: int
    worker_id: str
    attempts: int
    max_attempts: int | None
    refunds: int
    cancel_requested: int
    next_retry_at: str | None
    started_at: str | None

    @property
    def started(self) -> bool:
        return self.status == TaskState.RUNNING

    @property
    def limit(self) -> int:
        # A claim fills max_attempts in; only an operator can have emptied it since.
        return DEFAULT_MAX_ATTEMPTS if self.max_attempts is None else self.max_attempts

    @property
    def charged(self) -> int:
        """The number of this run: a claimed row is charged for it only when something ends it."""
        return min(self.attempts + (not self.started), max(self.limit, 1))


class Move(NamedTuple):
    """Where a task goes and what is written with it. `None` for `error` leaves `last_error` as it is."""

    state: TaskState
    attempts: int
    refunds: int
    next_retry_at: str | None = None
    error: str | None = None


def end(held: Held, ended: Ended, now: datetime) -> Move:
    """The owner reports the end of an attempt; `ended.error` has been made fit to store."""
    match ended.outcome:
        case Outcome.SUCCESS:
            return Move(TaskState.COMPLETED, held.charged, held.refunds)
        case Outcome.CANCELLED:
            return Move(TaskState.CANCELLED, held.charged, held.refunds, error=ended.error)
        case Outcome.SNOOZED:
            return _cancel_if_asked(held, _refund(held, _later(now, ended.retry_in_s or 0.0), "snoozed"))
        case Outcome.INTERRUPTED:
            return _cancel_if_asked(held, _refund(held, None, "interrupted"))
        case Outcome.FAILED | Outcome.TIMEOUT | Outcome.CRASHED | Outcome.LOST:
            return _cancel_if_asked(held, _fail(held, ended, now))


def release(held: Held) -> Move:
    """The claimer gives back what no executor has started. It keeps its place in the lane."""
    if held.started:
        return _cancel_if_asked(held, _refund(held, held.next_retry_at, "given back unstarted"))
    return _cancel_if_asked(held, Move(TaskState.PENDING, held.attempts, held.refunds, held.next_retry_at))


def recover(held: Held) -> Move:
    """The worker is gone: a started attempt is lost, one that was only claimed is not charged (up to the cap)."""
    if not held.started and held.refunds < MAX_REFUNDS:
        return _cancel_if_asked(held, Move(TaskState.PENDING, held.attempts, held.refunds + 1, held.next_retry_at))
    error = f"worker {held.worker_id} is gone; attempt {held.charged} of {held.limit} was lost"
    if held.charged < held.limit:
        return _cancel_if_asked(held, Move(TaskState.PENDING, held.charged, held.refunds, error=error))
    return Move(TaskState.DEAD_LETTER, held.charged, held.refunds, error=f"{error} {_NEVER_MORE}")


def _fail(held: Held, ended: Ended, now: datetime) -> Move:
    error = ended.error or str(ended.outcome)
    if held.charged < held.limit and ended.retry_in_s is not None:
        return Move(TaskState.PENDING, held.charged, held.refunds, _later(now, ended.retry_in_s), error)
    return Move(TaskState.DEAD_LETTER, held.charged, held.refunds, error=error)


def _refund(held: Held, next_retry_at: str | None, what: str) -> Move:
    if held.refunds < MAX_REFUNDS:
        return Move(TaskState.PENDING, held.charged - 1, held.refunds + 1, next_retry_at)
    error = f"{what}: {_REFUNDS_USED_UP}"
    if held.charged < held.limit:
        return Move(TaskState.PENDING, held.charged, held.refunds, next_retry_at, error)
    return Move(TaskState.DEAD_LETTER, held.charged, held.refunds, error=f"{error} {_NEVER_MORE}")


def _cancel_if_asked(held: Held, move: Move) -> Move:
    if held.cancel_requested and move.state is TaskState.PENDING:
        return move._replace(state=TaskState.CANCELLED)
    return move


def _later(now: datetime, seconds: float) -> str:
    return to_text(after(now, max(0.0, seconds)))
