"""From the call of `enqueue` to the first line of the handler: on a worker that has nothing else to do, and on a busy one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import psycopg

from bench.handlers import clock
from bench.producer import Produced, TooMuch, check_runs, produced, producing
from bench.service import Service, wait_until
from bench.stats import Latency, Spread, latency, ratio, spread
from bench.target import POSTGRES, NewTarget, PostgresTarget, Target
from shiftboss import Client

_SETTLE_S: Final = 3.0
_PATIENCE_S: Final = 30.0
_LOADED_EVERY_S: Final = 0.03
_LESS: Final = 0.8
_LEAD_S: Final = 1.0  # the producer's boot, and a while of load before the first probe


class Wakeup(msgspec.Struct, frozen=True, kw_only=True):
    """One pace, over all runs. `start` is the whole way to the handler, `commit` the part that the enqueueing call takes.
    `load_per_second` is the load that was asked for, `loaded_per_second` the one that there was, `None` where there was none;
    `wanted_per_second` is more than what was asked for where the machine did not manage that.
    `bare_taking`: what the bare way took under the same load; PostgreSQL only."""

    every_ms: float
    load_per_second: float
    wanted_per_second: float = 0.0
    loaded_per_second: Spread | None = None
    start: Latency
    commit: Latency
    bare_taking: Latency | None = None


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """`bare`: INSERT and NOTIFY, commit, and the SELECT of a session that listens; PostgreSQL only. `bare_taking`: the same
    with a DELETE and its commit instead of the SELECT, the least that keeps others from taking the same. The ratios are those
    of the fastest pace to a bare way, run by run."""

    wakeups: tuple[Wakeup, ...]
    bare: Latency | None
    p50_of_bare: Spread | None
    p99_of_bare: Spread | None
    bare_taking: Latency | None = None
    p50_of_bare_taking: Spread | None = None
    p99_of_bare_taking: Spread | None = None


class Sent(msgspec.Struct, frozen=True):
    """Seconds of each task: from the call to the handler, and of the call."""

    start_s: list[float]
    commit_s: list[float]
    load: Produced | None = None
    bare_s: Sequence[float] = ()


def measure(new_target: NewTarget, paces: Mapping[float, int], load_per_second: float, runs: int) -> Latencies:
    """`paces`: seconds between two tasks -> how many tasks in a run. Then the fastest pace again, under that load (0: not).

    Where the machine does not manage that load, since whoever enqueues works on it, too, it is lowered by a fifth until it does.
    """
    done: list[list[Sent]] = [[] for _ in paces]
    loaded = _Loaded(load_per_second, paces[min(paces)])
    bare: list[list[float]] = []
    taking: list[list[float]] = []
    for _ in range(runs):
        target = new_target()
        try:
            with Client(target.url) as client, Service(target.url, target.folder):
                wait_until(time.monotonic() + _SETTLE_S)
                for into, (every_s, count) in zip(done, paces.items(), strict=True):
                    into.append(pace(client, every_s, count))
                if load_per_second:
                    loaded.add(client, target)
            if isinstance(target, PostgresTarget):
                bare.append(_bare_echoes(target, min(paces), paces[min(paces)], "read_echo"))
                taking.append(_bare_echoes(target, min(paces), paces[min(paces)], "take_echo"))
        finally:
            target.close()
    fastest = [latency(run.start_s) for run in done[list(paces).index(min(paces))]]
    return Latencies(
        wakeups=(
            *(_wakeup(every_s, 0.0, runs_of) for every_s, runs_of in zip(paces, done, strict=True)),
            *([_wakeup(_LOADED_EVERY_S, loaded.per_second, loaded.runs, load_per_second)] if load_per_second else ()),
        ),
        bare=_over_all(bare),
        p50_of_bare=_of(bare, fastest, lambda one: one.p50_ms),
        p99_of_bare=_of(bare, fastest, lambda one: one.p99_ms),
        bare_taking=_over_all(taking),
        p50_of_bare_taking=_of(taking, fastest, lambda one: one.p50_ms),
        p99_of_bare_taking=_of(taking, fastest, lambda one: one.p99_ms),
    )


def _over_all(runs: Sequence[Sequence[float]]) -> Latency | None:
    return latency([wait_s for waits_s in runs for wait_s in waits_s]) if runs else None


def _of(bare: Sequence[Sequence[float]], ours: Sequence[Latency], figure: Callable[[Latency], float]) -> Spread | None:
    """Ours by the bare one beside it."""
    return ratio([figure(one) for one in ours], [figure(latency(waits_s)) for waits_s in bare]) if bare else None


def _wakeup(every_s: float, load_per_second: float, runs: Sequence[Sent], wanted_per_second: float = 0.0) -> Wakeup:
    loads = [run.load.per_second for run in runs if run.load]
    return Wakeup(
        every_ms=every_s * 1e3,
        load_per_second=load_per_second,
        wanted_per_second=wanted_per_second,
        loaded_per_second=spread(loads) if loads else None,
        start=latency([one_s for run in runs for one_s in run.start_s]),
        commit=latency([one_s for run in runs for one_s in run.commit_s]),
        bare_taking=latency([one_s for run in runs for one_s in run.bare_s]) if any(run.bare_s for run in runs) else None,
    )


class _Loaded:
    """Runs under one load, the largest that could be had up to the one wanted."""

    def __init__(self, wanted_per_second: float, count: int) -> None:
        self._wanted, self._count = wanted_per_second, count
        self.per_second = wanted_per_second
        self.runs: list[Sent] = []

    def add(self, client: Client, target: Target) -> None:
        """
        Raises:
            TooMuch: not even a quarter of it could be had.
        """
        while True:
            try:
                self.runs.append(_loaded(client, target, _LOADED_EVERY_S, self._count, self.per_second))
            except TooMuch:
                self.runs.clear()  # what was measured under another load does not belong to it
                self.per_second *= _LESS
                if self.per_second < self._wanted / 4:
                    raise
            else:
                return


def _loaded(client: Client, target: Target, every_s: float, count: int, load_per_second: float) -> Sent:
    """A pace while another process enqueues no-op tasks, and then as many the bare way.

    Raises:
        TooMuch: it did not enqueue as many as it should have.
    """
    with producing(target.url, load_per_second, 2 * (_LEAD_S + count * every_s)) as producer:
        wait_until(time.monotonic() + 2 * _LEAD_S)
        sent = pace(client, every_s, count)
        bare_s = _bare_echoes(target, every_s, count, "take_echo") if isinstance(target, PostgresTarget) else ()
        check_runs(producer)
        load = produced(producer, _PATIENCE_S)
    load.check(load_per_second)
    return msgspec.structs.replace(sent, load=load, bare_s=bare_s)


def pace(client: Client, every_s: float, count: int) -> Sent:
    """Enqueue one evenly, and ask each when its handler was reached."""
    sent = []
    next_s = time.monotonic()
    for _ in range(count):
        wait_until(next_s)
        began_ns = time.time_ns()
        handle = client.enqueue(clock)
        sent.append((began_ns, time.time_ns(), handle))
        next_s = max(next_s + every_s, time.monotonic())
    return Sent(
        start_s=[(handle.result(timeout=_PATIENCE_S) - began_ns) / 1e9 for began_ns, _, handle in sent],
        commit_s=[(committed_ns - began_ns) / 1e9 for began_ns, committed_ns, _ in sent],
    )


def _bare_echoes(target: PostgresTarget, every_s: float, count: int, how: str) -> list[float]:
    """The same way with nothing of ours on it: how long until another session has seen, or taken, what was committed."""
    target.connect().execute(POSTGRES["create_echo"].encode()).connection.close()
    with target.connect() as writer, target.connect() as reader:
        echo = _Echo(reader, how)
        waits = []
        for number in range(1, count + 1):
            wait_until(time.monotonic() + every_s)
            began_s = time.perf_counter()
            with writer.transaction():
                writer.execute(POSTGRES["write_echo"].encode(), {"n": number})
                writer.execute(POSTGRES["ring_echo"].encode())
            waits.append(echo.seen_at(number) - began_s)
        echo.join()
        writer.execute(POSTGRES["drop_echo"].encode())
    return waits


class _Echo:
    """A session that looks into the table, with the query of that name, whenever it is rung."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]], how: str) -> None:
        self._connection, self._how = connection, how
        self._seen: dict[object, float] = {}
        self._news = threading.Condition()
        self._done = False
        connection.execute(POSTGRES["listen_echo"].encode())
        self._thread = threading.Thread(target=self._run, name="bench-echo", daemon=True)
        self._thread.start()

    def seen_at(self, number: int) -> float:
        """When this number was read, by `time.perf_counter`."""
        with self._news:
            if not self._news.wait_for(lambda: number in self._seen, _PATIENCE_S):
                raise AssertionError(f"no echo of {number} within {_PATIENCE_S:g} s")
            return self._seen[number]

    def join(self) -> None:
        self._done = True
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        while not self._done:
            # The generator keeps the connection to itself until it ends, so it is read to its end first.
            if not list(self._connection.notifies(timeout=0.5, stop_after=1)):
                continue
            row = self._connection.execute(POSTGRES[self._how].encode()).fetchone()
            with self._news:
                self._seen[row and row[0]] = time.perf_counter()
                self._news.notify_all()
