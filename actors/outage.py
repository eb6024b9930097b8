"""A database that is away is waited out: said once, then once a minute, and when it is back."""

from __future__ import annotations

import logging
import random
import time

from shiftboss.actors.board import Board
from shiftboss.events import Event, emit

FIRST_WAIT_S = 0.1
# Whoever waits longer lets the database stand idle when it is back after minutes; more often would be a burden on its start.
LONGEST_WAIT_S = 1.5
SAID_EVERY_S = 60.0


class Outage:
    """Counts one actor's failures to reach the database.

    Args:
        figure: of the board, which says since when it is not reached; empty: that of no actor that health is judged by.
    """

    def __init__(self, log: logging.Logger, board: Board, figure: str = "") -> None:
        self._log, self._board, self._figure = log, board, figure
        self._since_s: float | None = None
        self._said_s = 0.0
        self._wait_s = FIRST_WAIT_S
        self._next_s = 0.0

    @property
    def lasting(self) -> bool:
        return self._since_s is not None

    @property
    def waits(self) -> bool:
        """Whether the next try is not due yet."""
        return self.lasting and time.monotonic() < self._next_s

    def wait_s(self, error: Exception) -> float:
        """Note a failure; returns how long to wait before the next try, with jitter."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s, self._said_s, self._wait_s = now_s, 0.0, FIRST_WAIT_S
            if self._figure and not self._board.get(self._figure):  # else a predecessor, who died meanwhile, has said it
                self._board.set(self._figure, now_s)
        if now_s - self._said_s >= SAID_EVERY_S or not self._said_s:
            self._said_s = now_s
            emit(
                self._log, logging.ERROR, Event.DATABASE_UNREACHABLE, error=str(error), duration_s=round(now_s - self._since_s, 1)
            )
        wait_s = self._wait_s * random.uniform(0.5, 1.0)
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
        self._next_s = now_s + wait_s
        return wait_s

    def over(self) -> None:
        """Note a success."""
        if self._figure and self._board.get(self._figure):
            self._board.set(self._figure, 0.0)
        if self._since_s is not None:
            duration_s = round(time.monotonic() - self._since_s, 1)
            emit(self._log, logging.WARNING, Event.DATABASE_RECOVERED, duration_s=duration_s)
            self._since_s = None
