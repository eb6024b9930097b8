"""Exit codes: stable, those of sysexits(3) where there is one, so that systemd and scripts can tell."""

from __future__ import annotations

import os
import re
import sys
from typing import Final

from shiftboss.errors import ConfigError, ShiftbossError, StoreError, TaskNotFound

DONE: Final = 0
NOTHING: Final = 1  # not found, nothing changed, no running service, or nobody reads the output
USAGE: Final = 64
BUG: Final = 70
NO_DATABASE: Final = 75
BAD_CONFIGURATION: Final = 78
INTERRUPTED: Final = 130

# Between two strings formatted JSON holds spaces and line feeds only, so what is found here stands in one.
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class NoAnswer(ShiftbossError):
    """No running service takes the command, or it gave no answer."""


# The first that fits; any other error of ours is about what stood on the command line.
_CODES: Final[tuple[tuple[type[ShiftbossError], int], ...]] = (
    (ConfigError, BAD_CONFIGURATION),
    (StoreError, NO_DATABASE),
    (TaskNotFound, NOTHING),
    (NoAnswer, NOTHING),
)


def exit_code_of(error: ShiftbossError) -> int:
    """What a command ends with when this error reaches it."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), USAGE)


def complain(text: str) -> None:
    """Say something to people, on standard error; what it quotes from tasks or code cannot move the cursor."""
    for line in text.splitlines():
        sys.stderr.write(f"shiftboss: {visible(line)}\n")


def visible(text: str) -> str:
    """The text with control characters made visible, on one line."""
    if text.isprintable():
        return text
    from shiftboss.logs.line import escape  # rarely needed, and commands have to be quick

    return escape(text)


def json_text(data: object, *, indented: bool = False) -> str:
    """One JSON document. Its strings hold no control character as it is, not even those that JSON allows: a terminal obeys
    some of them.
    """
    import msgspec  # not for commands that print no JSON

    # What tasks carry is put in as it was stored, with the spaces that somebody may have put between its parts.
    encoded = msgspec.json.format(msgspec.json.encode(data), indent=2 if indented else -1)
    text = encoded.decode("utf-8", "replace")
    return text if text.isprintable() else _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def explain(error: Exception) -> int:
    """Turn any error into one clear message and an exit code."""
    if os.environ.get("DEBUG", "").lower() in ("1", "true", "yes", "on"):
        import traceback  # rarely needed, and commands have to be quick

        traceback.print_exception(error)
    if isinstance(error, ShiftbossError):
        complain(str(error))
        return exit_code_of(error)
    complain(f"a bug: {type(error).__name__}: {error}; DEBUG=1 shows where")
    return BUG
