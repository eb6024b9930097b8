"""The database file: where it is, who may read it, on what kind of disk, and whether it is still the same one."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import unquote

from shiftboss.errors import StoreCorrupt, StoreError, StoreUnavailable

_PREFIX: Final = "sqlite://"
_PRIVATE: Final = 0o600

# f_type of statfs(2): file systems whose locks or shared memory other machines do not see.
_NETWORK_FILE_SYSTEMS: Final = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
    0x01021997: "9P",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
    0x19830326: "BeeGFS",
    0x786F4256: "VirtualBox shared folder",
}


class Identity(NamedTuple):
    """What makes a file this file, whatever its name."""

    device: int
    inode: int


class Memory(Protocol):
    """Where the processes of one service keep which file they work on, as (device, inode); `None` until the first has opened it.

    A process that starts later must not take another file in its place for theirs: SQLite would read it together with the
    log (-wal) of the one before.
    """

    database_file: tuple[int, int] | None


def parse_url(url_or_path: str | Path) -> Path:
    """`sqlite:///relative.db`, `sqlite:////absolute.db` or a plain path, made absolute.

    Raises:
        StoreError: the URL names a host, options, nothing, or a database in memory.
    """
    text = str(url_or_path)
    if text.startswith(_PREFIX):
        rest = text.removeprefix(_PREFIX)
        if not rest.startswith("/") or "?" in rest:
            raise StoreError(
                f"database URL {text!r}: write sqlite:///relative.db or sqlite:////absolute/path.db, without host and options."
            )
        text = unquote(rest[1:])
    if not text or ":memory:" in text or "\0" in text:
        raise StoreError(
            f"database {str(url_or_path)!r}: a file is needed, since several processes share it; name one, as in sqlite:///shiftboss.db"
        )
    return Path(text).absolute()


def beside(path: Path, suffix: str) -> Path:
    """The file that belongs to the database: `tasks.db` and `.lock` give `tasks.db.lock`."""
    return path.with_name(path.name + suffix)


def create_private(path: Path) -> None:
    """Make the file, for this user only, unless it exists. SQLite gives the -wal and -shm files the same mode.

    Raises:
        StoreUnavailable: the folder is missing or not writable.
        StoreCorrupt: see `refuse_orphaned_log`.
    """
    refuse_orphaned_log(path)
    try:
        with contextlib.suppress(FileExistsError):
            # Never opened when it exists: closing a second descriptor would drop SQLite's own locks on it (POSIX).
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE))
    except OSError as error:
        raise StoreUnavailable(
            f"cannot create {path}: {error.strerror}; make the folder and let this user write to it."
        ) from error


def check_present(path: Path) -> None:
    """Whether SQLite may open the file now.

    Raises:
        StoreUnavailable: it is not there.
        StoreCorrupt: it is empty while its log is not. SQLite would take the log for a leftover and remove it, and with it
            what was acknowledged last.
    """
    refuse_orphaned_log(path)
    if identify(path) is None:
        raise StoreUnavailable(
            f"SQLite database {path} is not there: put it back, or correct DATABASE_URL. A new one is made by "
            "`shiftboss db migrate`, or when the service starts."
        )


def refuse_orphaned_log(path: Path) -> None:
    """Raises `StoreCorrupt` when the database's log (-wal) holds something and the database itself is missing or empty."""
    log = beside(path, "-wal")
    if _size(log) and not _size(path):
        raise StoreCorrupt(
            f"SQLite database {path} is missing or empty, and its log {log.name} is not: the newest tasks are in the log. "
            "Put the database file back beside it; or, if both are to go, move the log away first."
        )


def _size(path: Path) -> int:
    status = _status(str(path))
    return 0 if status is None else status.st_size


def identify(path: Path) -> Identity | None:
    """Which file stands at `path` now; `None` when there is none."""
    status = _status(str(path))
    return None if status is None else Identity(status.st_dev, status.st_ino)


def check_identity(path: str, expected: Identity) -> None:
    """Raises `StoreCorrupt` when the file was deleted or replaced: writes to the old one would be lost."""
    status = _status(path)
    if status is None or status.st_ino != expected.inode or status.st_dev != expected.device:
        raise StoreCorrupt(
            f"SQLite database {path} was deleted or replaced while open: what we wrote last is in a file without a name. "
            "Stop every process that uses it, put the right file back, start again."
        )


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  before every transaction, and a `Path` costs half as much again
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnavailable(f"cannot look at {path}: {error.strerror}; give this user access to its folder.") from error


def refuse_network_disk(folder: Path) -> None:
    """Raises `StoreError` when `folder` is on a file system on which SQLite's WAL does not work."""
    kind = _NETWORK_FILE_SYSTEMS.get(file_system_type(folder))
    if kind is not None:
        raise StoreError(
            f"SQLite database in {folder}: on a {kind} file system locks and shared memory are not reliable, so the "
            "database would be damaged. Put it on a local disk, or use PostgreSQL (DATABASE_URL=postgresql://…)."
        )


def file_system_type(folder: Path) -> int:
    """`f_type` of statfs(2), which Python's `os.statvfs` leaves out; 0 when it cannot be had."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_long * 64)()  # struct statfs is 120 bytes on 64-bit Linux, f_type its first word
    if libc.statfs(os.fsencode(folder), ctypes.byref(buffer)) != 0:
        return 0
    return buffer[0] & 0xFFFFFFFF
