"""Doorbells: a producer's datagram wakes the claimers that wait, without a server and without polling.

Each listener is a Unix datagram socket in the folder `<database>.bells/`. Who enqueues sends one byte to all of them after
its commit. Nobody writes to the database to say that it sleeps: a datagram costs a few microseconds, a transaction an
fsync, so a busy claimer simply finds the bell rung. Paths are given as `/proc/self/fd/N/name`, since a socket's path is
limited to 107 bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
from functools import lru_cache
from pathlib import Path
from typing import Final

from shiftboss.errors import StoreUnavailable
from shiftboss.store.sqlite.files import beside

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_DRAIN_BYTES: Final = 16
_MAX_NAME_CHARS: Final = 60


def ring(path: str | Path) -> int:
    """Wake every claimer that listens beside the database at `path`; never waits, never raises. How many were told."""
    return ring_in(folder_of(path))


def ring_in(bells: str) -> int:
    """`ring` for who knows the folder already."""
    if not os.access(bells, os.F_OK):  # an answer, where `open` would raise: a fifth of the price
        return 0  # nobody has ever listened here
    try:
        folder = os.open(bells, _FOLDER_FLAGS)
    except OSError:
        return 0
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]  # noqa: PTH208  an open folder has no path
        return _ring_all(folder, names) if names else 0
    except OSError:
        return 0
    finally:
        os.close(folder)


@lru_cache(maxsize=64)  # on the way of every enqueue
def folder_of(path: str | Path) -> str:
    """Where those listen who work on the database at `path`."""
    return str(beside(Path(path), ".bells"))


def _ring_all(folder: int, names: list[str]) -> int:
    told = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sender:
        for name in names:
            try:
                sender.sendto(b"!", f"/proc/self/fd/{folder}/{name}")
                told += 1
            except BlockingIOError:
                told += 1  # its queue is full: it will wake anyway
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)  # its owner is dead
            except OSError:
                continue
    return told


class Doorbell:
    """A `Listener`: one socket that producers ring."""

    def __init__(self, path: Path, worker_id: str) -> None:
        """Raises `StoreUnavailable` when the socket cannot be made beside the database."""
        folder = Path(folder_of(path))
        # The worker's name helps whoever looks into the folder; the random part makes it ours alone.
        name = f"{re.sub(r'[^A-Za-z0-9_-]', '-', worker_id)[:_MAX_NAME_CHARS]}.{os.urandom(6).hex()}"
        self._path = folder / name
        self._mutex = threading.Lock()
        self._waiting = self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            _bind(self._socket, folder, name)
        except OSError as error:
            self._release()
            raise StoreUnavailable(
                f"cannot listen in {folder}: {error.strerror}; this user must be able to write there."
            ) from error

    def wait(self, timeout_s: float) -> bool:
        """See `Listener.wait`."""
        with self._mutex:
            if self._closed:
                return False
            self._waiting = True
        try:
            if not self._path.exists():
                return self._gone()
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            poll.register(self._end, select.POLLIN)
            ready = poll.poll(max(0.0, timeout_s) * 1000.0)
            return self._drain() if any(fd == self._socket.fileno() for fd, _ in ready) else False
        finally:
            with self._mutex:
                self._waiting = False
                if self._closed:
                    self._release()

    def close(self) -> None:
        """See `Listener.close`."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError):
                self._path.unlink()
            if self._waiting:
                os.eventfd_write(self._end, 1)  # the waiting thread wakes and releases
            else:
                self._release()

    def _gone(self) -> bool:
        with self._mutex:
            if self._closed:
                return False
        raise StoreUnavailable(f"the socket {self._path} was removed, so nobody can ring; make a new listener.")

    def _drain(self) -> bool:
        # One wake-up answers all rings so far: what they announced is already committed.
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(_DRAIN_BYTES):
                pass
        return True

    def _release(self) -> None:
        self._socket.close()
        os.close(self._end)


def _bind(sock: socket.socket, folder: Path, name: str) -> None:
    # Bound under a hidden name, then renamed: a ringer must not take a socket between its birth and its bind for a dead one.
    fd = os.open(folder, _FOLDER_FLAGS)
    try:
        sock.bind(f"/proc/self/fd/{fd}/.{name}")
        os.rename(f".{name}", name, src_dir_fd=fd, dst_dir_fd=fd)
    finally:
        os.close(fd)
