"""How a record looks: text for people, JSON for machines, lines with a priority for the journal."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from shiftboss.logs.context import TASK_ATTRIBUTE, BoundTask

_MAX_MESSAGE_CHARS: Final = 8_000
_MAX_TRACEBACK_CHARS: Final = 32_000

# Attributes that are no fields. color_message is uvicorn's own message over again, with colours.
_ORDINARY: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message", "event", "fields", TASK_ATTRIBUTE}
)

# Whoever can put text into a log must not be able to forge lines, move the cursor or turn the text round.
_CONTROL: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))},
    **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}
_CONTROL_BUT_NEWLINE: Final = {code: text for code, text in _CONTROL.items() if code != ord("\n")}


def escape(text: str) -> str:
    """The text on one line, with control characters made visible."""
    return text.translate(_CONTROL)


class _Line(NamedTuple):
    """What every format says of a record."""

    event: str | None
    message: str
    fields: Mapping[str, object]
    task: BoundTask | None
    traceback: str | None


def _line(record: logging.LogRecord) -> _Line:
    attributes = vars(record)
    fields = dict(attributes.get("fields") or {})
    fields.update((key, value) for key, value in attributes.items() if key not in _ORDINARY)
    message = _clip(record.getMessage(), _MAX_MESSAGE_CHARS)
    return _Line(attributes.get("event"), message, fields, attributes.get(TASK_ATTRIBUTE), _traceback(record))


def _traceback(record: logging.LogRecord) -> str | None:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(logging.Formatter().formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    # The end of a traceback says what happened.
    return "\n".join(parts)[-_MAX_TRACEBACK_CHARS:] or None


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _plain(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _clip(str(value), _MAX_MESSAGE_CHARS)  # NaN too: JSON has no word for it


def _pairs(fields: Mapping[str, object]) -> str:
    """` key=value key="two words"`; empty when there are none. What is not known is left out: people read these lines."""
    return "".join(f" {escape(str(key))}={_quoted(value)}" for key, value in fields.items() if value is not None)


def _quoted(value: object) -> str:
    plain = _plain(value)
    if not isinstance(plain, str):
        return json.dumps(plain)
    text = json.dumps(plain, ensure_ascii=False) if not plain or any(c in ' "=\\' for c in plain) else plain
    return escape(text)


def _tag(task: BoundTask | None) -> str:
    return f" [{escape(task.type)} {task.task_id} attempt {task.attempt}]" if task else ""


class JsonFormatter(logging.Formatter):
    """One object a line: ts, level, actor, logger, event, message, fields, and the task when there is one."""

    def __init__(self, actor: str) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        line = _line(record)
        entry: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "actor": self._actor,
            "logger": record.name,
            "event": line.event,
            "message": line.message,
            "fields": {str(key): _plain(value) for key, value in line.fields.items()},
        }
        if line.task:
            entry |= {"task_id": line.task.task_id, "type": line.task.type, "attempt": line.task.attempt}
        if line.traceback:
            entry["traceback"] = line.traceback
        # ASCII only, so no control character, line separator or lone surrogate is left as it is.
        return json.dumps({key: value for key, value in entry.items() if value not in (None, {})})


class JournalFormatter(logging.Formatter):
    """`<priority>actor event message key=value`: sd-daemon(3) takes the number; one record stays one entry."""

    def __init__(self, actor: str) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        line = _line(record)
        name = line.event or record.name
        message = "" if line.message == line.event else f" {escape(line.message)}"
        trace = f" traceback={escape(line.traceback)}" if line.traceback else ""
        return f"<{_priority(record.levelno)}>{self._actor}{_tag(line.task)} {escape(name)}{message}{_pairs(line.fields)}{trace}"


def _priority(level: int) -> int:
    """The syslog priority: 2 a person is needed, 3 broken, 4 unexpected, 6 routine, 7 debug."""
    for floor, priority in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= floor:
            return priority
    return 7


_COLOURS: Final = {logging.DEBUG: "2", logging.INFO: "32", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}


class TextFormatter(logging.Formatter):
    """For a person at a terminal: local time, level, actor, event, message, fields; tracebacks on lines of their own."""

    def __init__(self, actor: str, *, colours: bool) -> None:
        super().__init__()
        self._actor, self._colours = actor, colours

    def format(self, record: logging.LogRecord) -> str:
        line = _line(record)
        clock = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}.{int(record.msecs):03d}"
        level = self._paint(f"{record.levelname:<8}", _COLOURS.get(record.levelno, "0"))
        name = self._paint(escape(line.event or record.name), "1")
        message = "" if line.message == line.event else f" {escape(line.message)}"
        pairs = self._paint(_pairs(line.fields), "2")
        trace = f"\n{line.traceback.translate(_CONTROL_BUT_NEWLINE)}".replace("\n", "\n    ") if line.traceback else ""
        return (
            f"{self._paint(clock, '2')} {level} {self._actor:<10} {name}{message}{pairs}{self._paint(_tag(line.task), '36')}"
            + trace
        )

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and text else text


def formatter_for(format: str, actor: str, *, colours: bool) -> logging.Formatter:  # noqa: A002
    """Raises `ValueError` when there is no such format."""
    match format:
        case "text":
            return TextFormatter(actor, colours=colours)
        case "json":
            return JsonFormatter(actor)
        case "journal":
            return JournalFormatter(actor)
        case _:
            raise ValueError(f"log format {format!r}: must be one of auto, text, json, journal")
