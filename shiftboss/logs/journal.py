"""Sending entries to journald, which may be slow, stalled or gone: no line waits for it, and none raises.

A socket that takes nothing now costs one system call a line. What could not be sent waits here, up to a limit, in its order;
beyond it lines are dropped, and counted in a line of their own once the journal reads again.
"""

from __future__ import annotations

import array
import contextlib
import enum
import errno
import fcntl
import logging
import os
import socket
import struct
import termios
import threading
import time
from collections import deque
from typing import Final

from shiftboss.logs.entry import encode_entry, field
from shiftboss.logs.formats import timestamp
from shiftboss.logs.output import StderrHandler, dropped_record, unformattable_record

DEFAULT_PATH: Final = "/run/systemd/journal/socket"
PATH_VARIABLE: Final = "SHIFTBOSS_JOURNAL_SOCKET"  # another path, for tests
MAX_WAITING: Final = 1_000
MAX_WAITING_BYTES: Final = 1 << 20
RETRY_S: Final = 0.1
_SEND_BUFFER_BYTES: Final = 8 << 20  # the kernel cuts it to net.core.wmem_max
_CLOSE_TIMEOUT_S: Final = 0.25
_TOO_BIG: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS})
_SEALS: Final = fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class _Sent(enum.Enum):
    YES = enum.auto()
    LATER = enum.auto()  # journald does not keep up
    GONE = enum.auto()  # there is no journald


class JournalHandler(logging.Handler):
    """Sends every record as one entry.

    Args:
        path: journald's socket. It is looked up for each entry: journald may have been restarted.
        fallback: writes the lines that no journald is there for.
        background: a thread, started when the first line has to wait, tries again every 0.1 s. Without it the next line
            does, and whoever calls `flush`.
    """

    def __init__(self, actor: str, path: str, fallback: StderrHandler, *, background: bool) -> None:
        super().__init__()
        self.actor = actor
        self._path, self._fallback, self._background = path, fallback, background
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.dropped = 0
        self._reset()

    def _reset(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._stalled = threading.Event()
        self._retrying: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = encode_entry(record, self.actor)
        except Exception as error:  # noqa: BLE001  a logged object's `__str__` may raise anything, and logging must not
            record = unformattable_record(record, error)
            entry = encode_entry(record, self.actor)
        match self._catch_up() or self._send(entry):
            case _Sent.LATER:
                self._keep(entry + field("SHIFTBOSS_LOGGED_AT", timestamp(record.created)))
            case _Sent.GONE:
                self._fallback.handle(record)

    def flush(self) -> None:
        """Send what waits, as far as the journal takes it now; never blocks."""
        with self._locked():
            self._catch_up()

    @property
    def waiting(self) -> int:
        """How many lines wait for the journal to read."""
        return len(self._waiting)

    @property
    def is_behind(self) -> bool:
        """Whether there is something to send, if only how many lines were dropped."""
        return bool(self._waiting or self.dropped)

    def close(self) -> None:
        """Send what waits, and wait up to 0.25 s until all is read: journald asks /proc whose lines they are.

        What is left then is given up. It can be used on: `basicConfig(force=True)` of user code closes it too.
        """
        deadline_s = time.monotonic() + _CLOSE_TIMEOUT_S
        pause = threading.Event()
        self.flush()
        while (self._waiting or self._unread()) and time.monotonic() < deadline_s:
            pause.wait(0.002)
            self.flush()
        with self._locked():
            lost, self.dropped = len(self._waiting) + self.dropped, 0
            self._waiting.clear()
            self._waiting_bytes = 0
        if lost:
            self._fallback.handle(dropped_record(lost))
        super().close()

    def disconnect(self) -> None:
        """Close the socket, for good."""
        self._socket.close()

    def after_fork_in_child(self) -> None:
        """What waits is the parent's to send; its thread is not here either."""
        self.dropped = 0
        self._reset()

    def _locked(self) -> contextlib.AbstractContextManager[object]:
        return self.lock or contextlib.nullcontext()

    # ---- with the handler's lock held

    def _catch_up(self) -> _Sent | None:
        """Send what waits and what there is to say of dropped lines; `None`: all of it, so the way is free."""
        while self._waiting:
            sent = self._send(self._waiting[0])
            if sent is not _Sent.YES:
                return sent
            self._waiting_bytes -= len(self._waiting.popleft())
        if self.dropped:
            sent = self._send(encode_entry(dropped_record(self.dropped), self.actor))
            if sent is not _Sent.YES:
                return sent
            self.dropped = 0
        return None

    def _keep(self, entry: bytes) -> None:
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + len(entry) > MAX_WAITING_BYTES:
            self.dropped += 1
            return
        self._waiting.append(entry)
        self._waiting_bytes += len(entry)
        self._stalled.set()
        if self._background and self._retrying is None:
            self._retrying = threading.Thread(target=self._retry, name="shiftboss-journal", daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread can be started any more: the next line tries again
                self._retrying.start()

    def _send(self, entry: bytes) -> _Sent:
        try:
            self._socket.sendto(entry, self._path)
        except BlockingIOError:
            return _Sent.LATER
        except OSError as error:
            return self._send_by_file(entry) if error.errno in _TOO_BIG else _Sent.GONE
        return _Sent.YES

    def _send_by_file(self, entry: bytes) -> _Sent:
        """An entry too big for a datagram goes as a descriptor of sealed memory."""
        try:
            fd = os.memfd_create("shiftboss-journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return _Sent.GONE
        try:
            os.truncate(fd, len(entry))
            os.pwrite(fd, entry, 0)
            fcntl.fcntl(fd, *_SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([], [rights], 0, self._path)
        except BlockingIOError:
            return _Sent.LATER
        except OSError as error:
            # Too many descriptors are on their way to a journal that does not read.
            return _Sent.LATER if error.errno == errno.ETOOMANYREFS else _Sent.GONE
        finally:
            os.close(fd)
        return _Sent.YES

    # ---- elsewhere

    def _retry(self) -> None:
        pause = threading.Event()
        while True:
            self._stalled.wait()
            pause.wait(RETRY_S)
            self.flush()
            if not self.is_behind:
                self._stalled.clear()
            if self.is_behind:  # came between the two lines above
                self._stalled.set()

    def _unread(self) -> int:
        """Bytes that were sent and that journald has not read yet."""
        try:
            return int(struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, b"\0" * 4))[0])
        except OSError:
            return 0
