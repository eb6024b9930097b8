"""What whoever starts the actors has to know of them."""

from __future__ import annotations

from typing import Final

SETTINGS_VARIABLE: Final = "SHIFTBOSS_SETTINGS"  # the settings as JSON, which a child is born with
LISTEN_FD_VARIABLE: Final = "SHIFTBOSS_LISTEN_FD"  # the gateway's listening socket, where systemd has opened one
CELL_BYTES: Final = 64  # of one cell in an executor's table
