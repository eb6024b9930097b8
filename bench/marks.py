"""A file to which every job appends its number and how long it had waited: the same for every queue that is compared.

Standard library only: the workers of other queues import it in environments of their own. An append of 16 bytes is atomic,
between threads and processes, and costs about a microsecond; whoever watches only asks for the file's size.
"""

from __future__ import annotations

import functools
import os
import struct
import time
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

VARIABLE: Final = "BENCH_MARKS"
_RECORD: Final = struct.Struct("<qq")


class Mark(NamedTuple):
    """One run of one job. `waited_ns`: since it was sent, or 0 when nobody said when that was."""

    number: int
    waited_ns: int


def write(number: int, sent_ns: int = 0) -> None:
    """In a worker: this job has been reached. `sent_ns`: Unix nanoseconds."""
    os.write(_file(), _RECORD.pack(number, time.time_ns() - sent_ns if sent_ns else 0))


def count(path: Path) -> int:
    """How many runs there were so far."""
    try:
        return path.stat().st_size // _RECORD.size
    except FileNotFoundError:
        return 0


def read(path: Path) -> list[Mark]:
    """All runs, in the order in which they began."""
    return [Mark(*fields) for fields in _RECORD.iter_unpack(path.read_bytes())]


def check(marks: list[Mark], jobs: int) -> None:
    """That jobs 0 to `jobs` - 1 ran once each.

    Raises:
        AssertionError: some did not, or ran twice, or nobody had sent them.
    """
    runs = Counter(mark.number for mark in marks)
    missing = [number for number in range(jobs) if not runs[number]]
    twice = [number for number, n in runs.items() if n > 1]
    strangers = [number for number in runs if not 0 <= number < jobs]
    if missing or twice or strangers:
        said = f"{len(missing)} never ran, {len(twice)} ran more than once, {len(strangers)} are unknown"
        raise AssertionError(f"of {jobs} jobs {said}")


@functools.cache
def _file() -> int:
    # Kept open for the life of a worker. Nothing is cached over a fork that happens before the first job.
    return os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
