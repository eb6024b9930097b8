"""Exit codes: stable, those of sysexits(3) where there is one, so that systemd and scripts can tell."""

from __future__ import annotations

from typing import Final

from shiftboss.errors import ConfigError, ShiftbossError, StoreError, TaskNotFound

DONE: Final = 0
NOTHING: Final = 1  # not found, or nothing changed
USAGE: Final = 64
BUG: Final = 70
NO_DATABASE: Final = 75
BAD_CONFIGURATION: Final = 78
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

# The first that fits; any other error of ours is about what stood on the command line.
_CODES: Final[tuple[tuple[type[ShiftbossError], int], ...]] = (
    (ConfigError, BAD_CONFIGURATION),
    (StoreError, NO_DATABASE),
    (TaskNotFound, NOTHING),
)


def exit_code_of(error: ShiftbossError) -> int:
    """What a command ends with when this error reaches it."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), USAGE)
