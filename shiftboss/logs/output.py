"""Writing lines to a descriptor that nobody may be reading."""

from __future__ import annotations

import logging
import os
import select
import time
from typing import Final

from shiftboss.events import Event

# A write of this size to a pipe that poll() calls writable is atomic and cannot block (pipe(7), PIPE_BUF).
_CHUNK_BYTES: Final = 4_096
_WRITE_TIMEOUT_S: Final = 1.0


class StderrHandler(logging.Handler):
    """Writes whole lines to a descriptor. Waits at most a second for a reader, and not again until there is one."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._stalled = False
        self._torn = False  # a line was cut: the next one begins on a line of its own
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001  a logged object's `__str__` may raise anything, and logging must not
            text = self.format(unformattable_record(record, error))
        if self.dropped and self._write_line(self.format(dropped_record(self.dropped))):
            self.dropped = 0
        if not self._write_line(text):
            self.dropped += 1

    def _write_line(self, text: str) -> bool:
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        deadline_s = time.monotonic() + (0.0 if self._stalled else _WRITE_TIMEOUT_S)
        sent = 0
        if self._torn:
            data = b"\n" + data
        while sent < len(data):
            written = self._write_some(data[sent : sent + _CHUNK_BYTES], deadline_s)
            if written == 0:
                self._stalled, self._torn = True, self._torn or sent > 0
                return False
            sent += written
        self._stalled = self._torn = False
        return True

    def _write_some(self, chunk: bytes, deadline_s: float) -> int:
        """Bytes written; 0: not before the deadline, or not any more."""
        while self._writable(max(0.0, deadline_s - time.monotonic())):
            try:
                return os.write(self._descriptor, chunk)
            except BlockingIOError:
                # Writable, but not for this much: another process was quicker.
                if time.monotonic() >= deadline_s:
                    return 0
            except OSError:
                return 0
        return 0

    def _writable(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        try:
            # A descriptor whose reader is gone is reported too (POLLERR); writing then fails at once.
            return bool(poll.poll(timeout_s * 1000))
        except OSError:
            return False


def unformattable_record(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """What is logged instead of a record that cannot be formatted: where it comes from, and why not."""
    return _note("a line logged at %s:%d cannot be formatted: %s", record.pathname, record.lineno, type(error).__name__)


def dropped_record(count: int) -> logging.LogRecord:
    """What is logged once somebody reads again."""
    record = _note("%d log lines dropped: nobody read them", count)
    record.__dict__ |= {"event": Event.JOURNAL_DROPPED.value, "fields": {"count": count}}
    return record


def _note(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, arguments, None)
