"""Shared memory of one whole service: who this worker is and a few figures, each written by one actor and read by all.

It outlives every actor but not the service, so a restarted heartbeat goes on under the same worker id.
The id has two places; a number says how often it was written, and so which of them holds. A writer fills the other one and
then raises the number, so one that dies half-way has changed nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

from shiftboss import control

_IDENTITY: Final = struct.Struct("=H200s")
_IDENTITIES_AT: Final = (8, 256)
_FIGURES_AT: Final = 512
_FILE_AT: Final = 1024
_FIGURES: Final = {"capacity": 0, "active": 1, "beat_s": 2, "claimer_s": 3, "beat_away_s": 4, "claimer_away_s": 5}


class Board:
    """The board over a shared memory descriptor, which it takes over."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)
        # Items of a view are stored at once; struct writes zeros first and then bytes, and readers do see them.
        self._writes = memoryview(self._memory)[:8].cast("Q")
        self._known = (-1, "")  # after so many writes, this id: asked for at every attempt
        self._figures = memoryview(self._memory)[_FIGURES_AT : _FIGURES_AT + 8 * len(_FIGURES)].cast("d")

        self._file = memoryview(self._memory)[_FILE_AT : _FILE_AT + 24].cast("Q")  # device, inode, 1 when they are there

    def process_groups(self) -> list[int]:
        """Of all actors of this service, as the supervisor has noted them."""
        return control.read_groups(self._memory)

    @property
    def worker_id(self) -> str:
        """The id this worker is registered under; empty before it is. Written by the heartbeat alone."""
        known = self._known
        while True:
            writes = self._writes[0]
            if writes == known[0]:
                return known[1]
            length, text = _IDENTITY.unpack_from(self._memory, _IDENTITIES_AT[writes % 2])
            if self._writes[0] == writes:  # else this place may be just what is being written to
                self._known = known = writes, str(text[:length].decode())
                return known[1]

    @worker_id.setter
    def worker_id(self, value: str) -> None:
        text, writes = value.encode(), self._writes[0] + 1
        _IDENTITY.pack_into(self._memory, _IDENTITIES_AT[writes % 2], len(text), text)
        self._writes[0] = writes

    @property
    def database_file(self) -> tuple[int, int] | None:
        """Which SQLite file this service works on, (device, inode), as its first heartbeat has found it, before anybody else
        starts; `None` before, and on PostgreSQL."""
        return (self._file[0], self._file[1]) if self._file[2] else None

    @database_file.setter
    def database_file(self, value: tuple[int, int] | None) -> None:
        if value is not None:
            self._file[0], self._file[1] = value
        self._file[2] = value is not None

    def set(self, figure: str, value: float) -> None:
        """Write a figure: `capacity` and `active` in slots, `beat_s`, `claimer_s` (monotonic seconds of the last success),
        `beat_away_s`, `claimer_away_s` (since when the database is not reached; 0: it is)."""
        self._figures[_FIGURES[figure]] = value

    def get(self, figure: str) -> float:
        return self._figures[_FIGURES[figure]]
