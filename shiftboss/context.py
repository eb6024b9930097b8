"""One attempt, as its handler sees it: what it may know, say, and raise."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Final

import msgspec

from shiftboss.clock import Clock, SystemClock
from shiftboss.errors import OptionError
from shiftboss.events import Event
from shiftboss.failure import storable
from shiftboss.logs.context import bind_task, running
from shiftboss.logs.line import escape
from shiftboss.model import NULL, Claim, Outcome
from shiftboss.options import seconds

_SYSTEM_CLOCK: Final = SystemClock()
_MAX_NOTE_CHARS: Final = 500
_log: Final = logging.getLogger("shiftboss.task")


class EndAttempt(BaseException):
    """What a handler raises to end its attempt otherwise than by success or failure.

    Not an `Exception`, for the reason that `asyncio.CancelledError` is none: a handler's own `except Exception`
    (log and go on) must not swallow it. `finally` and context managers see it as any other.
    """


class Retry(EndAttempt):
    """Fail this attempt and, if attempts are left, run again after `delay` (seconds or timedelta; `None`: its backoff)."""

    def __init__(self, delay: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.delay_s = None if delay is None else seconds("Retry(delay)", delay)


class Snooze(EndAttempt):
    """Run again after `delay` (seconds or timedelta); this attempt is not charged."""

    def __init__(self, delay: float | timedelta) -> None:
        self.delay_s = seconds("Snooze(delay)", delay)
        super().__init__(f"for {self.delay_s:g} s")


class Cancel(EndAttempt):
    """End the task as cancelled: it is no longer wanted, and that is not an error."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)


class Attempt(msgspec.Struct, eq=False):
    """One run of a task, as its handler sees it; safe to use from any thread.

    Attributes:
        task_id: the task's id; the same in all its attempts, so a good idempotency key.
        type, queue, tags: as enqueued.
        number: which attempt this is, from 1; snoozed and interrupted ones are not counted.
        max_attempts: after this many the task becomes a dead letter.
        fence: the fencing token of this claim: it rises with each, so an outside system can refuse an older one.
        worker: id of the worker that runs it.
        deadline: `time.monotonic()` seconds at which the timeout ends the attempt; `None` without a timeout.
        enqueued_at: Unix seconds by the database's clock.
    """

    _claim: Claim
    worker: str
    deadline: float | None = None
    _on_progress: Callable[[Claim, float, str], None] | None = None
    clock: Clock = _SYSTEM_CLOCK
    stop_outcome: Outcome | None = None
    _log: AttemptLogger | None = None

    def __repr__(self) -> str:
        return f"<Attempt {self.number} of {self.type} {self.task_id}>"  # not the arguments: it may be logged

    @property
    def task_id(self) -> str:
        return self._claim.task_id

    @property
    def type(self) -> str:
        return self._claim.type

    @property
    def queue(self) -> str:
        return self._claim.queue

    @property
    def tags(self) -> tuple[str, ...]:
        return self._claim.tags

    @property
    def number(self) -> int:
        return self._claim.attempt

    @property
    def max_attempts(self) -> int:
        return self._claim.max_attempts

    @property
    def fence(self) -> int:
        return self._claim.fence

    @property
    def enqueued_at(self) -> float:
        return self._claim.enqueued_at

    @property
    def meta(self) -> dict[str, Any]:
        """What the caller of `using(meta=…)` gave along; a new dict each time."""
        meta = self._claim.meta
        return {} if meta == NULL else msgspec.json.decode(meta, type=dict[str, Any])

    @property
    def stopping(self) -> bool:
        """Whether the attempt was asked to end: cancelled, timed out, or its worker stops. End soon, or raise `Snooze`."""
        return self.stop_outcome is not None

    def stop(self, outcome: Outcome = Outcome.INTERRUPTED) -> None:
        """Ask the handler to end, for the executor: cancelled, timeout or interrupted. The first one asked for stays."""
        if self.stop_outcome is None:
            self.stop_outcome = outcome

    def remaining_s(self) -> float | None:
        """Seconds until the timeout, never negative; `None` without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self.clock.monotonic_s())

    def progress(self, percent: float, note: str = "") -> None:
        """Say how far it is, for people: 0 to 100 (beyond is cut to it), and a short note. Cheap; only the latest is kept.

        Raises:
            OptionError: `percent` is not a number.
        """
        if math.isnan(percent):
            raise OptionError("progress(percent=nan): it must be a number from 0 to 100")
        if self._on_progress is not None:
            told = escape(storable(str(note)[:_MAX_NOTE_CHARS]))[:_MAX_NOTE_CHARS]
            self._on_progress(self._claim, min(100.0, max(0.0, float(percent))), told)

    @property
    def log(self) -> AttemptLogger:
        """A logger whose every line carries the task's id, type, queue and attempt."""
        if self._log is None:
            self._log = AttemptLogger(_log, self)
        return self._log


class AttemptLogger(logging.LoggerAdapter[logging.Logger]):
    """Marks its lines as the attempt's in whatever thread they are logged."""

    def __init__(self, logger: logging.Logger, attempt: Attempt) -> None:
        super().__init__(logger, {})
        self._attempt = attempt

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log one line, as `logging.Logger.log`."""
        if self.isEnabledFor(level):
            extra: Mapping[str, object] = kwargs.get("extra") or {}
            kwargs["extra"] = {**extra, "event": Event.TASK_LOG.value}
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller's line, not this one
            attempt = self._attempt
            with bind_task(attempt.task_id, attempt.type, attempt.number, attempt.queue):
                self.logger.log(level, msg, *args, **kwargs)


current: Final[ContextVar[Attempt | None]] = running


def current_attempt() -> Attempt | None:
    """The attempt that this thread or asyncio task runs, for code deep below a handler; `None` outside of one."""
    return current.get()
