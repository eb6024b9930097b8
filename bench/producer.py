"""`python -m bench.producer URL RATE SECONDS`: enqueue so many no-op tasks a second, evenly, in a process of its own.

Prints one line of JSON at its end, a `Produced`. One that cannot keep up ends in time all the same, with less.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.handlers import noop
from bench.service import wait_until
from shiftboss import Client

_EVERY_S: Final = 0.01  # seldom enough for a process to keep up, often enough that nobody waits behind a heap
_ENOUGH: Final = 0.9
_ROOT: Final = Path(__file__).resolve().parent.parent


class TooMuch(AssertionError):
    """The load that was wanted was not there; what was measured under it would look better than it is."""


class Produced(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks were stored in which time, and by how many seconds the latest batch was late."""

    sent: int
    seconds: float
    latest_s: float

    @property
    def per_second(self) -> float:
        return self.sent / self.seconds

    def check(self, rate: float) -> None:
        """
        Raises:
            TooMuch: this was not the load that was wanted.
        """
        if self.per_second < _ENOUGH * rate:
            raise TooMuch(
                f"the producer of the load stored {self.per_second:,.0f} tasks a second of the {rate:,.0f} that were wanted: "
                "what was measured beside it was not measured under that load"
            )


def produce(database_url: str, rate: float, seconds: float) -> Produced:
    """As many as it manages in that time, no more than wanted."""
    began_s = time.monotonic()
    sent, latest_s, now_s = 0, 0.0, began_s
    with Client(database_url) as client:
        for number in range(1, round(seconds / _EVERY_S) + 1):
            due_s = began_s + number * _EVERY_S
            wait_until(due_s)
            wanted = due_tasks(rate, number * _EVERY_S, sent)
            client.enqueue_many(noop.prepare() for _ in range(wanted))
            sent += wanted
            now_s = time.monotonic()
            latest_s = max(latest_s, now_s - due_s)
            if now_s - began_s >= seconds:
                break
    return Produced(sent=sent, seconds=now_s - began_s, latest_s=latest_s)


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


def check_runs(process: subprocess.Popen[str]) -> None:
    """
    Raises:
        AssertionError: it has failed.
    """
    if process.poll():
        raise AssertionError(f"the producer of the load ended with {process.returncode}")


def produced(process: subprocess.Popen[str], timeout_s: float) -> Produced:
    """What it says at its end, which is waited for.

    Raises:
        AssertionError: it has failed.
    """
    said, _ = process.communicate(timeout=timeout_s)
    check_runs(process)
    return msgspec.json.decode(said, type=Produced)


def main(arguments: Sequence[str]) -> int:
    url, rate, seconds = arguments
    print(msgspec.json.encode(produce(url, float(rate), float(seconds))).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
