"""What storing tasks costs, beside the barest statement that the same database could run instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from bench.handlers import noop
from bench.stats import Latency, Spread, latency, ratio, spread
from bench.target import NewTarget, Target
from shiftboss import Client
from shiftboss.model import new_task_id

_Pair = tuple[list[float], list[float]]
"""Seconds of each call, ours and the bare one's."""


class Single(msgspec.Struct, frozen=True, kw_only=True):
    """One way of storing one task. `rate`: tasks a second by those of the bare statement beside it, run by run."""

    ours: Latency
    bare: Latency
    rate: Spread


class Enqueue(msgspec.Struct, frozen=True, kw_only=True):
    """Bulk: tasks a second; bare is COPY (PostgreSQL) or executemany (SQLite)."""

    single: Single
    in_transaction: Single
    bulk_tasks: int
    bulk: Spread
    bare_bulk: Spread
    bulk_rate: Spread


def measure(new_target: NewTarget, singles: int, bulk: int, runs: int) -> Enqueue:
    """Against databases that no service works on. Ours and the bare statement take turns, on one table."""
    done = [_run_fresh(new_target, singles, bulk) for _ in range(runs)]
    ours, bare = [run.bulk for run in done], [run.bare_bulk for run in done]
    return Enqueue(
        single=_single([run.single for run in done]),
        in_transaction=_single([run.joined for run in done]),
        bulk_tasks=bulk,
        bulk=spread(ours),
        bare_bulk=spread(bare),
        bulk_rate=ratio(ours, bare),
    )


class _Run(NamedTuple):
    single: _Pair
    joined: _Pair
    bulk: float
    bare_bulk: float


def _run_fresh(new_target: NewTarget, singles: int, bulk: int) -> _Run:
    target = new_target()
    try:
        with Client(target.url) as client:
            client.enqueue(noop)  # connections and plans are made here
            single = _in_turns(lambda: client.enqueue(noop), lambda: target.insert_bare(new_task_id()), singles)
            joined = _joined(client, target, singles)
            return _Run(single, joined, *_bulks(client, target, bulk))
    finally:
        target.close()


def _joined(client: Client, target: Target, count: int) -> _Pair:
    """A transaction of the caller each, with his commit: `using(tx=…)`, and a bare INSERT."""

    def ours() -> None:
        target.transact(lambda connection: client.enqueue(noop.using(tx=connection)))

    def bare() -> None:
        target.transact(lambda _connection: target.insert_bare(new_task_id()))

    ours()
    return _in_turns(ours, bare, count)


def _in_turns(ours: Callable[[], object], bare: Callable[[], object], count: int) -> _Pair:
    """Seconds of each call, one by one in turns, so that a slow second of the disk hits both."""
    bare()
    ours_s, bare_s = [], []
    for _ in range(count):
        ours_s.append(_timed(ours))
        bare_s.append(_timed(bare))
    return ours_s, bare_s


def _bulks(client: Client, target: Target, count: int) -> tuple[float, float]:
    ours_s = _timed(lambda: client.enqueue_many(noop.prepare() for _ in range(count)))
    bare_s = _timed(lambda: target.insert_bare_many(new_task_id() for _ in range(count)))
    return count / ours_s, count / bare_s


def _single(runs: Iterable[_Pair]) -> Single:
    """The rate compares sums of times, so a rare slow call counts as much as it lasted."""
    ours, bare = zip(*runs, strict=True)
    return Single(
        ours=latency([one_s for run_s in ours for one_s in run_s]),
        bare=latency([one_s for run_s in bare for one_s in run_s]),
        rate=ratio([sum(run_s) for run_s in bare], [sum(run_s) for run_s in ours]),
    )


def _timed(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return time.perf_counter() - began_s
