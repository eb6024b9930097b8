"""The service's processes as the kernel shows them in /proc; nothing is asked of the service itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The demo gives it to the service's environment, and every process that descends from the service inherits it.
MARKER_VARIABLE: Final = "PYSURVEY_DEMO"
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Attributes:
        name: `supervisor`, or the name of the child as its supervisor gave it.
        memory_kib: its proportional share (PSS) where the kernel tells it, else its resident memory.
    """

    pid: int
    parent: int
    name: str
    memory_kib: int


def marked_processes(marker: str) -> list[Process]:
    """Every living process that carries the marker in its environment, by pid."""
    wanted = f"{MARKER_VARIABLE}={marker}".encode()
    found = (_process(int(entry.name), wanted) for entry in _PROC.iterdir() if entry.name.isdigit())
    return sorted((process for process in found if process is not None), key=lambda process: process.pid)


def _process(pid: int, wanted: bytes) -> Process | None:
    folder = _PROC / str(pid)
    try:
        environment = (folder / "environ").read_bytes().split(b"\0")
        if wanted not in environment or pid == os.getpid():
            return None
        state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        memory_kib = _memory_kib(folder)
    except (OSError, ValueError):
        return None  # somebody else's, or it has just ended
    return None if state == "Z" else Process(pid, int(parent), _name(words, environment), memory_kib)


def _name(words: list[str], environment: list[bytes]) -> str:
    if "shiftboss.actors.process" not in words:
        return "supervisor" if "shiftboss.service" in words else words[0]
    given = [entry for entry in environment if entry.startswith(b"SHIFTBOSS_CHILD_NAME=")]
    return given[0].partition(b"=")[2].decode() if given else words[words.index("shiftboss.actors.process") + 1]


def _memory_kib(folder: Path) -> int:
    for file, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            lines = (folder / file).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(field):
                return int(line.split()[1])
    return 0
