"""Chancy: async jobs on the worker's loop."""

from __future__ import annotations

import asyncio

from chancy import Chancy, Queue, Worker, job

from bench import marks
from bench.peers.adapters import harness

_BATCH = 5_000


@job(queue="bench")
async def mark(*, number: int, sent_ns: int) -> None:
    marks.write(number, sent_ns)


def _job(number: int, sent_ns: int) -> object:
    return mark.job.with_kwargs(number=number, sent_ns=sent_ns)


async def _setup() -> None:
    async with Chancy(harness.URL) as chancy:
        await chancy.migrate()
        concurrency = harness.OPTIONS["concurrency"]
        await chancy.declare(
            Queue("bench", concurrency=concurrency, executor=Chancy.Executor.Async, polling_interval=1, eager_polling=True)
        )


async def _enqueue(jobs: int) -> None:
    async with Chancy(harness.URL) as chancy:
        for first in range(0, jobs, _BATCH):
            async for _ in chancy.push_many([_job(number, 0) for number in range(first, min(jobs, first + _BATCH))]):
                pass


async def _work() -> None:
    async with Chancy(harness.URL) as chancy, Worker(chancy) as worker:
        worker.send_outgoing_interval = harness.OPTIONS["send_outgoing_interval"]
        await worker.wait_for_shutdown()


async def _pace(count: int, every_s: float) -> None:
    async with Chancy(harness.URL) as chancy:
        await harness.apaced(lambda number, now: chancy.push(_job(number, now)), count, every_s)


if __name__ == "__main__":
    harness.run(
        setup=lambda: asyncio.run(_setup()),
        enqueue=lambda jobs: asyncio.run(_enqueue(jobs)),
        work=lambda: asyncio.run(_work()),
        pace=lambda count, every_s: asyncio.run(_pace(count, every_s)),
    )
