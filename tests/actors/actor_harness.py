"""What the actors' tests share: shared memory, short names for claims, waiting for something with a deadline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from shiftboss.actors.layout import CELL_BYTES
from shiftboss.model import Claim, new_task_id

PATIENCE_S = 30.0
Found = TypeVar("Found")


def memory(size: int) -> int:
    """A descriptor of shared memory of `size` bytes, all zero."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.truncate(fd, size)
    return fd


def table_memory(cells: int) -> int:
    return memory(cells * CELL_BYTES)


def claim_of(type_: str = "mail:send", **fields: Any) -> Claim:
    """A claim that lacks nothing. `args`: JSON text."""
    args = msgspec.Raw(fields.pop("args", "{}").encode())
    given: dict[str, Any] = {
        "task_id": new_task_id(),
        "fence": 1,
        "attempt": 1,
        "queue": "default",
        "priority": 0,
        "max_attempts": 5,
    }
    given |= {"timeout_s": None, "running": True, "enqueued_at": 0.0, "due_at": 0.0}
    return Claim(type=type_, args=args, **(given | fields))


def eventually(look: Callable[[], Found | None], what: str, timeout_s: float = PATIENCE_S) -> Found:
    """What `look` finds, as soon as it finds something true.

    Only for what announces itself nowhere (a database, /proc); what can be waited for is waited for.
    """
    deadline_s, pause = time.monotonic() + timeout_s, threading.Event()
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last: {found!r}")
        pause.wait(0.01)


def is_running(pid: int) -> bool:
    """Zombies do not count: they wait for their parent only."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
