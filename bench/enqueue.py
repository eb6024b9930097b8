"""What storing tasks costs, beside the barest statement that the same database could run instead."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from bench.handlers import noop
from bench.stats import Latency, latency
from bench.target import NewTarget, Target
from shiftboss import Client
from shiftboss.model import new_task_id


class Enqueue(msgspec.Struct, frozen=True, kw_only=True):
    """Single: one connection, a commit each. Bulk: tasks a second; bare is COPY (PostgreSQL) or executemany (SQLite)."""

    single: Latency
    bare_single: Latency
    bulk_tasks: int
    bulk_per_second: float
    bare_bulk_per_second: float


def measure(new_target: NewTarget, singles: int, bulk: int) -> Enqueue:
    """Against a database that no service works on. Ours and the bare statement take turns, on one table."""
    target = new_target()
    try:
        with Client(target.url) as client:
            client.enqueue(noop)  # connections and plans are made here
            single, bare_single = _singles(lambda: client.enqueue(noop), _bare_single(target), singles)
            began_s = time.perf_counter()
            client.enqueue_many(noop.prepare() for _ in range(bulk))
            ours_s = time.perf_counter() - began_s
        bare_s = _bare_bulk(target, bulk)
    finally:
        target.close()
    return Enqueue(
        single=single,
        bare_single=bare_single,
        bulk_tasks=bulk,
        bulk_per_second=bulk / ours_s,
        bare_bulk_per_second=bulk / bare_s,
    )


def _singles(ours: Callable[[], object], bare: Callable[[], object], count: int) -> tuple[Latency, Latency]:
    """By turns, so that a slow second of the disk hits both."""
    bare()
    ours_s, bare_s = [], []
    for _ in range(count):
        ours_s.append(_timed(ours))
        bare_s.append(_timed(bare))
    return latency(ours_s), latency(bare_s)


def _timed(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s


def _bare_single(target: Target) -> Callable[[], object]:
    return lambda: target.insert_bare(new_task_id())


def _bare_bulk(target: Target, count: int) -> float:
    began_s = time.perf_counter()
    target.insert_bare_many(new_task_id() for _ in range(count))
    return time.perf_counter() - began_s
