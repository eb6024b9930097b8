"""asyncio for those who use it: loading it costs every process 3 MiB and 40 ms, and most of ours never run an event loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def to_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What blocks, without blocking the loop."""
    import asyncio

    return await asyncio.to_thread(function, *args, **kwargs)


async def sleep(delay_s: float) -> None:
    import asyncio

    await asyncio.sleep(delay_s)


def runs_here() -> bool:
    """Whether this thread is inside an event loop."""
    # Not get_running_loop(), which says no by an exception, and without an import: this is asked before every enqueue.
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


def is_cancelled(error: BaseException) -> bool:
    """Whether this is asyncio's `CancelledError`."""
    if "asyncio" not in sys.modules:  # nor has anybody raised it
        return False
    from asyncio import CancelledError

    return isinstance(error, CancelledError)


def task_is_cancelled() -> bool:
    """Whether somebody has cancelled the asyncio task that runs now."""
    import asyncio

    running = asyncio.current_task()
    return running is not None and running.cancelling() > 0
