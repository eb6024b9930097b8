"""Awa: Python handlers on its Rust runtime."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass

import awa

from bench import marks
from bench.peers.adapters import harness

_URL = harness.URL.replace("@/", "@localhost/")  # its parser wants a host, and then takes the socket's folder all the same


@dataclass
class Mark:
    number: int
    sent_ns: int


async def _setup() -> None:
    await awa.migrate(_URL)
    async with awa.AsyncClient(_URL) as client:
        await client.install_queue_storage()  # a fresh database is on the older, canonical tables until its first worker


async def _enqueue(jobs: int) -> None:
    async with awa.AsyncClient(_URL) as client:
        await client.enqueue_many_copy([Mark(number, 0) for number in range(jobs)], queue="bench")


async def _work() -> None:
    client = awa.AsyncClient(_URL, max_connections=harness.OPTIONS["connections"])

    @client.task(Mark, queue="bench")
    async def mark(job: awa.Job[Mark]) -> None:
        marks.write(job.args.number, job.args.sent_ns)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await client.start([{"name": "bench", **harness.OPTIONS["queue"]}])
    await stop.wait()
    await client.shutdown()


async def _pace(count: int, every_s: float) -> None:
    async with awa.AsyncClient(_URL) as client:
        await harness.apaced(lambda number, now: client.insert(Mark(number, now), queue="bench"), count, every_s)


if __name__ == "__main__":
    harness.run(
        setup=lambda: asyncio.run(_setup()),
        enqueue=lambda jobs: asyncio.run(_enqueue(jobs)),
        work=lambda: asyncio.run(_work()),
        pace=lambda count, every_s: asyncio.run(_pace(count, every_s)),
    )
