"""From the call of `enqueue` to the first line of the handler, on a worker that has nothing else to do."""

from __future__ import annotations

import threading
import time
from typing import Final

import msgspec
import psycopg

from bench.handlers import clock
from bench.service import Service, wait_until
from bench.stats import Latency, latency
from bench.target import POSTGRES, NewTarget, PostgresTarget
from shiftboss import Client

_SETTLE_S: Final = 3.0
_PATIENCE_S: Final = 30.0


class Wakeup(msgspec.Struct, frozen=True, kw_only=True):
    """One pace. `start` is the whole way to the handler, `commit` the part of it that the enqueueing call takes."""

    every_ms: float
    start: Latency
    commit: Latency


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """`bare`: INSERT and NOTIFY, commit, and the SELECT of a session that listens; PostgreSQL only."""

    wakeups: tuple[Wakeup, ...]
    bare: Latency | None


def measure(new_target: NewTarget, paces: dict[float, int]) -> Latencies:
    """`paces`: seconds between two tasks -> how many tasks."""
    target = new_target()
    try:
        with Client(target.url) as client, Service(target.url, target.folder):
            wait_until(time.monotonic() + _SETTLE_S)
            wakeups = tuple(_pace(client, every_s, count) for every_s, count in paces.items())
        bare = latency(_bare_echoes(target, min(paces), paces[min(paces)])) if isinstance(target, PostgresTarget) else None
    finally:
        target.close()
    return Latencies(wakeups=wakeups, bare=bare)


def _pace(client: Client, every_s: float, count: int) -> Wakeup:
    sent = []
    next_s = time.monotonic()
    for _ in range(count):
        wait_until(next_s)
        began_ns = time.time_ns()
        handle = client.enqueue(clock)
        sent.append((began_ns, time.time_ns(), handle))
        next_s = max(next_s + every_s, time.monotonic())
    starts = [(handle.result(timeout=_PATIENCE_S) - began_ns) / 1e9 for began_ns, _, handle in sent]
    commits = [(committed_ns - began_ns) / 1e9 for began_ns, committed_ns, _ in sent]
    return Wakeup(every_ms=every_s * 1e3, start=latency(starts), commit=latency(commits))


def _bare_echoes(target: PostgresTarget, every_s: float, count: int) -> list[float]:
    """The same way with nothing of ours on it: how long until another session has seen what was committed."""
    target.connect().execute(POSTGRES["create_echo"].encode()).connection.close()
    with target.connect() as writer, target.connect() as reader:
        echo = _Echo(reader)
        waits = []
        for number in range(1, count + 1):
            wait_until(time.monotonic() + every_s)
            began_s = time.perf_counter()
            with writer.transaction():
                writer.execute(POSTGRES["write_echo"].encode(), {"n": number})
                writer.execute(POSTGRES["ring_echo"].encode())
            waits.append(echo.seen_at(number) - began_s)
        echo.join()
    return waits


class _Echo:
    """A session that reads the table whenever it is rung."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self._connection = connection
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
            row = self._connection.execute(POSTGRES["read_echo"].encode()).fetchone()
            with self._news:
                self._seen[row and row[0]] = time.perf_counter()
                self._news.notify_all()
