"""One exclusive `flock` round every write transaction of ours.

It removes two faults of SQLite's own locking: the race that damages the file when a commit and a checkpoint meet (every
SQLite before 3.51.3), and starvation: SQLite's busy handler sleeps and guesses, `flock` wakes who waits.

To be woken is not to have the lock: whoever happens to run, say the one that has just given it back, would be quicker. So one
has to be next before one may have it: a lock on the first byte of the same file, kept until the other one is there. Both end
with the descriptor, however its process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shiftboss.errors import StoreUnavailable

_PRIVATE: Final = 0o600
# struct flock: type, whence, start, length, and a process id that has to be 0.
_BE_NEXT: Final = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
_LET_NEXT: Final = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 1, 0)


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
        is_next = False
        try:
            fd = self._open() if self._fd is None else self._fd
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _BE_NEXT)
                is_next = True
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LET_NEXT)
            except BlockingIOError:
                self._wait(_Waiter(fd, is_next))
        except BaseException:
            self.close()  # the descriptor takes along what it has got so far, or others would wait for us
            raise

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
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)
        except OSError as error:
            raise StoreUnavailable(
                f"cannot open the lock file {self._path}: {error.strerror}; this user must be able to write there."
            ) from error
        return self._fd

    def _wait(self, waiter: _Waiter) -> None:
        taken = False
        try:
            taken = waiter.wait(self._wait_s)
        finally:
            if not taken:
                self._fd = None  # from here on the descriptor is the thread's
        if taken:
            return
        raise StoreUnavailable(
            f"the write lock {self._path} was not free within {self._wait_s:g} s{_held_by(self._path)}. "
            "If it hangs, end it; nothing was written."
        )


class _Waiter:
    """A thread in a blocking `flock`, which has no deadline: we wait for the thread, and nobody polls. Given up on, it closes
    the descriptor (and with it the lock) when it gets there."""

    def __init__(self, fd: int, is_next: bool) -> None:
        self._fd, self._is_next = fd, is_next
        self._taken = threading.Event()
        self._mutex = threading.Lock()
        self._abandoned = False
        threading.Thread(target=self._block, name="shiftboss-write-lock", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Whether we have the lock. False, or an interrupt: then the descriptor is not the caller's any more."""
        interrupted = True
        try:
            self._taken.wait(timeout_s)
            interrupted = False
        finally:
            with self._mutex:
                taken = self._taken.is_set()
                self._abandoned = not taken
                if taken and interrupted:
                    os.close(self._fd)
        return taken

    def _block(self) -> None:
        try:
            if not self._is_next:
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLKW, _BE_NEXT)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _LET_NEXT)
        except OSError:  # the kernel has no room for another lock; we must not stay next
            os.close(self._fd)
            return
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
