"""The tasks that are measured. Most do nothing, so that what is left is the price of the queue."""

from __future__ import annotations

import time

from bench import marks
from shiftboss import task


@task(type="bench:noop")
def noop() -> None:
    """Nothing, in a thread."""


@task(type="bench:noop_async")
async def noop_async() -> None:
    """Nothing, on the event loop."""


@task(type="bench:answer")
def answer() -> dict[str, int]:
    """A small result, which is stored."""
    return {"rows": 42, "seconds": 7}


@task(type="bench:wait")
def wait(seconds: float) -> None:
    """A thread that waits, as for a web service."""
    time.sleep(seconds)


@task(type="bench:wait_async")
async def wait_async(seconds: float) -> None:
    """The same on the event loop."""
    import asyncio  # here, or an idle worker would be measured with it, which an executor loads for its first async attempt

    await asyncio.sleep(seconds)


@task(type="bench:clock")
def clock() -> int:
    """When the handler was reached: Unix nanoseconds, to be compared on the same machine."""
    return time.time_ns()


@task(type="bench:mark")
def mark(number: int, sent_ns: int) -> None:
    """What the handlers of other queues do, too, where they are compared."""
    marks.write(number, sent_ns)
