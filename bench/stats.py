"""Few numbers for many. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Several runs of one measurement."""

    median: float
    low: float
    high: float
    runs: tuple[float, ...]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Many waits, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest of at least one value."""
    return Spread(median=percentile(values, 50), low=min(values), high=max(values), runs=tuple(values))


def latency(seconds: Sequence[float]) -> Latency:
    """Of at least one wait, given in seconds."""
    p50, p99 = (percentile(seconds, share) * 1e3 for share in (50, 99))
    return Latency(p50_ms=p50, p99_ms=p99, max_ms=max(seconds) * 1e3, count=len(seconds))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` percent of the values do not exceed (nearest rank): always a measured one."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]
