"""A layer between SQLite and the operating system that writes down what a power cut could take away.

It sits where SQLite itself asks for writes and syncs (its VFS), in the very library that Python's `sqlite3` uses, so the
store under test runs as it is: same statements, same pragmas, same locks. Nothing is faked on the way down: every call
goes on to SQLite's own "unix" layer. That none was missed is checked by playing the record back: without a cut it must
give the files byte for byte (`Disk.as_written`).

ctypes does it, without a compiler or another copy of SQLite.
"""

from __future__ import annotations

import _sqlite3
import contextlib
import ctypes
import threading
from collections.abc import Iterator
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p, cast, memmove, pointer, sizeof
from pathlib import Path
from typing import Final

from tests.chaos.power.disk import Delete, Operation, Sync, Truncate, Write

_OPEN_CREATE: Final = 0x04
_JOURNALS: Final = 0x00000800 | 0x00004000 | 0x00080000  # main journal, super-journal, WAL: their first sync syncs the folder
_OK: Final = 0
_NAME: Final = b"recording"

_X_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_X_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_X_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_X_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_X_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(Structure):
    """`sqlite3_vfs`, version 3; what we leave as it is are plain pointers."""

    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("max_pathname", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("app_data", c_void_p),
        ("x_open", _X_OPEN),
        ("x_delete", _X_DELETE),
        ("others", c_void_p * 14),
    )


class _Methods(Structure):
    """`sqlite3_io_methods`, version 3."""

    _fields_ = (
        ("version", c_int),
        ("x_close", c_void_p),
        ("x_read", c_void_p),
        ("x_write", _X_WRITE),
        ("x_truncate", _X_TRUNCATE),
        ("x_sync", _X_SYNC),
        ("others", c_void_p * 13),
    )


class Recorder:
    """Everything that SQLite asked of the disk for the files in one folder, in order.

    Attributes:
        operations: what was done; grows while it records.
    """

    def __init__(self, folder: Path) -> None:
        self.operations: list[Operation] = []
        self._folder = folder
        self._gate = threading.Lock()
        self._files: dict[int, tuple[str, bool]] = {}  # address of sqlite3_file -> name, whether its folder needs a sync
        self._methods: dict[int, tuple[_Methods, _Methods]] = {}  # address of SQLite's own -> (theirs, ours)
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        library.sqlite3_vfs_find.argtypes = [c_char_p]
        self._register = library.sqlite3_vfs_register
        self._register.argtypes = [POINTER(_Vfs), c_int]
        self._unregister = library.sqlite3_vfs_unregister
        self._unregister.argtypes = [POINTER(_Vfs)]
        self._unix = library.sqlite3_vfs_find(b"unix")
        self._vfs = self._make_vfs()

    def _make_vfs(self) -> _Vfs:
        vfs = _Vfs()
        memmove(byref(vfs), self._unix, sizeof(vfs))
        vfs.name, vfs.next = _NAME, None
        vfs.x_open, vfs.x_delete = _X_OPEN(self._open), _X_DELETE(self._delete)
        return vfs

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Every database that this process opens inside the block is recorded; all must be closed before its end."""
        assert self._register(pointer(self._vfs), 1) == _OK
        try:
            yield
        finally:
            self._register(self._unix, 1)
            self._unregister(pointer(self._vfs))

    # ---- called by SQLite

    def _open(self, _vfs: int, path: int | None, file: int, flags: int, out_flags: int | None) -> int:
        code = int(self._unix.contents.x_open(cast(self._unix, c_void_p), path, file, flags, out_flags))
        if code != _OK or path is None:
            return code
        where = Path(ctypes.string_at(path).decode())
        if where.parent == self._folder:
            with self._gate:
                self._files[file] = where.name, bool(flags & _OPEN_CREATE and flags & _JOURNALS)
                self.operations.append(Write(where.name, 0, b""))  # from here on the file has a name
            self._take_over(file)
        return code

    def _take_over(self, file: int) -> None:
        """Put our three calls in the place of SQLite's own in this open file."""
        slot = cast(file, POINTER(c_void_p))
        address = slot[0]
        assert address is not None
        if address not in self._methods:
            theirs, ours = _Methods(), _Methods()
            memmove(byref(theirs), address, sizeof(theirs))
            memmove(byref(ours), address, sizeof(ours))
            ours.x_write, ours.x_truncate = _X_WRITE(self._write), _X_TRUNCATE(self._truncate)
            ours.x_sync = _X_SYNC(self._sync)
            self._methods[address] = theirs, ours
        theirs, ours = self._methods[address]
        self._theirs = theirs  # one kind of lock in one folder: all files share their methods
        slot[0] = ctypes.addressof(ours)

    def _write(self, file: int, data: int, size: int, offset: int) -> int:
        with self._gate:
            self.operations.append(Write(self._files[file][0], offset, ctypes.string_at(data, size)))
        return int(self._theirs.x_write(file, data, size, offset))

    def _truncate(self, file: int, size: int) -> int:
        with self._gate:
            self.operations.append(Truncate(self._files[file][0], size))
        return int(self._theirs.x_truncate(file, size))

    def _sync(self, file: int, flags: int) -> int:
        begun_at = len(self.operations)  # what is written while it runs is not promised
        code = int(self._theirs.x_sync(file, flags))
        with self._gate:
            name, folder_too = self._files[file]
            self._files[file] = name, False
            self.operations.append(Sync(name, begun_at, folder_too))
        return code

    def _delete(self, _vfs: int, path: bytes, sync_folder: int) -> int:
        code = int(self._unix.contents.x_delete(cast(self._unix, c_void_p), path, sync_folder))
        where = Path(path.decode())
        if code == _OK and where.parent == self._folder:
            with self._gate:
                self.operations.append(Delete(where.name, bool(sync_folder)))
        return code
