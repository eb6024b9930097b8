"""Handlers of the acceptance tests. Each writes to a ledger outside the database: `S id fence` before, `E id fence` after."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import threading
import time
from typing import Any

from shiftboss import Attempt, Constant, Snooze, task


def note(kind: str, attempt: Attempt) -> None:
    """One line in one write to a file opened for appending: whole even when many processes write."""
    file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{kind} {attempt.task_id} {attempt.fence}\n".encode())
    os.close(file)


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


@task(type="short", max_attempts=5, backoff=Constant(0.05))
def short(attempt: Attempt, ms: float) -> None:
    note("S", attempt)
    pause(ms / 1000)
    note("E", attempt)


@task(type="short_async", max_attempts=5, backoff=Constant(0.05))
async def short_async(attempt: Attempt, ms: float) -> None:
    note("S", attempt)
    await asyncio.sleep(ms / 1000)
    note("E", attempt)


@task(type="flaky", max_attempts=3, backoff=Constant(0.05))
def flaky(attempt: Attempt) -> int:
    note("S", attempt)
    if attempt.number < 3:
        raise ValueError(f"attempt {attempt.number} fails on purpose")
    note("E", attempt)
    return attempt.number


@task(type="broken", max_attempts=2, backoff=Constant(0.05))
def broken() -> None:
    raise ValueError("always")


@task(type="long", max_attempts=3)
def long(attempt: Attempt, seconds: float) -> str:
    """Does not look at `stopping`."""
    note("S", attempt)
    pause(seconds)
    note("E", attempt)
    return attempt.worker


@task(type="long_async", max_attempts=3)
async def long_async(attempt: Attempt, seconds: float) -> None:
    note("S", attempt)
    await asyncio.sleep(seconds)
    note("E", attempt)


@task(type="polite", max_attempts=3)
def polite(attempt: Attempt) -> None:
    note("S", attempt)
    while not attempt.stopping:
        pause(0.01)
    raise Snooze(0)


@task(type="stuck", max_attempts=1, timeout=0.5)
def stuck(attempt: Attempt) -> None:
    """Holds the GIL in C, so nothing in its process can run."""
    note("S", attempt)
    ctypes.PyDLL(None).sleep(60)


@task(type="die", max_attempts=2, backoff=Constant(0.05))
def die(how: str) -> None:
    match how:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), 9)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "sys_exit":
            raise SystemExit(1)


@task(type="grandchild", max_attempts=1)
def grandchild(file: str) -> None:
    """Leaves a process behind."""
    import subprocess

    child = subprocess.Popen(["sleep", "300"])
    with open(file, "w") as out:
        out.write(str(child.pid))


@task(type="clock")
def clock() -> float:
    import time

    return time.time()


@task(type="talks")
def talks(attempt: Attempt) -> None:
    logging.getLogger("some.library").warning("hello from any logger")
    attempt.log.warning("hello from attempt.log")


@task(type="parent")
def parent(children: int) -> list[str]:
    return [short.enqueue(1).id for _ in range(children)]


@task(type="parent_async")
async def parent_async(children: int) -> list[str]:
    return [(await short.aenqueue(1)).id for _ in range(children)]


@task(type="timed", max_attempts=1)
def timed(attempt: Attempt, sent_s: float) -> None:
    """Notes how many seconds after `sent_s` it started; the monotonic clock is the machine's."""
    late_s = time.monotonic() - sent_s
    file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"T {attempt.task_id} {late_s:.6f}\n".encode())
    os.close(file)


@task(type="spin", max_attempts=3)
def spin(attempt: Attempt, seconds: float) -> None:
    """Busy in C with the GIL held, as a bad extension is."""
    note("S", attempt)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    note("E", attempt)


@task(type="surroundings")
def surroundings() -> dict[str, Any]:
    """What a handler's own subprocesses would inherit, and whether one can be ended."""
    import subprocess

    child = subprocess.Popen(["sleep", "300"])
    child.terminate()
    return {
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "ignored_in_child": subprocess.run(
            ["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True
        ).stdout.split()[1],
        "terminated": child.wait(10),
        "for_systemd": sorted(name for name in os.environ if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_"))),
    }


@task(type="daemon", max_attempts=1)
def daemon(file: str) -> None:
    """Leaves a daemon behind: its own session, all descriptors inherited."""
    import subprocess

    child = subprocess.Popen(["sleep", "300"], start_new_session=True, close_fds=False)
    with open(file, "w") as out:
        out.write(str(child.pid))
