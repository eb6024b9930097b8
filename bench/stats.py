"""Few numbers for many. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

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


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours by theirs, run by run: the runs of a pair stood next to each other, so a slow minute of the machine hit both."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` percent of the values do not exceed (nearest rank): always a measured one."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def of_buckets(counts: Mapping[str, int], bounds: Sequence[float], share: float) -> float:
    """As `percentile`, of values that were only counted by upper bound. Within a bucket they are taken to lie evenly; above the
    highest bound that bound is all that is known."""
    wanted, before = sum(counts.values()) * share / 100, 0
    for lower, upper in pairwise((0.0, *bounds)):
        count = counts.get(str(upper), 0)
        if count and before + count >= wanted:
            return lower + (upper - lower) * (wanted - before) / count
        before += count
    return bounds[-1]


def middle(values: Sequence[float]) -> int:
    """Which of the runs is the median one."""
    return sorted(range(len(values)), key=values.__getitem__)[max(0, math.ceil(len(values) / 2) - 1)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How much the second number grows per unit of the first (least squares); 0 for fewer than two different firsts."""
    if not points:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    width = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / width if width else 0.0
