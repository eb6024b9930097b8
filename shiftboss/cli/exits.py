"""Exit codes: stable, those of sysexits(3) where there is one, so that systemd and scripts can tell."""

from __future__ import annotations

import os
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
    """Say something to people, on standard error."""
    for line in text.splitlines():
        sys.stderr.write(f"shiftboss: {line}\n")


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
