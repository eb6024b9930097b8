"""What whoever starts the actors has to know of them."""

from __future__ import annotations

from typing import Final

SETTINGS_VARIABLE: Final = "SHIFTBOSS_SETTINGS"  # the settings as JSON, in a child's environment
CELL_BYTES: Final = 64  # of one cell in an executor's table
