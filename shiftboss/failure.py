"""What a failed attempt leaves behind for people: one line, and the traceback without our own frames."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

from shiftboss.logs.line import escape, escape_but_newlines
from shiftboss.model import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS

_OURS: Final = frozenset(str(Path(__file__).parent / name) for name in ("attempt.py", "codec.py", "handler.py"))
_CUT: Final = "\n… cut …\n"


def storable(text: str) -> str:
    """`text` without what a database refuses: NUL and lone surrogates are written as escapes."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def error_line(error: BaseException) -> str:
    """`ValueError: what it says`, in one line of at most `MAX_ERROR_CHARS`; survives an exception that cannot be printed.

    Control characters are made visible: people read the column in terminals, which would obey them.
    """
    name = type(error).__qualname__
    try:
        text = " ".join(str(error)[: 2 * MAX_ERROR_CHARS].split())
    except Exception:  # noqa: BLE001  a broken __str__ must not hide that the attempt failed
        text = "<its text cannot be read: __str__ raised>"
    line = escape(storable(f"{name}: {text}" if text else name))
    return line if len(line) <= MAX_ERROR_CHARS else line[: MAX_ERROR_CHARS - 1] + "…"


def traceback_text(error: BaseException) -> str:
    """The traceback with its causes as Python prints it, at most `MAX_TRACEBACK_CHARS`; the middle is cut, not the end."""
    try:
        report = traceback.TracebackException(type(error), error, _first_foreign(error.__traceback__), compact=True)
        text = escape_but_newlines(storable("".join(report.format())))
    except Exception as broken:  # noqa: BLE001  the error of an error: the attempt must still end
        text = f"{error_line(error)}\n(its traceback cannot be formatted: {type(broken).__qualname__})"
    if len(text) <= MAX_TRACEBACK_CHARS:
        return text
    head = MAX_TRACEBACK_CHARS // 4
    tail = MAX_TRACEBACK_CHARS - head - len(_CUT)
    return text[:head] + _CUT + text[-tail:]


def _first_foreign(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the handler on; all of it when none of it is the handler's."""
    first = frames
    while first is not None and first.tb_frame.f_code.co_filename in _OURS:
        first = first.tb_next
    return first if first is not None else frames
