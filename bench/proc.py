"""What /proc says about processes: CPU time by role, memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_MODULE: Final = "shiftboss.actors.process"

POSTMASTER: Final = "postmaster"
SERVER: Final = "server"
SERVER_ROLES: Final = (POSTMASTER, SERVER)
SESSION: Final = "session of "
BENCH_SESSION: Final = f"{SESSION}bench"


def cpu_s(pid: int, *, with_reaped: bool = False) -> float:
    """User and system time of a process so far, in seconds; 0 when it is gone.

    `with_reaped` adds that of its children that have ended (to 10 ms): the short-lived ones of a database server.
    """
    fields = _stat(pid)
    ticks = [int(field) for field in fields[11:15]]
    # A process's own ticks are rounded down to 10 ms, which is all that one of many sessions uses in a run. The scheduler
    # counts nanoseconds, but forgets threads that have ended.
    own_s = max(sum(ticks[:2]) / _TICKS_PER_S, _threads_cpu_s(pid))
    return own_s + (sum(ticks[2:]) / _TICKS_PER_S if with_reaped else 0.0)


def _threads_cpu_s(pid: int) -> float:
    """Of the threads that are alive, to the nanosecond; 0 where the kernel does not tell."""
    total_ns = 0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total_ns += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        pass
    return total_ns / 1e9


def pss_kib(pid: int) -> int:
    """Memory of a process, with what it shares divided by those who share it; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


def children(pid: int) -> list[int]:
    """Its direct children, by asking every process for its parent."""
    everyone = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [one for one in everyone if (fields := _stat(one)) and int(fields[1]) == pid]


def tree(pid: int) -> list[int]:
    """A process and all that descend from it, by asking every process for its parent."""
    parents = {int(entry.name): _stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found = [pid]
    for one in found:
        found.extend(child for child, fields in parents.items() if fields and int(fields[1]) == one)
    return found


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open; 0 when it is gone."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0


def roles(supervisor_pid: int) -> dict[int, str]:
    """The processes of a service: pid -> role."""
    return {supervisor_pid: "supervisor", **{pid: role_of(_command(pid)) for pid in children(supervisor_pid)}}


def role_of(command: Iterable[str]) -> str:
    """The role in a child's command line; `other` when it is none of ours."""
    words = list(command)
    at = words.index(_MODULE) + 1 if _MODULE in words else len(words)
    return words[at] if at < len(words) else "other"


def cpu_by_role(processes: Mapping[int, str]) -> dict[str, float]:
    """Role -> CPU seconds so far of all its processes. The role `postmaster` counts for its ended children too."""
    totals: dict[str, float] = {}
    for pid, role in processes.items():
        totals[role] = totals.get(role, 0.0) + cpu_s(pid, with_reaped=role == POSTMASTER)
    return totals


def pss_by_role(processes: Mapping[int, str]) -> dict[str, int]:
    """Role -> KiB of all its processes."""
    totals: dict[str, int] = {}
    for pid, role in processes.items():
        totals[role] = totals.get(role, 0) + pss_kib(pid)
    return totals


def machine_cpu_s() -> float:
    """CPU seconds that all processes of the machine have used so far, time stolen by its host included."""
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _stat(pid: int) -> list[str]:
    """The fields after the name (which may hold spaces): [0] state, [1] parent, [11:15] utime, stime, cutime, cstime."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
