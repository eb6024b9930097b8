"""Logs: text on a terminal, JSON for machines, lines with a priority for the journal.

Every line that a handler logs, with any logger, carries its task's id, type and attempt. Writing never raises and never
blocks for long: where nobody reads standard error, lines are dropped and counted.
"""

from __future__ import annotations

import logging
import os

from shiftboss.logs.context import BoundTask, RecordFactory, bind_task, current_task
from shiftboss.logs.formats import formatter_for
from shiftboss.logs.output import StderrHandler

__all__ = ["BoundTask", "bind_task", "configure_logging", "current_task"]


def configure_logging(format: str = "auto", level: str = "info", *, actor: str) -> None:  # noqa: A002
    """Send everything that this process logs to standard error; replaces what was configured before.

    Args:
        format: `text`, `json`, `journal`, or `auto`: text on a terminal, journal under systemd, else JSON.
        level: the least important level that is written: debug, info, warning, error, critical.
        actor: the name of this process in every line.

    Raises:
        ValueError: no such format or level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r}: must be one of debug, info, warning, error, critical")
    descriptor = 2
    chosen = _format_for(descriptor) if format == "auto" else format
    handler = StderrHandler(descriptor)
    handler.setFormatter(formatter_for(chosen, actor, colours=_is_terminal(descriptor) and "NO_COLOR" not in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    if not isinstance(logging.getLogRecordFactory(), RecordFactory):
        logging.setLogRecordFactory(RecordFactory(logging.getLogRecordFactory()))
    logging.captureWarnings(True)


def _format_for(descriptor: int) -> str:
    if _is_terminal(descriptor):
        return "text"
    return "journal" if _is_journal(descriptor, os.environ.get("JOURNAL_STREAM", "")) else "json"


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
