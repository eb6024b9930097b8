"""The queries as text: read once, shared fragments put in, parameters written as psycopg wants them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from shiftboss.store.queries import load_queries

_PARAMETER: Final = re.compile(r"(?<![:\w]):([a-z_]+)\b")
_COMMENT: Final = re.compile(r"--[^\n]*")
_FRAGMENTS: Final = (
    "which",
    "some_ended",
    "task_columns",
    "task_bodies",
    "history_columns",
    "history_bodies",
    "no_bodies",
    "asked_lanes",
    "lock_found",
    "in_range",
    "reach_chosen",
    "claim_chosen",
    "move_completed",
    "count_completed",
)


@cache
def psycopg_sql(sql: str) -> str:
    """`:name` -> `%(name)s`, a literal `%` doubled; for text without string constants that contain `:name`."""
    return _PARAMETER.sub(r"%(\1)s", sql.replace("%", "%%"))


def numbered_sql(sql: str) -> tuple[str, tuple[str, ...]]:
    """`:name` -> `$1` and so on, as the protocol has it; and the names in that order."""
    names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    return _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", sql), names


@cache
def named_queries() -> Mapping[str, str]:
    """Query name -> SQL with `:name` parameters, without comments; runs through SQLAlchemy's `text()` as it is."""
    raw = {name: _tidy(sql) for name, sql in load_queries("shiftboss.store.postgres").items()}
    for fragment in _FRAGMENTS:
        placeholder = "{" + fragment + "}"
        raw = {name: sql.replace(placeholder, raw[fragment]) for name, sql in raw.items()}
    return raw


@cache
def queries() -> Mapping[str, str]:
    """Query name -> SQL for psycopg."""
    return {name: psycopg_sql(sql) for name, sql in named_queries().items()}


def _tidy(sql: str) -> str:
    """Without comments (they cost bytes on every unprepared execution) and without the last semicolon."""
    return "\n".join(line for line in _COMMENT.sub("", sql).splitlines() if line.strip()).strip().rstrip(";")
