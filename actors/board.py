"""Shared memory of one whole service: who this worker is and a few figures, each written by one actor and read by all.

It outlives every actor but not the service, so a restarted heartbeat goes on under the same worker id.
A sequence number round each write (odd while it is going on) lets a reader see a whole text or try again.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

_SEQUENCE: Final = struct.Struct("=Q")
_IDENTITY: Final = struct.Struct("=H200s")
_FIGURE: Final = struct.Struct("=d")
_IDENTITY_AT: Final = 8
_FIGURES_AT: Final = {"capacity": 512, "active": 520, "beat_s": 528, "claimer_s": 536, "database_down_s": 544}


class Board:
    """The board over a shared memory descriptor, which it takes over."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)

    @property
    def worker_id(self) -> str:
        """The id this worker is registered under; empty before it is. Written by the heartbeat."""
        while True:
            before = self._sequence()
            length, text = _IDENTITY.unpack_from(self._memory, _IDENTITY_AT)
            if before % 2 == 0 and self._sequence() == before:
                return str(text[:length].decode())

    @worker_id.setter
    def worker_id(self, value: str) -> None:
        # A writer that died half-way left the number odd; rounding up to odd again keeps it right.
        writing = self._sequence() | 1
        _SEQUENCE.pack_into(self._memory, 0, writing)
        _IDENTITY.pack_into(self._memory, _IDENTITY_AT, len(value.encode()), value.encode())
        _SEQUENCE.pack_into(self._memory, 0, writing + 1)

    def _sequence(self) -> int:
        value: int = _SEQUENCE.unpack_from(self._memory, 0)[0]
        return value

    def set(self, figure: str, value: float) -> None:
        """Write a figure: `capacity` and `active` in slots, `beat_s`, `claimer_s` (monotonic seconds of the last success)."""
        _FIGURE.pack_into(self._memory, _FIGURES_AT[figure], value)

    def get(self, figure: str) -> float:
        value: float = _FIGURE.unpack_from(self._memory, _FIGURES_AT[figure])[0]
        return value
