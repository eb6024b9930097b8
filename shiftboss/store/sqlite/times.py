"""Times as the database keeps them: text in UTC that sorts, `2026-01-31 08:00:00.000000`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_LAST: Final = datetime.max.replace(tzinfo=UTC)
_FULL_LENGTH: Final = 26  # as `to_text` writes it
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_FAR_S: Final = 1e11  # in the year 5138
_FIRST: Final = datetime.min.replace(tzinfo=UTC)


def to_text(moment: datetime) -> str:
    """A timezone-aware moment as stored."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    # The same clock face without its zone, by the quickest way: this is on the way of every enqueue.
    return datetime.combine(moment, moment.time()).isoformat(" ", "microseconds")


def from_text(text: str) -> datetime:
    """A stored moment, timezone-aware. Takes what `datetime('now')` writes too: operators do."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def from_text_or_none(text: str | None) -> datetime | None:
    """As `from_text`; NULL stays `None`."""
    return None if text is None else from_text(text)


@lru_cache(maxsize=1024)  # tasks of one enqueue share their times, and most are due when they were enqueued
def to_unix(text: str) -> float:
    """A stored moment as Unix seconds."""
    return datetime.fromisoformat(f"{text}+00:00").timestamp() if len(text) == _FULL_LENGTH else from_text(text).timestamp()


def unix_to_text(seconds: float) -> str:
    """Unix seconds as stored."""
    if not 0.0 <= seconds < _FAR_S:
        return to_text(after(_EPOCH, seconds))
    micros = f"{round(seconds * 1e6):07d}"
    return _second_text(micros[:-6]) + micros[-6:]


@lru_cache(maxsize=64)  # the attempts of a batch started in the same few seconds; this is on the way of every task
def _second_text(whole: str) -> str:
    return (_EPOCH + timedelta(seconds=int(whole))).replace(tzinfo=None).isoformat(sep=" ", timespec="seconds") + "."


def after(moment: datetime, seconds: float) -> datetime:
    """`moment` plus `seconds` (may be negative); what lies outside the calendar becomes its end."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return _LAST if seconds > 0 else _FIRST
