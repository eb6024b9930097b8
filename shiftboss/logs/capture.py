"""What user code prints, line by line in the log with its task's fields.

Only what goes through `sys.stdout` and `sys.stderr`. What is written straight to the descriptors 1 and 2 (C code,
subprocesses, a crash) goes where it always went.
"""

from __future__ import annotations

import codecs
import io
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from shiftboss.events import Event
from shiftboss.logs.context import TASK_ATTRIBUTE, BoundTask, current_task
from shiftboss.logs.line import MAX_MESSAGE_CHARS

HalfLines: TypeAlias = dict[tuple[str, int, BoundTask | None], str]  # by stream, thread and task

LEVEL: Final = logging.INFO  # of both: most of what goes to standard error is no error (progress bars, notices)


class CapturedStream(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr`: each line becomes a record of the logger `shiftboss.stdout` or `.stderr`.

    A line is complete at its newline, or when its task ends; until then it is kept, for each thread and task apart.
    Of text that is overwritten (`\\r`, a progress bar) the last state counts. A long line becomes several. Records go to
    `handler()` alone: a handler of the user's that writes here causes no further records.
    """

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True
    mode = "w"

    def __init__(self, name: str, descriptor: int, handler: Callable[[], logging.Handler | None], half_lines: HalfLines) -> None:
        self.name = f"<{name}>"
        self._logger = logging.getLogger(f"shiftboss.{name}")
        self._descriptor, self._handler = descriptor, handler
        self._unfinished = half_lines
        self.buffer = _Bytes(self)

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        task = current_task()
        key = (self.name, threading.get_ident(), task)
        whole = self._unfinished.pop(key, "") + text
        if "\n" in text:
            *lines, whole = whole.split("\n")
            for line in lines:
                self._log(line, task)
        if whole:
            self._unfinished[key] = whole if len(whole) <= MAX_MESSAGE_CHARS else self._cut(whole, task)
        return len(text)

    def finish(self, task: BoundTask | None) -> None:
        """Log the lines that this task, which ends, has not ended; `None`: those of every thread and task."""
        if self._unfinished and (task is None or task != current_task()):
            for key in [key for key in list(self._unfinished) if key[0] == self.name and (task is None or key[2] == task)]:
                self._log(self._unfinished.pop(key, ""), key[2])

    def forget(self) -> None:
        """After a fork: half a line belongs to the parent."""
        self._unfinished.clear()

    def _cut(self, rest: str, task: BoundTask | None) -> str:
        """What is kept of an unfinished line."""
        if "\r" in rest[:-1]:
            rest = rest[rest.rindex("\r", 0, -1) + 1 :]
        while len(rest) > MAX_MESSAGE_CHARS:
            self._log_text(rest[:MAX_MESSAGE_CHARS], task)
            rest = rest[MAX_MESSAGE_CHARS:]
        return rest

    def _log(self, line: str, task: BoundTask | None) -> None:
        if "\r" in line:
            line = line.rstrip("\r").rpartition("\r")[2]
        for start in range(0, len(line), MAX_MESSAGE_CHARS):
            self._log_text(line[start : start + MAX_MESSAGE_CHARS], task)

    def _log_text(self, text: str, task: BoundTask | None) -> None:
        handler = self._handler()
        if handler is None or not self._logger.isEnabledFor(LEVEL):
            return
        record = logging.LogRecord(self._logger.name, LEVEL, "", 0, text, None, None)
        record.__dict__ |= {TASK_ATTRIBUTE: task, "event": Event.OUTPUT_LINE.value}
        handler.handle(record)

    # ---- as code expects of a stream

    def fileno(self) -> int:
        """The real descriptor, for subprocesses."""
        return self._descriptor

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        """Does nothing: complete lines are written already, and half a line is none."""

    def close(self) -> None:
        """Does nothing: there is one standard output for all tasks."""

    def reconfigure(self, **_options: object) -> None:
        """Does nothing, as none of the options of `io.TextIOWrapper.reconfigure` has a meaning here."""


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer`: bytes of UTF-8; a character may come in two parts, from the same thread."""

    def __init__(self, text: CapturedStream) -> None:
        self._text = text
        self._local = threading.local()

    def write(self, data: Any, /) -> int:
        raw = bytes(memoryview(data))  # a TypeError for what is no bytes-like object
        decoder = getattr(self._local, "decoder", None)
        if decoder is None:
            decoder = self._local.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._text.write(decoder.decode(raw))
        return len(raw)

    def fileno(self) -> int:
        return self._text.fileno()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Does nothing, as with the stream itself."""
