"""The control socket in the file system: ours alone from its first instant, one service a path, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shiftboss.commands import MAX_PATH_BYTES

_BACKLOG: Final = 32
_NOT_OURS: Final = stat.S_IWGRP | stat.S_IWOTH
_ELSEWHERE: Final = "or give another path in the setting control_socket"


class ControlSocket:
    """A listening socket and the lock that keeps a second service off its path.

    Raises:
        OSError: it cannot be here; the message says why and what to do. Nothing is left open.
    """

    def __init__(self, path: Path) -> None:
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise OSError(f"the path has more than the {MAX_PATH_BYTES} bytes that a socket's may have: give a shorter one")
        self._path, self._lock_path = path, path.with_name(f"{path.name}.lock")
        with _private():
            _check_folder(path.parent)
            self._lock_fd = _lock(self._lock_path)
            try:
                self.listener = _listen(path)
            except BaseException:
                self._unlock()
                raise

    def close(self) -> None:
        """Remove the socket while the lock still keeps successors away, then the lock."""
        self.listener.close()
        _remove(self._path)
        self._unlock()

    def _unlock(self) -> None:
        _remove(self._lock_path)
        os.close(self._lock_fd)


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """What is made meanwhile is for our user only. For programs of one thread: the mask is the process's."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


def _check_folder(folder: Path) -> None:
    """In a folder where others may write, they could put their own socket in the place of ours."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid not in (0, os.geteuid()):
        raise OSError(f"the folder {folder} belongs to user {found.st_uid}: run as that user, {_ELSEWHERE}")
    if found.st_mode & _NOT_OURS:
        raise OSError(f"others may write in the folder {folder}: chmod go-w it, {_ELSEWHERE}")


def _lock(path: Path) -> int:
    """The descriptor that holds the lock, for as long as it is open."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise OSError(f"another running service holds it: stop that one, {_ELSEWHERE}") from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its holder has just ended and removed it: what we locked has no name any more


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _listen(path: Path) -> socket.socket:
    """A listening socket in the place of one that a killed service has left there, if any."""
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise OSError(errno.EEXIST, f"there is something else at {path}: move it away, {_ELSEWHERE}")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(0o600)  # it had no more than this from the start; the execute bit means nothing here
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it, or its folder, was removed under us
        path.unlink()
