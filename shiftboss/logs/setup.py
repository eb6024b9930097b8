"""Which handler a process logs with, and keeping it in its place."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from shiftboss.logs.capture import CapturedStream, HalfLines
from shiftboss.logs.context import BoundTask, RecordFactory, bind_task
from shiftboss.logs.formats import FORMATS, JournalFormatter, formatter_for
from shiftboss.logs.journal import DEFAULT_PATH, PATH_VARIABLE, JournalHandler
from shiftboss.logs.output import StderrHandler

log = logging.getLogger("shiftboss.logs")
_STDOUT: Final = 1
_STDERR: Final = 2


class _Installed:
    """The handler of this process. One object for its whole life: streams and hooks ask it for what holds now."""

    def __init__(self) -> None:
        self.handler: logging.Handler | None = None
        self.made_of: tuple[str, str, str, bool] | None = None
        self.streams: tuple[CapturedStream, ...] = ()

    def current(self) -> logging.Handler | None:
        return self.handler

    def finish_lines(self, task: BoundTask | None) -> None:
        for stream in self.streams:
            stream.finish(task)


_installed: Final = _Installed()


def configure_logging(
    format: str = "auto",  # noqa: A002
    level: str = "info",
    *,
    actor: str,
    background: bool = False,
) -> None:
    """Send everything that this process logs to the journal or to standard error; replaces what was configured before.

    Args:
        format: `text`, `json`, `journal`, or `auto`: text on a terminal, journal under systemd, else JSON.
        level: the least important level that is written: debug, info, warning, error, critical.
        actor: the name of this process in every line.
        background: a thread may be used to send what a slow journal did not take at once; see `flush_logging`.

    Raises:
        ValueError: no such format or level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r}: must be one of debug, info, warning, error, critical")
    if format != "auto" and format not in FORMATS:
        raise ValueError(f"log format {format!r}: must be one of auto, {', '.join(FORMATS)}")
    _install(_chosen(format), actor, background)
    _set_level(number)
    if not isinstance(logging.getLogRecordFactory(), RecordFactory):
        logging.setLogRecordFactory(RecordFactory(logging.getLogRecordFactory()))
    logging.captureWarnings(True)


def _install(chosen: str, actor: str, background: bool) -> None:
    made_of = (chosen, actor, os.environ.get(PATH_VARIABLE, DEFAULT_PATH), background)
    # Of a journal that is behind, the handler has lines that wait.
    if not (chosen == "journal" and made_of == _installed.made_of):
        if _installed.handler is not None:
            _installed.handler.close()
        if isinstance(_installed.handler, JournalHandler):
            _installed.handler.disconnect()
        _installed.handler, _installed.made_of = _handler(*made_of), made_of
    assert _installed.handler is not None
    logging.getLogger().handlers[:] = [_installed.handler]


def _set_level(number: int) -> None:
    logging.getLogger().setLevel(number)
    logging.getLogger("shiftboss").setLevel(number)  # whatever user code makes of the root logger


def _handler(chosen: str, actor: str, journal: str, background: bool) -> logging.Handler:
    stderr = StderrHandler(_STDERR)
    if chosen == "journal":
        stderr.setFormatter(JournalFormatter(actor))
        return JournalHandler(actor, journal, stderr, background=background)
    stderr.setFormatter(formatter_for(chosen, actor, colours=_is_terminal(_STDERR) and "NO_COLOR" not in os.environ))
    return stderr


def flush_logging() -> bool:
    """Send what a slow journal has not taken yet, as far as it does now; never blocks.

    For a process without threads: call it again, about once a second, while it returns False.
    """
    handler = _installed.handler
    if handler is None:
        return True
    handler.flush()
    return not (isinstance(handler, JournalHandler) and handler.is_behind)


def close_logging() -> None:
    """At the end of a process: write lines that were printed without a newline, and wait up to 0.25 s for the journal."""
    _installed.finish_lines(None)
    logging.shutdown()
    if _installed.handler is not None:
        _installed.handler.close()  # logging does not know it any more after a `dictConfig` of user code


# ---- beside user code


def capture_output() -> None:
    """Replace `sys.stdout` and `sys.stderr`: what is printed from now on is logged, with the fields of its task."""
    half_lines: HalfLines = {}
    out = CapturedStream("stdout", _STDOUT, _installed.current, half_lines)
    error = CapturedStream("stderr", _STDERR, _installed.current, half_lines)
    _installed.streams = (out, error)
    bind_task.at_end, bind_task.half_lines = _installed.finish_lines, half_lines
    sys.stdout, sys.stderr = out, error


def reclaim_logging() -> None:
    """After user code was imported: put our handler back where a `basicConfig(force=True)` or `dictConfig` removed it.

    Handlers that write to the console go: each line would come twice. All others (files, error trackers) stay, and so does the
    level that they set. Loggers of ours that were disabled are enabled again.
    """
    for name, logger in logging.Logger.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and (name == "shiftboss" or name.startswith("shiftboss.")):
            logger.disabled = False
    root, ours = logging.getLogger(), _installed.handler
    if ours is None or ours in root.handlers:
        return
    root.handlers[:] = [ours, *(handler for handler in root.handlers if not _writes_to_console(handler))]
    log.warning(
        "imported code replaced the logging configuration: lines go to the log as before, and to those of its handlers "
        "that do not write to the console"
    )


def _writes_to_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (
        *_installed.streams,
        sys.stdout,
        sys.stderr,
        sys.__stdout__,
        sys.__stderr__,
    )


def _after_fork_in_child() -> None:
    if isinstance(_installed.handler, JournalHandler):
        _installed.handler.after_fork_in_child()
    for stream in _installed.streams:
        stream.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)


# ---- where standard error goes


def _chosen(format: str) -> str:  # noqa: A002
    if format != "auto":
        return format
    if _is_terminal(_STDERR):
        return "text"
    stream = os.environ.get("JOURNAL_STREAM", "")
    return "journal" if _is_journal(_STDERR, stream) or _is_journal(_STDOUT, stream) else "json"


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _is_journal(descriptor: int, stream: str) -> bool:
    """Whether the descriptor is the one that systemd connected to the journal: `device:inode` in `$JOURNAL_STREAM`."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"
