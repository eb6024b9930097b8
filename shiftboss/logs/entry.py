"""A record as an entry of the journal: systemd's native protocol (JOURNAL_NATIVE_PROTOCOL at systemd.io).

An entry is a list of fields. Those that people search by have plain names; all others begin with `SHIFTBOSS_`, so that nothing
that user code logs along can pass for something else.
"""

from __future__ import annotations

import json
import logging
import re
import struct
from collections.abc import Mapping
from typing import Final

from shiftboss.events import MESSAGE_IDS
from shiftboss.logs.identity import worker_id
from shiftboss.logs.line import Line, escape_but_newlines, line_of, plain, priority, sentence

IDENTIFIER: Final = "shiftboss"
# Fields of our own events that stand under a plain name; `actor` and `peer` are whom the event is about.
_PLAIN: Final = {
    "task_id": "TASK_ID",
    "type": "TASK_TYPE",
    "queue": "QUEUE",
    "attempt": "ATTEMPT",
    "worker_id": "WORKER_ID",
    "actor": "ACTOR",
    "peer": "ACTOR",
}
_MAX_TASKS: Final = 200  # of one line that is about several
_NAME: Final = re.compile(r"[A-Z0-9_]{1,64}")  # journald drops a field of any other name


def encode_entry(record: logging.LogRecord, actor: str) -> bytes:
    """The record as one entry; raises whatever the `__str__` of a logged object raises."""
    line = line_of(record)
    message = sentence(line, actor)
    if line.traceback:
        message = f"{message}\n{escape_but_newlines(line.traceback)}"
    fields = [
        ("PRIORITY", str(priority(record.levelno, line.event))),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        ("SHIFTBOSS_PROCESS", actor),
        ("MESSAGE", message),
        ("LOGGER", record.name),
        *_known(line, actor),
        *_prefixed(line.extra),
    ]
    if line.traceback:
        fields.append(("SHIFTBOSS_TRACEBACK", line.traceback))
    if record.levelno >= logging.WARNING:
        fields += ("CODE_FILE", record.pathname), ("CODE_LINE", str(record.lineno)), ("CODE_FUNC", record.funcName or "")
    return b"".join([field(name, value) for name, value in fields])


def field(name: str, value: str) -> bytes:
    """One field on the wire; a value of several lines is preceded by its length."""
    if value.isprintable():
        return f"{name}={value}\n".encode()
    data = escape_but_newlines(value).encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%b=%b\n" % (name.encode(), data)
    return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data)


def _known(line: Line, actor: str) -> list[tuple[str, str]]:
    """Whose line it is, and its event with its fields, but for those that stand under a plain name."""
    identity = _identity(line, actor)
    known = [(name, value) for name, value in identity.items() if value]
    if line.event is None:
        return known
    known.append(("SHIFTBOSS_EVENT", line.event))
    if line.event in MESSAGE_IDS:
        known.append(("MESSAGE_ID", MESSAGE_IDS[line.event]))
    if line.own:
        rest = {key: value for key, value in line.own.items() if identity.get(_PLAIN.get(key, "")) != str(value)}
        known += _tasks(rest.get("task_ids")) + _prefixed(rest)
    return known


def _identity(line: Line, actor: str) -> dict[str, str]:
    """What people search by, under plain names: the event's own word on it, else what is known of this process.

    A task that is bound wins over an event's fields.
    """
    known = {"ACTOR": actor, "WORKER_ID": worker_id()}
    if line.event is not None and line.own:
        known |= {_PLAIN[key]: str(value) for key, value in line.own.items() if key in _PLAIN and value is not None}
    if line.task is not None:
        known["TASK_ID"], known["TASK_TYPE"], attempt, known["QUEUE"] = line.task
        known["ATTEMPT"] = str(attempt)
    return known


def _tasks(ids: object) -> list[tuple[str, str]]:
    """A line about several tasks is found by each of their ids."""
    return [("TASK_ID", str(one)) for one in ids[:_MAX_TASKS]] if isinstance(ids, list | tuple) else []


def _prefixed(fields: Mapping[str, object]) -> list[tuple[str, str]]:
    named = ((f"SHIFTBOSS_{str(key).upper()}", plain(value)) for key, value in fields.items() if value is not None)
    return (
        [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in named if _NAME.fullmatch(name)]
        if fields
        else []
    )
