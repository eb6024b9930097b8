"""Where the threads of this process stand, as text for a dump."""

from __future__ import annotations

import sys
import threading
import traceback
from types import FrameType
from typing import Final

MAX_CHARS: Final = 32_000  # of all stacks together: one line of log takes them
MAX_FRAMES: Final = 50  # of one thread, the innermost; a deep recursion must not crowd the others out


def all_stacks() -> str:
    """The stacks of every thread, innermost call last, the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)
    text = "\n".join(_stack(names.get(ident, "not one of Python's"), ident, frame) for ident, frame in frames)
    if len(text) <= MAX_CHARS:
        return text
    note = f"\n… {len(text)} characters, {len(frames)} threads"
    return text[: MAX_CHARS - len(note)] + note


def _stack(name: str, ident: int, frame: FrameType) -> str:
    calls = traceback.extract_stack(frame)
    left_out = len(calls) - MAX_FRAMES
    head = f"thread {name!r} ({ident}):\n" + (f"  … {left_out} calls above\n" if left_out > 0 else "")
    return head + "".join(traceback.format_list(calls[-MAX_FRAMES:]))
