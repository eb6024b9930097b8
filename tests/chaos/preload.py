"""Programs whose disk is made slow and whose clock is moved while they run: a small library of our own, loaded before all others.

libfaketime would do for the clock, but it leaves shared memory behind whenever its program is killed, and opens a file at every
look at the time, which fails where a fault has left no descriptors.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_suffix(".c")
_NUMBERS: Final = struct.Struct("qq")  # nanoseconds: the disk's delay, the clock's offset; as in the source
_NS: Final = 1_000_000_000


def compiler() -> str | None:
    """What to build the library with; None: it cannot be built on this machine."""
    return shutil.which("gcc")


def build(folder: Path) -> Path:
    """The library, in this folder, for whoever may read there."""
    made, gcc = folder / "preload.so", compiler()
    assert gcc is not None
    subprocess.run([gcc, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", made, _SOURCE], check=True, timeout=60)
    return made


class Dials:
    """How slow the disk and how wrong the clock of some programs is just now: of all that run in `surroundings`.

    It is that clock, too, for whoever shares it and runs here. Several may turn one dial at the same time: what they add is
    summed up, and each takes its own away again.

    Attributes:
        surroundings: of the programs; their children inherit it.
        ahead_s: the farthest that the clock has ever been ahead.
        moved: whether the clock has ever been wrong.
    """

    def __init__(self, library: Path, file: Path) -> None:
        file.write_bytes(bytes(_NUMBERS.size))
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), _NUMBERS.size)
        self._file = file
        self._turning = threading.Lock()
        before = os.environ.get("LD_PRELOAD")
        self.surroundings = {"LD_PRELOAD": f"{before}:{library}" if before else str(library), "CHAOS_DIALS": str(file)}
        self.ahead_s, self.moved = 0, False

    def slow_down(self, delay_s: float) -> None:
        """Each sync takes so much longer than it does now; negative: shorter."""
        self._turn(round(delay_s * _NS), 0)

    def move(self, offset_s: int) -> None:
        """The clock jumps, ahead or back."""
        self._turn(0, offset_s * _NS)

    def _turn(self, disk_ns: int, clock_ns: int) -> None:
        with self._turning:
            disk, clock = _NUMBERS.unpack(self._map)
            _NUMBERS.pack_into(self._map, 0, disk + disk_ns, clock + clock_ns)
            self.moved |= clock_ns != 0
            self.ahead_s = max(self.ahead_s, (clock + clock_ns) // _NS)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=_NUMBERS.unpack(self._map)[1] / _NS)

    def monotonic_s(self) -> float:
        return time.monotonic()

    def is_seen_by(self, pid: int) -> bool:
        """Whether a process that runs goes by these dials."""
        return str(self._file) in Path(f"/proc/{pid}/maps").read_text()
