"""Sample tasks, enqueued at start when `enqueue_examples` is on: something to look at on the first day."""

from __future__ import annotations

import asyncio
import threading

from shiftboss.decorator import Attempt, task
from shiftboss.model import NewTask


@task(type="samples:add")
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@task(type="samples:count")
def count(attempt: Attempt, to: int = 20, pause: float = 0.1) -> int:
    """Count with pauses, telling how far it is; ends early when its worker stops."""
    for number in range(1, to + 1):
        threading.Event().wait(pause)
        attempt.progress(100 * number / to, f"{number} of {to}")
        if attempt.stopping:
            return number
    return to


@task(type="samples:greet")
async def greet(name: str = "world") -> str:
    """An async handler."""
    await asyncio.sleep(0.05)
    return f"hello {name}"


@task(type="samples:fail", max_attempts=2)
def fail() -> None:
    """Fails, is tried again, and ends as a dead letter."""
    raise ValueError("this sample always fails, so that there is a dead letter to look at")


def sample_tasks() -> list[NewTask]:
    """One of each, ready to be stored."""
    return [prepared.new for prepared in (add.prepare(1, 2), count.prepare(), greet.prepare(), fail.prepare())]
