"""journald's socket for tests: takes entries of the native protocol, by datagram or by sealed memory, and refuses bad ones."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from pathlib import Path

_SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_LONGEST_DATAGRAM = 1 << 20


class Journald:
    """Reads only when asked to: until then it is a journald that has stalled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self.by_file = 0  # entries that came as a file

    def close(self) -> None:
        self._socket.close()
        Path(self.path).unlink(missing_ok=True)

    def entries(self, timeout_s: float = 0.0) -> list[dict[str, list[str]]]:
        """Everything that is there, after waiting at most `timeout_s` for the first: field -> its values."""
        found = []
        while select.select([self._socket], [], [], 0.0 if found else timeout_s)[0]:
            data, fds, _flags, _address = socket.recv_fds(self._socket, _LONGEST_DATAGRAM, 1)
            found.append(parse(self._file(fds[0]) if fds else data))
        return found

    def _file(self, fd: int) -> bytes:
        try:
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALED == _SEALED, "journald refuses memory that may still change"
            self.by_file += 1
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)


def parse(data: bytes) -> dict[str, list[str]]:
    """One entry; an AssertionError for what journald would drop."""
    fields: dict[str, list[str]] = {}
    at = 0
    while at < len(data):
        end = data.index(b"\n", at)
        name, equals, value = data[at:end].partition(b"=")
        at = end + 1
        if not equals:
            (size,) = struct.unpack_from("<Q", data, at)
            value = data[at + 8 : at + 8 + size]
            at += 8 + size + 1
            assert len(value) == size and data[at - 1 : at] == b"\n", f"the length of {name!r} is wrong"
        text = name.decode("ascii")
        assert text.replace("_", "A").isalnum() and text.isupper() and text[0].isalpha() and len(text) <= 64, text
        fields.setdefault(text, []).append(value.decode())
    return fields
