"""What every adapter is asked: `setup`, `enqueue JOBS`, `work`, `pace COUNT SECONDS`. Standard library only.

The store is in `BENCH_URL`, the options of the queue as JSON in `BENCH_OPTIONS`. A job has two whole numbers: which it is, and
when it was sent (Unix nanoseconds; 0 in bulk). All that its handler does is `marks.write` with both.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

URL: Final = os.environ.get("BENCH_URL", "")
OPTIONS: Final[dict[str, Any]] = json.loads(os.environ.get("BENCH_OPTIONS", "{}"))


def run(
    *,
    setup: Callable[[], object],
    enqueue: Callable[[int], object],
    work: Callable[[], object],
    pace: Callable[[int, float], object],
) -> None:
    """Do what the command line asks. `enqueue` prints how many seconds it took, boot of the interpreter not included."""
    match sys.argv[1:]:
        case ["setup"]:
            setup()
        case ["enqueue", jobs]:
            began_s = time.perf_counter()
            enqueue(int(jobs))
            print(json.dumps({"seconds": time.perf_counter() - began_s}))
        case ["work"]:
            work()
        case ["pace", count, every_s]:
            pace(int(count), float(every_s))
        case other:
            sys.exit(f"unknown: {other}")


def paced(send: Callable[[int, int], object], count: int, every_s: float) -> None:
    """Call `send(number, now)` evenly."""
    for number in range(count):
        send(number, time.time_ns())
        time.sleep(every_s)


async def apaced(send: Callable[[int, int], Awaitable[object]], count: int, every_s: float) -> None:
    """The same with an async `send`."""
    for number in range(count):
        await send(number, time.time_ns())
        await asyncio.sleep(every_s)
