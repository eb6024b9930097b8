"""`python -m bench.producer URL RATE SECONDS`: enqueue so many no-op tasks a second, evenly, in a process of its own.

Prints one line of JSON: how many were stored, and how late the latest batch was.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.handlers import noop
from bench.service import wait_until
from shiftboss import Client

_EVERY_S: Final = 0.01  # seldom enough for a process to keep up, often enough that nobody waits behind a heap
_ROOT: Final = Path(__file__).resolve().parent.parent


def produce(database_url: str, rate: float, seconds: float) -> tuple[int, float]:
    """How many tasks were stored, and by how many seconds the latest batch was late."""
    began_s = time.monotonic()
    sent, latest_s = 0, 0.0
    with Client(database_url) as client:
        for number in range(1, round(seconds / _EVERY_S) + 1):
            due_s = began_s + number * _EVERY_S
            wait_until(due_s)
            wanted = due_tasks(rate, number * _EVERY_S, sent)
            client.enqueue_many(noop.prepare() for _ in range(wanted))
            sent += wanted
            latest_s = max(latest_s, time.monotonic() - due_s)
    return sent, latest_s


def due_tasks(rate: float, elapsed_s: float, sent: int) -> int:
    """How many must be sent now so that the rate holds over the whole time, fractions of a task included."""
    return max(0, int(rate * elapsed_s) - sent)


@contextlib.contextmanager
def producing(database_url: str, rate: float, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """One at work for the time of the block, which may end before or after it."""
    command = [sys.executable, "-m", "bench.producer", database_url, str(rate), str(seconds)]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def main(arguments: Sequence[str]) -> int:
    url, rate, seconds = arguments
    sent, latest_s = produce(url, float(rate), float(seconds))
    print(json.dumps({"sent": sent, "latest_s": latest_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
