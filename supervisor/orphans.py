"""Processes that we did not start and that became ours: descendants of children, whose own parents have ended."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
from pathlib import Path
from typing import Final

from shiftboss.clock import Clock
from shiftboss.events import Event, emit

_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NAME: Final = 15
_RECHECK_S: Final = 0.1


def adopt_orphans() -> bool:
    """Become the parent of every descendant that loses its own; False where the kernel refuses."""
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def name_process(name: str) -> None:
    """For `top` and `systemctl status`, which know 15 bytes of it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def next_ended() -> int | None:
    """The number of a child process that has ended and is not reaped; its number stays taken."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def reap(pid: int, log: logging.Logger) -> None:
    """Collect an adopted orphan that has ended. It is nobody's child spec, so nothing else follows."""
    command = _command(pid)
    _pid, status, _usage = os.wait4(pid, 0)
    fields = {"orphan_pid": pid, "command": command, "wait_status": status}
    emit(log, logging.DEBUG, Event.ORPHAN_REAPED, f"reaped orphan {pid} ({command})", **fields)


def kill_remaining(within_s: float, clock: Clock, log: logging.Logger) -> int:
    """SIGKILL every process whose parent we are, and those that become ours by that, until none is left.

    Returns:
        How many were killed.
    """
    deadline_s, killed = clock.monotonic_s() + within_s, set[int]()
    while (left := _child_pids()) and clock.monotonic_s() < deadline_s:
        for pid in left - killed:
            emit(log, logging.WARNING, Event.ORPHAN_REAPED, f"killing orphan {pid} ({_command(pid)})", orphan_pid=pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= left
        _wait_for_any(left)
        while (pid_ended := next_ended()) is not None:
            os.wait4(pid_ended, 0)
    return len(killed)


def _wait_for_any(pids: set[int]) -> None:
    with contextlib.ExitStack() as stack:
        pidfds = []
        for pid in pids:
            pidfds.append(os.pidfd_open(pid))  # a child of ours that is not reaped: the number cannot be another's
            stack.callback(os.close, pidfds[-1])
        select.select(pidfds, [], [], _RECHECK_S)


def _child_pids() -> set[int]:
    own = str(os.getpid())
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == own}


def _parent(process: Path) -> str | None:
    try:
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
    except (OSError, IndexError):
        return None  # it has ended meanwhile


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
