"""Procrastinate: async tasks on the worker's loop."""

from __future__ import annotations

import asyncio

import procrastinate

from bench import marks
from bench.peers.adapters import harness

_BATCH = 5_000

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=harness.URL, min_size=4, max_size=20))


@app.task(name="mark")
async def mark(number: int, sent_ns: int) -> None:
    marks.write(number, sent_ns)


async def _setup() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def _enqueue(jobs: int) -> None:
    async with app.open_async():
        for first in range(0, jobs, _BATCH):
            batch = [{"number": number, "sent_ns": 0} for number in range(first, min(jobs, first + _BATCH))]
            await mark.batch_defer_async(*batch)


async def _work() -> None:
    async with app.open_async():
        await app.run_worker_async(**harness.OPTIONS)


async def _pace(count: int, every_s: float) -> None:
    async with app.open_async():
        await harness.apaced(lambda number, now: mark.defer_async(number=number, sent_ns=now), count, every_s)


if __name__ == "__main__":
    harness.run(
        setup=lambda: asyncio.run(_setup()),
        enqueue=lambda jobs: asyncio.run(_enqueue(jobs)),
        work=lambda: asyncio.run(_work()),
        pace=lambda count, every_s: asyncio.run(_pace(count, every_s)),
    )
