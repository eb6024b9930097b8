"""Which line of a TOML file a key stands on: `tomllib` does not say. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_PATH = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = re.compile(rf"\s*\[\s*({_PATH})\s*\]")
_KEY = re.compile(rf"\s*({_PATH})\s*=")
_SPLIT = re.compile(_PART)
_FENCE = re.compile('"""' + "|'''")


def lines_of_keys(text: str) -> Mapping[tuple[str, ...], int]:
    """Path of a key or table (`("queues", "mail", "weight")`) -> its line, from 1. Text inside long strings is no key."""
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    fence: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if fence is None:
            if header := _TABLE.match(line):
                table = _path(header[1])
                found.setdefault(table, number)
            elif key := _KEY.match(line):
                found.setdefault((*table, *_path(key[1])), number)
        for mark in _FENCE.findall(line):
            fence = None if fence == mark else fence or mark
    return found


def line_of(lines: Mapping[tuple[str, ...], int], path: tuple[str, ...]) -> int | None:
    """The line of the key, or of the nearest table or inline table round it; `None` when nothing of it is in sight."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def _path(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _SPLIT.findall(text))
