"""Durations and sizes: how people write them, and what they come to. Pure."""

from __future__ import annotations

import math
import re
from typing import Final

_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.ASCII)
_PLAIN_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)

# Powers of 1024 only: a "GB" that is either of two numbers is refused.
_UNIT_BYTES: Final = {"GiB": 1024**3, "MiB": 1024**2, "KiB": 1024}
_SIZE = re.compile(r"(\d{1,18})(?:\s*(KiB|MiB|GiB))?", re.ASCII)


def format_duration(seconds: float) -> str:
    """The shortest exact text: 0.5 -> `500ms`, 90.0 -> `90s`, 3600.0 -> `1h`."""
    if seconds == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms"):
        amount = seconds / _UNIT_S[unit]
        if amount >= 1 and math.isclose(amount, round(amount), rel_tol=1e-9):
            return f"{round(amount)}{unit}"
    return f"{seconds:.12g}s"


def parse_duration(text: str) -> float:
    """Seconds in `500ms`, `30s`, `1m`, `1h30m`, `7d` or a plain number of seconds.

    Raises:
        ValueError: it is none of these.
    """
    stripped = text.strip()
    if _PLAIN_NUMBER.fullmatch(stripped):
        return float(stripped)
    parts = _DURATION_PART.findall(stripped)
    if not parts or _DURATION_PART.sub("", stripped).strip():
        raise ValueError(f"{text!r} is not a duration")
    return sum(float(amount) * _UNIT_S[unit] for amount, unit in parts)


def format_size(size_bytes: int) -> str:
    """The shortest exact text: 536870912 -> `512MiB`, 1000 -> `1000`."""
    for unit, factor in _UNIT_BYTES.items():
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def parse_size(text: str) -> int:
    """Bytes in `512MiB`, `64 KiB`, `2GiB` or a plain number of bytes.

    Raises:
        ValueError: it is none of these.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a size")
    return int(found[1]) * _UNIT_BYTES.get(found[2], 1)
