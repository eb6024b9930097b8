"""What every format says of a record, and the sentence that people read of it."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from shiftboss.events import Event
from shiftboss.logs.context import TASK_ATTRIBUTE, BoundTask

MAX_MESSAGE_CHARS: Final = 8_000
_MAX_TRACEBACK_CHARS: Final = 32_000

# Attributes that are no fields. color_message is uvicorn's own message over again, with colours.
_ORDINARY: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message", "event", "fields", TASK_ATTRIBUTE}
)

# Whoever can put text into a log must not be able to forge lines, move the cursor or turn the text round.
_CONTROL: Final = {
    **{chr(code): f"\\x{code:02x}" for code in (*range(32), *range(127, 160))},
    **{chr(code): f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}
_ANY_CONTROL: Final = re.compile(f"[{re.escape(''.join(_CONTROL))}]")
_ANY_BUT_NEWLINE: Final = re.compile(f"[{re.escape(''.join(_CONTROL).replace(chr(10), ''))}]")


def escape(text: str) -> str:
    """The text on one line, with control characters made visible."""
    return text if text.isprintable() else _ANY_CONTROL.sub(_visible, text)


def escape_but_newlines(text: str) -> str:
    """The same for text of several lines: a traceback, or the value of a field that has a length of its own."""
    return text if text.isprintable() else _ANY_BUT_NEWLINE.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    return _CONTROL[found[0]]


class Line(NamedTuple):
    """What every format says of a record."""

    event: str | None
    name: str  # the event; for a line without one its logger; for what user code printed "stdout" or "stderr"
    message: str
    own: Mapping[str, object]  # the event's fields
    extra: Mapping[str, object]  # whatever else was logged along, by `extra={…}`
    task: BoundTask | None
    traceback: str | None

    @property
    def fields(self) -> dict[str, object]:
        return {**self.own, **self.extra}


def line_of(record: logging.LogRecord) -> Line:
    """Read a record; raises whatever the `__str__` of a logged object raises."""
    attributes = vars(record)
    own = dict(attributes.get("fields") or {})
    extra = {key: value for key, value in attributes.items() if key not in _ORDINARY}
    event = attributes.get("event")
    return Line(
        event,
        _name(event, record.name),
        clip(record.getMessage(), MAX_MESSAGE_CHARS),
        own,
        extra,
        attributes.get(TASK_ATTRIBUTE),
        _traceback(record),
    )


def _name(event: str | None, logger: str) -> str:
    return logger.rpartition(".")[2] if event == Event.OUTPUT_LINE else event or logger


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


def clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def plain(value: object) -> str | int | float | bool | None:
    """The value as JSON has it; what JSON has no word for (NaN too) as text."""
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return clip(str(value), MAX_MESSAGE_CHARS)


def pairs(fields: Mapping[str, object]) -> str:
    """` key=value key="two words"`; empty when there are none. What is not known is left out: people read these lines."""
    return "".join(f" {escape(str(key))}={_quoted(value)}" for key, value in fields.items() if value is not None)


def _quoted(value: object) -> str:
    known = plain(value)
    if not isinstance(known, str):
        return json.dumps(known)
    text = json.dumps(known, ensure_ascii=False) if not known or any(c in ' "=\\' for c in known) else known
    return escape(text)


def tag(task: BoundTask | None) -> str:
    """Whose line it is; empty when it is no task's."""
    return f" [{escape(f'{task.type} {task.task_id}')} attempt {task.attempt}]" if task else ""


def sentence(line: Line, actor: str) -> str:
    """The whole line but its traceback: `actor [task] event message key=value`."""
    message = "" if line.message == line.event else f" {escape(line.message)}"
    colon = ":" if line.event == Event.OUTPUT_LINE else ""
    return f"{actor}{tag(line.task)} {escape(line.name)}{colon}{message}{pairs(line.fields)}"


def priority(level: int, event: str | None = None) -> int:
    """The syslog priority: 2 a person is needed, 3 broken, 4 unexpected, 5 the service's own life, 6 routine, 7 debug."""
    if level == logging.INFO and event is not None and event.startswith("service."):
        return 5
    for floor, number in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= floor:
            return number
    return 7
