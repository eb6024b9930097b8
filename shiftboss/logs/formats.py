"""How a record looks as text: for people, as JSON for machines, as a line with a priority for the journal's standard error."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Final

from shiftboss.logs.identity import worker_id
from shiftboss.logs.line import escape, escape_but_newlines, line_of, pairs, plain, priority, sentence, tag

FORMATS: Final = ("text", "json", "journal")


def timestamp(created: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One object a line: ts, level, actor, worker_id, logger, event, message, fields, and the task when there is one."""

    def __init__(self, actor: str) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        line = line_of(record)
        entry: dict[str, object] = {
            "ts": timestamp(record.created),
            "level": record.levelname.lower(),
            "actor": self._actor,
            "worker_id": worker_id() or None,
            "logger": record.name,
            "event": line.event,
            "message": line.message,
            "fields": {str(key): plain(value) for key, value in line.fields.items()},
        }
        if line.task:
            entry |= line.task._asdict()
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
        line = line_of(record)
        trace = f" traceback={escape(line.traceback)}" if line.traceback else ""
        return f"<{priority(record.levelno, line.event)}>{sentence(line, self._actor)}{trace}"


_COLOURS: Final = {logging.DEBUG: "2", logging.INFO: "32", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}


class TextFormatter(logging.Formatter):
    """For a person at a terminal: local time, level, actor, event, message, fields; tracebacks on lines of their own."""

    def __init__(self, actor: str, *, colours: bool) -> None:
        super().__init__()
        self._actor, self._colours = actor, colours

    def format(self, record: logging.LogRecord) -> str:
        line = line_of(record)
        clock = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}.{int(record.msecs):03d}"
        level = self._paint(f"{record.levelname:<8}", _COLOURS.get(record.levelno, "0"))
        name = self._paint(escape(line.name), "1")
        message = "" if line.message == line.event else f" {escape(line.message)}"
        fields = self._paint(pairs(line.fields), "2")
        trace = f"\n{escape_but_newlines(line.traceback)}".replace("\n", "\n    ") if line.traceback else ""
        return (
            f"{self._paint(clock, '2')} {level} {self._actor:<10} {name}{message}{fields}{self._paint(tag(line.task), '36')}"
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
            raise ValueError(f"log format {format!r}: must be one of auto, {', '.join(FORMATS)}")
