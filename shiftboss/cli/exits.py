"""Exit codes: stable, those of sysexits(3) where there is one, so that systemd and scripts can tell."""

from __future__ import annotations

from typing import Final

from shiftboss.errors import ConfigError, ShiftbossError, StoreError, TaskNotFound

DONE: Final = 0
NOTHING: Final = 1  # not found, nothing changed, or nobody reads the output
USAGE: Final = 64
BUG: Final = 70
NO_DATABASE: Final = 75
BAD_CONFIGURATION: Final = 78
INTERRUPTED: Final = 130

# The first that fits; any other error of ours is about what stood on the command line.
_CODES: Final[tuple[tuple[type[ShiftbossError], int], ...]] = (
    (ConfigError, BAD_CONFIGURATION),
    (StoreError, NO_DATABASE),
    (TaskNotFound, NOTHING),
)


def exit_code_of(error: ShiftbossError) -> int:
    """What a command ends with when this error reaches it."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), USAGE)
