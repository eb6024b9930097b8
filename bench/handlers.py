"""The tasks that are measured. They do nothing, so that what is left is the price of the queue."""

from __future__ import annotations

import time

from shiftboss import task


@task(type="bench:noop")
def noop() -> None:
    """Nothing, in a thread."""


@task(type="bench:noop_async")
async def noop_async() -> None:
    """Nothing, on the event loop."""


@task(type="bench:clock")
def clock() -> int:
    """When the handler was reached: Unix nanoseconds, to be compared on the same machine."""
    return time.time_ns()
