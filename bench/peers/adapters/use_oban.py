"""Oban for Python: async jobs on the worker's loop, which is uvloop as under its own command."""

from __future__ import annotations

import asyncio
import signal

import uvloop
from oban import Oban, job
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from bench import marks
from bench.peers.adapters import harness

_BATCH = 5_000


@job(queue="bench")
async def mark(number: int, sent_ns: int) -> None:
    marks.write(number, sent_ns)


def _pool() -> AsyncConnectionPool:
    return AsyncConnectionPool(harness.URL, min_size=2, max_size=harness.OPTIONS["connections"], open=False)


async def _setup() -> None:
    async with _pool() as pool:
        await install(pool)


async def _enqueue(jobs: int) -> None:
    async with _pool() as pool:
        oban = Oban(pool=pool)
        for first in range(0, jobs, _BATCH):
            await oban.enqueue_many([mark.new(number, 0) for number in range(first, min(jobs, first + _BATCH))])


async def _work() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with _pool() as pool, Oban(pool=pool, queues={"bench": harness.OPTIONS["limit"]}):
        await stop.wait()


async def _pace(count: int, every_s: float) -> None:
    async with _pool() as pool:
        oban = Oban(pool=pool)
        await harness.apaced(lambda number, now: oban.enqueue(mark.new(number, now)), count, every_s)


if __name__ == "__main__":
    harness.run(
        setup=lambda: uvloop.run(_setup()),
        enqueue=lambda jobs: uvloop.run(_enqueue(jobs)),
        work=lambda: uvloop.run(_work()),
        pace=lambda count, every_s: uvloop.run(_pace(count, every_s)),
    )
