"""User code of the executor processes in these tests."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

from shiftboss import Attempt, task


@task(type="test:add")
def add(a: int, b: int) -> int:
    return a + b


@task(type="test:environment")
def environment() -> list[str]:
    """Names of what user code finds of ours."""
    return sorted(name for name in os.environ if name.startswith("SHIFTBOSS_"))


@task(type="test:terminate")
def terminate() -> int:
    """Start a program, end it as a careful author would, and tell how that went."""
    with subprocess.Popen(["sleep", "60"]) as program:
        program.terminate()
        return program.wait(10)


@task(type="test:interrupt")
def interrupt() -> int:
    with subprocess.Popen(["sleep", "60"]) as program:
        program.send_signal(signal.SIGINT)
        return program.wait(10)


@task(type="test:grandchild_fds")
def grandchild_fds() -> list[str]:
    """What a program started by a handler has open beyond 0, 1 and 2."""
    done = subprocess.run(["sh", "-c", "ls -l /proc/self/fd"], capture_output=True, text=True, close_fds=False, check=True)
    return [line for line in done.stdout.splitlines() if "socket" in line or "memfd" in line]


@task(type="test:wait", max_attempts=3)
def wait(attempt: Attempt) -> None:
    while not attempt.stopping:
        threading.Event().wait(0.005)
    raise RuntimeError("asked to stop")


@task(type="test:count", timeout=60)
async def count(attempt: Attempt, to: int) -> int:
    for number in range(to):
        attempt.progress(100 * number / to, f"{number}")
    return to


_HOGGED: list[bytes] = []


@task(type="test:hog")
def hog(mib: int) -> None:
    """Keep so much memory for good."""
    _HOGGED.append(os.urandom(mib * 1024 * 1024))


@task(type="test:refuse_threads")
def refuse_threads(name: str, until: str) -> None:
    """From now on no thread of this name can be started here, until there is such a file."""
    start = threading.Thread.start

    def start_some(thread: threading.Thread) -> None:
        if thread.name == name and not os.path.exists(until):
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = start_some  # type: ignore[method-assign]
