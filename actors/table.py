"""What an executor is running, in memory that outlives it.

One fixed cell per dispatched task: fence, start and end by the machine's monotonic clock, task id. The executor writes a
cell at every start and end (well under a microsecond, no message); whoever has the descriptor can read it after a SIGKILL.
The start is written last, so a cell with a start has a whole fence and id.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from shiftboss.actors.layout import CELL_BYTES

_HEAD: Final = struct.Struct("=q36s")  # fence, task id
_STARTED_AT: Final = 48
_ITEMS: Final = CELL_BYTES // 8  # of a cell, when the table is seen as numbers of 8 bytes
_STARTED, _ENDED = 6, 7  # among them


class Cell(NamedTuple):
    """One cell as read. Times are nanoseconds of CLOCK_MONOTONIC, 0 for "not yet"."""

    fence: int
    task_id: str
    started_ns: int
    ended_ns: int


class Table:
    """A table of cells over a shared memory descriptor, which it takes over."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        self._memory = mmap.mmap(fd, size)
        os.close(fd)
        self.cells = size // CELL_BYTES
        # Items of a view are stored at once; struct would write zeros first, then byte by byte.
        self._times = memoryview(self._memory)[: self.cells * CELL_BYTES].cast("q")

    def start(self, cell: int, task_id: str, fence: int) -> int:
        """Write that the task in `cell` starts now; returns the time."""
        times, started, now_ns = self._times, cell * _ITEMS + _STARTED, time.monotonic_ns()
        times[started] = 0
        _HEAD.pack_into(self._memory, cell * CELL_BYTES, fence, task_id.encode())
        times[started + _ENDED - _STARTED] = 0
        times[started] = now_ns
        return now_ns

    def end(self, cell: int) -> None:
        """Write that the task in `cell` has ended."""
        self._times[cell * _ITEMS + _ENDED] = time.monotonic_ns()

    def started_ns(self, cell: int, task_id: str, fence: int) -> int:
        """When this task started in `cell` under this fence; 0 when it has not (the cell may still show the one before)."""
        started_ns = self._times[cell * _ITEMS + _STARTED]
        if not started_ns or _HEAD.unpack_from(self._memory, cell * CELL_BYTES) != (fence, task_id.encode()):
            return 0
        # Read again: the time may be that of the task before, replaced between the two looks.
        return self._times[cell * _ITEMS + _STARTED]

    def read(self, cell: int) -> Cell:
        at = cell * CELL_BYTES
        fence, task_id = _HEAD.unpack_from(self._memory, at)
        started_ns, ended_ns = struct.unpack_from("=qq", self._memory, at + _STARTED_AT)
        return Cell(fence, task_id.rstrip(b"\0").decode("ascii", "replace"), started_ns, ended_ns)

    def started(self) -> Iterator[Cell]:
        """Every cell that was ever started and not reused since."""
        return (cell for cell in map(self.read, range(self.cells)) if cell.started_ns)

    def close(self) -> None:
        self._times.release()
        self._memory.close()
