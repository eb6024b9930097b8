"""The ledger, outside the database under test: who started and ended what, and what producers were told.

Every process appends to a file of its own, one line in one write, so a killed process leaves whole lines. Times are
CLOCK_MONOTONIC seconds of this machine. The lines:

    S id fence t worker     an attempt begins; before anything else of the handler
    E id fence t word       it ends; word: ok, failed, retry, snoozed, cancelled, stopped
    T id                    a producer is about to send this id
    A id                    the database has acknowledged it
    X id                    the database has refused it: its unique key was taken
    R id                    an operator is about to retry it
    M t worker begin|end    a handler of this worker takes all memory of its process; t is wall-clock, as an attempt's start is
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

FOLDER_VARIABLE: Final = "LEDGER"
HOUR_S: Final = 3600  # clocks are moved by whole ones
HOG_DIES_WITHIN_S: Final = 10.0  # one that has not lived to see its end
Key: TypeAlias = tuple[str, int]  # task id, fence


class Book:
    """A file to append to. Opened anew when somebody has closed its descriptor under us, or put another file in its place."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = threading.Lock()
        self._file = -1
        self._identity = (0, 0)

    def write(self, text: str) -> None:
        """Append `text` in one write."""
        data = text.encode()
        with self._lock:
            if os.write(self._opened(), data) != len(data):
                raise OSError(f"{self._path}: the ledger is incomplete; is its disk full?")

    def _opened(self) -> int:
        try:
            if _identity(self._file) == self._identity:
                return self._file
        except OSError:
            pass
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._identity = _identity(self._file)
        return self._file


def _identity(file: int) -> tuple[int, int]:
    found = os.fstat(file)
    return found.st_dev, found.st_ino


_own: Book | None = None
_own_lock = threading.Lock()


def own_book() -> Book:
    """This process's, in the folder that the environment names."""
    global _own
    with _own_lock:
        if _own is None:
            folder = Path(os.environ[FOLDER_VARIABLE])
            folder.mkdir(exist_ok=True)
            _own = Book(folder, "executor")
        return _own


def note_start(task_id: str, fence: int, worker: str) -> None:
    own_book().write(f"S {task_id} {fence} {time.monotonic():.6f} {worker}\n")


def note_end(task_id: str, fence: int, word: str) -> None:
    own_book().write(f"E {task_id} {fence} {time.monotonic():.6f} {word}\n")


@contextlib.contextmanager
def hogging(worker: str) -> Iterator[None]:
    """While its neighbours may find no memory."""
    own_book().write(f"M {time.time():.6f} {worker} begin\n")
    try:
        yield
    finally:
        own_book().write(f"M {time.time():.6f} {worker} end\n")


@dataclass(slots=True)
class Start:
    at_s: float
    worker: str


@dataclass(slots=True)
class Ledger:
    """All that was written, by all."""

    starts: dict[Key, list[Start]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[Key, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))
    tried: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    retried: set[str] = field(default_factory=set)
    hogs: dict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(list))  # worker: [from, to]

    def hogged(self, worker: str | None, from_s: float, to_s: float) -> bool:
        """Whether a neighbour took all memory of some process of this worker meanwhile; wall-clock."""
        for began_s, ended_s in self.hogs.get(worker or "", ()):
            over_s = nearest(ended_s, began_s) if ended_s < math.inf else began_s + HOG_DIES_WITHIN_S
            start_s = nearest(from_s, began_s)
            if began_s <= start_s + (to_s - from_s) and start_s <= over_s:
                return True
        return False

    def _add(self, line: str) -> None:
        words = line.split()
        match words:
            case ["S", task_id, fence, at_s, worker]:
                self.starts[task_id, int(fence)].append(Start(float(at_s), worker))
            case ["E", task_id, fence, at_s, word]:
                self.ends[task_id, int(fence)].append((float(at_s), word))
            case ["M", at_s, worker, "begin"]:
                self.hogs[worker].append([float(at_s), math.inf])
            case ["M", at_s, worker, "end"]:
                next(one for one in reversed(self.hogs[worker]) if one[1] == math.inf)[1] = float(at_s)
            case [("T" | "A" | "X" | "R") as kind, task_id]:
                {"T": self.tried, "A": self.acknowledged, "X": self.refused, "R": self.retried}[kind].add(task_id)
            case _:
                raise ValueError(f"no line of a ledger: {line!r}")

    def add_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._add(line)


def nearest(at_s: float, to_s: float) -> float:
    """A moment by a clock that is wrong by whole hours, as one would have told it that is right, or wrong by as many as the
    one that told `to_s`: less than half an hour lies between the two."""
    return at_s - HOUR_S * round((at_s - to_s) / HOUR_S)


def read(folder: Path) -> Ledger:
    """Everything in this folder."""
    ledger = Ledger()
    for file in sorted(folder.iterdir()):
        with file.open() as lines:
            ledger.add_all(lines)
    return ledger
