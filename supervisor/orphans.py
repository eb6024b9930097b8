"""Processes that we did not start and that became ours: descendants of children, whose own parents have ended."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
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

    Raises nothing for want of descriptors: then it looks again until `within_s` is over.

    Returns:
        How many were killed.
    """
    deadline_s, killed = clock.monotonic_s() + within_s, set[int]()
    while _has_children() and clock.monotonic_s() < deadline_s:
        left = _child_pids()
        for pid in left - killed:
            emit(log, logging.WARNING, Event.ORPHAN_REAPED, f"killing orphan {pid} ({_command(pid)})", orphan_pid=pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # one with another user's rights is left to systemd
                os.kill(pid, signal.SIGKILL)
        killed |= left
        _wait_for_any()
        while (pid_ended := next_ended()) is not None:
            os.wait4(pid_ended, 0)
    return len(killed)


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _wait_for_any() -> None:
    """By the signal, not by descriptors: orphans can be more than we may open, and more than `select` takes."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # what ends from here on stays pending
    try:
        if next_ended() is None:
            signal.sigtimedwait({signal.SIGCHLD}, _RECHECK_S)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child_pids() -> set[int]:
    """Those that could be found; fewer while there is no descriptor to look with."""
    own = str(os.getpid())
    try:
        processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return set()
    return {int(entry.name) for entry in processes if _parent(entry) == own}


def _parent(process: Path) -> str | None:
    try:
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
    except (OSError, IndexError):
        return None  # it has ended meanwhile, or is found the next time


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
