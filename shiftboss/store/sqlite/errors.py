"""From what sqlite3 raises to our tree of errors, with what to do next."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from shiftboss.errors import SchemaError, ShiftbossError, StoreCorrupt, StoreError, StoreUnavailable

# What one row's values can cause, whatever the others in the batch hold.
DATA_ERRORS: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    OverflowError,
    ValueError,
)

_UNAVAILABLE: Final = {
    sqlite3.SQLITE_BUSY: "another program holds its write lock; end that program's transaction (`fuser` names it), we try again",
    sqlite3.SQLITE_LOCKED: "a table is locked by another statement; we try again",
    sqlite3.SQLITE_READONLY: "it is read-only for this user; give write access to its folder and all files of its name",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder exists and that this user may write there",
    sqlite3.SQLITE_IOERR: "the disk failed; look at the kernel's log (`journalctl -k`)",
    sqlite3.SQLITE_FULL: "the disk is full; free some space, we try again",
    sqlite3.SQLITE_PERM: "access is denied; give this user write access to the file and its folder",
    sqlite3.SQLITE_NOLFS: "the file system cannot hold a file of this size; move the database",
    sqlite3.SQLITE_PROTOCOL: "too many programs opened it at once; we try again",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted; we try again",
}
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class RowRefused(StoreError):
    """A constraint or a value of one row made the statement fail; nothing of its transaction was stored."""


def translate(error: Exception, path: Path) -> ShiftbossError:
    """The error of ours that stands for `error`, met while working on the database at `path`."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary in _CORRUPT:
        return StoreCorrupt(
            f"SQLite database {path}: {error}. Nothing more is written to it. Stop the service, copy the file and its "
            f"-wal, then try: sqlite3 {path} .recover | sqlite3 recovered.db"
        )
    if primary in _UNAVAILABLE:
        return StoreUnavailable(f"SQLite database {path}: {error}: {_UNAVAILABLE[primary]}.")
    if "no such table" in str(error) or "no such column" in str(error):
        return SchemaError(f"SQLite database {path}: {error}: its schema is missing or old; run `shiftboss db migrate`.")
    if isinstance(error, DATA_ERRORS):
        return RowRefused(f"SQLite database {path} refused a row: {error}; nothing of this call was stored.")
    return StoreError(f"SQLite database {path}: {error}.")
