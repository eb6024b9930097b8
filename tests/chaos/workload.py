"""What the services run: handlers that write to the ledger, and a seeded mix of tasks for them.

Each handler returns, or names in its error, the fence that it ran under: so the database itself shows whose outcome it took.
A share lasts about one lease: without them no zombie ever overlaps its successor, and a harness sees nothing.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from shiftboss import Attempt, Cancel, Constant, Retry, Snooze, task
from shiftboss.bound import BoundTask, Prepared
from tests.chaos import ledger

SOON: Final = Constant(0.05)
MANY: Final = 30  # attempts: enough to outlive any bad luck, so that what is lost shows as lost


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def begin(attempt: Attempt) -> None:
    ledger.note_start(attempt.task_id, attempt.fence, attempt.worker)


def end(attempt: Attempt, word: str = "ok") -> int:
    """To be returned by the handler: its fence is the task's result."""
    ledger.note_end(attempt.task_id, attempt.fence, word)
    return attempt.fence


class OnPurpose(Exception):
    """Says which fence failed."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(f"on purpose fence={attempt.fence}")


@task(type="chaos:noop", max_attempts=MANY, backoff=SOON)
def noop(attempt: Attempt) -> int:
    begin(attempt)
    return end(attempt)


@task(type="chaos:noop_async", max_attempts=MANY, backoff=SOON)
async def noop_async(attempt: Attempt) -> int:
    begin(attempt)
    return end(attempt)


@task(type="chaos:short", max_attempts=MANY, backoff=SOON)
def short(attempt: Attempt, ms: float) -> int:
    begin(attempt)
    pause(ms / 1000)
    return end(attempt)


@task(type="chaos:short_async", max_attempts=MANY, backoff=SOON)
async def short_async(attempt: Attempt, ms: float) -> int:
    begin(attempt)
    await asyncio.sleep(ms / 1000)
    return end(attempt)


@task(type="chaos:long", max_attempts=MANY, backoff=SOON)
def long(attempt: Attempt, seconds: float) -> int:
    """About one lease; does not look at `stopping`."""
    begin(attempt)
    pause(seconds)
    return end(attempt)


@task(type="chaos:long_async", max_attempts=MANY, backoff=SOON)
async def long_async(attempt: Attempt, seconds: float) -> int:
    begin(attempt)
    await asyncio.sleep(seconds)
    return end(attempt)


@task(type="chaos:long_fails", max_attempts=MANY, backoff=SOON)
def long_fails(attempt: Attempt, seconds: float, until: int) -> int:
    """A zombie that fails instead of succeeding."""
    begin(attempt)
    pause(seconds)
    if attempt.number < until:
        end(attempt, "failed")
        raise OnPurpose(attempt)
    return end(attempt)


@task(type="chaos:polite", max_attempts=MANY, backoff=SOON)
def polite(attempt: Attempt, seconds: float) -> int:
    """Gives way when asked to."""
    begin(attempt)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        if attempt.stopping:
            end(attempt, "snoozed")
            raise Snooze(0.05)
        pause(0.02)
    return end(attempt)


@task(type="chaos:flaky", max_attempts=MANY, backoff=SOON)
def flaky(attempt: Attempt, until: int) -> int:
    """Fails until its attempt number `until`."""
    begin(attempt)
    if attempt.number < until:
        end(attempt, "failed")
        raise OnPurpose(attempt)
    return end(attempt)


@task(type="chaos:flaky_async", max_attempts=MANY, backoff=SOON)
async def flaky_async(attempt: Attempt, until: int) -> int:
    begin(attempt)
    if attempt.number < until:
        end(attempt, "retry")
        raise Retry(0.05, f"on purpose fence={attempt.fence}")
    return end(attempt)


@task(type="chaos:snoozes", max_attempts=MANY, backoff=SOON)
def snoozes(attempt: Attempt, times: int) -> int:
    """As often as its fence says, which no refund resets."""
    begin(attempt)
    if attempt.fence <= times:
        end(attempt, "snoozed")
        raise Snooze(0.05)
    return end(attempt)


@task(type="chaos:cancels", max_attempts=MANY, backoff=SOON)
def cancels(attempt: Attempt) -> int:
    begin(attempt)
    end(attempt, "cancelled")
    raise Cancel(f"on purpose fence={attempt.fence}")


@task(type="chaos:timeout", max_attempts=2, backoff=SOON, timeout=0.3)
async def times_out(attempt: Attempt) -> int:
    """The timeout ends it, on every attempt."""
    begin(attempt)
    await asyncio.sleep(30.0)
    return end(attempt)


def _with(handler: BoundTask[..., int], arguments: Callable[[random.Random], tuple[Any, ...]]) -> Callable[..., Prepared[int]]:
    def make(rng: random.Random, options: dict[str, Any]) -> Prepared[int]:
        bound = handler.using(**options) if options else handler
        return bound.prepare(*arguments(rng))

    return make


def _ms(rng: random.Random) -> tuple[float]:
    return (rng.uniform(0.5, 8.0),)


def _about_a_lease(rng: random.Random) -> tuple[float]:
    return (rng.uniform(1.2, 2.8),)


# (per mille, what it makes)
MIX: Final[list[tuple[float, Callable[..., Prepared[int]]]]] = [
    (380, _with(noop, lambda rng: ())),
    (300, _with(noop_async, lambda rng: ())),
    (110, _with(short, _ms)),
    (80, _with(short_async, _ms)),
    (5, _with(long, _about_a_lease)),
    (4, _with(long_async, _about_a_lease)),
    (3, _with(long_fails, lambda rng: (rng.uniform(1.2, 2.4), rng.randint(2, 3)))),
    (1, _with(polite, _about_a_lease)),
    (40, _with(flaky, lambda rng: (rng.randint(2, 4),))),
    (40, _with(flaky_async, lambda rng: (rng.randint(2, 4),))),
    (15, _with(snoozes, lambda rng: (rng.randint(1, 3),))),
    (10, _with(cancels, lambda rng: ())),
    (3, _with(times_out, lambda rng: ())),
]
FEW_ATTEMPTS: Final = 0.1  # the share of all tasks that has 1 to 3 attempts, so that dead letters come about
UNIQUE: Final = 0.03  # the share with a unique key out of a few
DELAYED: Final = 0.03


def draw(rng: random.Random, count: int) -> list[Prepared[int]]:
    """So many tasks of the mix, each with an id of its own."""
    makers = rng.choices([make for _weight, make in MIX], weights=[weight for weight, _make in MIX], k=count)
    return [make(rng, _options(rng)) for make in makers]


def _options(rng: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if rng.random() < FEW_ATTEMPTS:
        options["max_attempts"] = rng.randint(1, 3)
    if rng.random() < UNIQUE:
        options["unique"] = f"key-{rng.randrange(50)}"
    if rng.random() < DELAYED:
        options["delay"] = rng.uniform(0.05, 2.0)
    if rng.random() < 0.2:
        options["priority"] = rng.randint(-3, 3)
    if rng.random() < 0.2:
        options["queue"] = rng.choice(("mail", "bulk"))
    return options
