"""How a task is to be run, apart from its arguments: checked where it is written down, not when it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

from shiftboss.codec import encode_untyped
from shiftboss.errors import OptionError
from shiftboss.model import MAX_PRIORITY, MIN_PRIORITY, NewTask, new_task_id

MAX_SECONDS: Final = 10 * 365 * 86_400.0  # past it, adding the delay to a date can overflow
MAX_NAME_CHARS: Final = 200
MAX_KEY_CHARS: Final = 500
MAX_TAGS: Final = 50
MAX_META_BYTES: Final = 65_536
MAX_ATTEMPTS_LIMIT: Final = 32_767  # a smallint in PostgreSQL

_MAX_SHOWN_CHARS: Final = 200
_UNPRINTABLE: Final = re.compile("[\0\ud800-\udfff]")


class Options(msgspec.Struct, frozen=True):
    """What `using()` collects; `None` means "as the handler says", or the default."""

    queue: str = "default"
    priority: int = 0
    max_attempts: int | None = None
    timeout_s: float | None = None
    delay_s: float | None = None
    run_at: datetime | None = None
    unique_key: str | None = None
    tags: tuple[str, ...] = ()
    meta: msgspec.Raw | None = None
    tx: object | None = None

    def using(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: float | timedelta | None = None,
        run_at: datetime | None = None,
        unique: str | None = None,
        max_attempts: int | None = None,
        timeout: float | timedelta | None = None,
        tags: Iterable[str] | None = None,
        meta: Mapping[str, object] | None = None,
        tx: object | None = None,
    ) -> Options:
        """A copy with these options; those that are `None` stay as they are. `delay` and `run_at` replace each other.

        Raises:
            OptionError: a value is impossible; names the option.
        """
        if delay is not None and run_at is not None:
            raise OptionError("delay and run_at say two different times; give one of them")
        timed = delay is not None or run_at is not None
        return replace(
            self,
            queue=self.queue if queue is None else checked_name("queue", queue),
            priority=self.priority if priority is None else checked_priority(priority),
            max_attempts=self.max_attempts if max_attempts is None else checked_attempts(max_attempts),
            timeout_s=self.timeout_s if timeout is None else checked_timeout(timeout),
            delay_s=(None if delay is None else seconds("delay", delay)) if timed else self.delay_s,
            run_at=(None if run_at is None else _checked_time(run_at)) if timed else self.run_at,
            unique_key=self.unique_key if unique is None else _checked_text("unique", unique, MAX_KEY_CHARS),
            tags=self.tags if tags is None else _checked_tags(tags),
            meta=self.meta if meta is None else encode_untyped("meta", meta, MAX_META_BYTES, noun="meta"),
            tx=self.tx if tx is None else tx,
        )

    def new_task(self, type_name: str, args: msgspec.Raw) -> NewTask:
        """The row to be stored, under a new id."""
        return NewTask(
            id=new_task_id(),
            type=type_name,
            args=args,
            queue=self.queue,
            priority=self.priority,
            max_attempts=self.max_attempts,
            timeout_s=self.timeout_s,
            delay_s=self.delay_s,
            run_at=self.run_at,
            unique_key=self.unique_key,
            tags=self.tags,
            meta=self.meta,
        )


def seconds(option: str, duration: float | timedelta) -> float:
    """A duration in seconds.

    Raises:
        OptionError: not a number or timedelta, negative, or beyond ten years.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"{option}={duration!r} must be seconds (a number) or a timedelta")
    if not math.isfinite(value) or not 0 <= value <= MAX_SECONDS:
        raise OptionError(f"{option}={duration!r} must be between 0 and {MAX_SECONDS:.0f} seconds (ten years)")
    return float(value)


def checked_timeout(timeout: float | timedelta) -> float:
    """Seconds above 0; see `seconds`."""
    value = seconds("timeout", timeout)
    if value == 0:
        raise OptionError("timeout=0 would end every attempt at its start; leave it out for no timeout")
    return value


def checked_attempts(max_attempts: int) -> int:
    """At least 1."""
    if isinstance(max_attempts, bool) or not isinstance(max_attempts, int) or not 1 <= max_attempts <= MAX_ATTEMPTS_LIMIT:
        raise OptionError(f"max_attempts={max_attempts!r} must be a whole number from 1 (no retry) to {MAX_ATTEMPTS_LIMIT}")
    return max_attempts


def checked_priority(priority: int) -> int:
    """Larger runs first."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise OptionError(
            f"priority={priority!r} must be a whole number from {MIN_PRIORITY} to {MAX_PRIORITY}; larger runs first"
        )
    return int(priority)


def checked_name(option: str, name: str) -> str:
    """A name of a type or queue: printable, without spaces, so that it can be typed in a shell and be a metric's label."""
    _checked_text(option, name, MAX_NAME_CHARS)
    if not name.isprintable() or any(character.isspace() for character in name):
        raise OptionError(f"{option}={name!r} must have no spaces or control characters")
    return name


def _checked_text(option: str, text: str, max_chars: int) -> str:
    if not isinstance(text, str) or not text or len(text) > max_chars:
        raise OptionError(f"{option}={_shown(text)} must be a string of 1 to {max_chars} characters")
    if _UNPRINTABLE.search(text):
        raise OptionError(f"{option}={text!r} holds a NUL character or a lone surrogate, which cannot be stored")
    return text


def _shown(value: object) -> str:
    """As Python writes it, up to a length that can still be read."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}… ({len(text)} characters)"


def _checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise OptionError(f"tags={tags!r} is one string; give a list: tags=[{tags!r}]")
    checked = tuple(dict.fromkeys(_checked_text("tag", tag, MAX_NAME_CHARS) for tag in tags))
    if len(checked) > MAX_TAGS:
        raise OptionError(f"{len(checked)} tags are more than {MAX_TAGS}; put details into meta")
    return checked


def _checked_time(run_at: datetime) -> datetime:
    if not isinstance(run_at, datetime):
        raise OptionError(f"run_at={run_at!r} must be a datetime; for a duration use delay")
    if run_at.utcoffset() is None:
        raise OptionError(f"run_at={run_at!r} has no time zone, so it names no moment; add one: datetime(…, tzinfo=UTC)")
    return run_at
