"""One exclusive `flock` round every write transaction of ours.

It removes two faults of SQLite's own locking: the race that damages the file when a commit and a checkpoint meet (every
SQLite before 3.51.3), and starvation: SQLite's busy handler sleeps and guesses, `flock` wakes the next in line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shiftboss.errors import StoreUnavailable

_PRIVATE: Final = 0o600


class WriteLock:
    """The lock of one store object on one side file; between two objects it excludes, in one process as well."""

    def __init__(self, path: Path, wait_s: float) -> None:
        self._path = path
        self._wait_s = wait_s
        self._fd: int | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock inside the block.

        Raises:
            StoreUnavailable: someone else kept it for `wait_s` seconds; the message names the process.
        """
        self.take()
        try:
            yield
        finally:
            self.leave()

    def take(self) -> None:
        """Wait for the lock; `leave` has to follow. Raises as `held` does, and then there is nothing to leave."""
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._wait(fd)

    def leave(self) -> None:
        """Let the next one in."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the descriptor back; the next use opens the file again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _open(self) -> int:
        if self._fd is None:
            try:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)
            except OSError as error:
                raise StoreUnavailable(
                    f"cannot open the lock file {self._path}: {error.strerror}; this user must be able to write there."
                ) from error
        return self._fd

    def _wait(self, fd: int) -> None:
        # flock has no deadline, so a thread blocks in it and we wait for the thread: nobody polls, the queue stays fair.
        waiter = _Waiter(fd)
        if waiter.wait(self._wait_s):
            return
        self._fd = None  # from here on the descriptor is the thread's
        raise StoreUnavailable(
            f"the write lock {self._path} was not free within {self._wait_s:g} s{_held_by(self._path)}. "
            "If it hangs, end it; nothing was written."
        )


class _Waiter:
    """A thread in a blocking `flock`; given up on, it closes the descriptor (and with it the lock) when it gets there."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._taken = threading.Event()
        self._mutex = threading.Lock()
        self._abandoned = False
        threading.Thread(target=self._block, name="shiftboss-write-lock", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        if self._taken.wait(timeout_s):
            return True
        with self._mutex:
            self._abandoned = not self._taken.is_set()
            return not self._abandoned

    def _block(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        with self._mutex:
            if self._abandoned:
                os.close(self._fd)
            else:
                self._taken.set()


def _held_by(path: Path) -> str:
    """ " (process 123: python …)" when the kernel's list of locks tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        inode = str(path.stat().st_ino)
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if "->" not in fields and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                return f" (held by process {fields[4]}{_command(fields[4])})"
    return ""


def _command(pid: str) -> str:
    with contextlib.suppress(OSError):
        words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
        return ": " + b" ".join(words[:4]).decode("utf-8", "replace").strip()
    return ""
