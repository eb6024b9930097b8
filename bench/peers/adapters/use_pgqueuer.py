"""PgQueuer: asyncpg under uvloop."""

from __future__ import annotations

import asyncio
import signal
import struct

import asyncpg
import uvloop
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver

from bench import marks
from bench.peers.adapters import harness

_BATCH = 5_000
_PAYLOAD = struct.Struct("<qq")


async def _setup() -> None:
    connection = await asyncpg.connect(harness.URL)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def _enqueue(jobs: int) -> None:
    connection = await asyncpg.connect(harness.URL)
    queries = Queries(AsyncpgDriver(connection))
    for first in range(0, jobs, _BATCH):
        payloads: list[bytes | None] = [_PAYLOAD.pack(number, 0) for number in range(first, min(jobs, first + _BATCH))]
        await queries.enqueue(["mark"] * len(payloads), payloads, [0] * len(payloads))
    await connection.close()


async def _work() -> None:
    async with asyncpg.create_pool(harness.URL, min_size=2, max_size=harness.OPTIONS["connections"]) as pool:
        queue = PgQueuer(AsyncpgPoolDriver(pool))

        @queue.entrypoint("mark")
        async def mark(job: object) -> None:
            marks.write(*_PAYLOAD.unpack(job.payload))  # type: ignore[attr-defined]

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
        await queue.run(batch_size=harness.OPTIONS["batch_size"])


async def _pace(count: int, every_s: float) -> None:
    connection = await asyncpg.connect(harness.URL)
    queries = Queries(AsyncpgDriver(connection))
    await harness.apaced(lambda number, now: queries.enqueue("mark", _PAYLOAD.pack(number, now)), count, every_s)
    await connection.close()


if __name__ == "__main__":
    harness.run(
        setup=lambda: uvloop.run(_setup()),
        enqueue=lambda jobs: uvloop.run(_enqueue(jobs)),
        work=lambda: uvloop.run(_work()),
        pace=lambda count, every_s: uvloop.run(_pace(count, every_s)),
    )
