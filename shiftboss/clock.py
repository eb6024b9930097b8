"""Time is passed in: the wall clock for what people read, the monotonic clock for every wait and budget."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where a part gets its time from."""

    def now(self) -> datetime:
        """The wall clock, timezone-aware, in UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that never steps back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    monotonic_s = staticmethod(time.monotonic)  # as it is: asked several times for every task


def unix_s(clock: Clock) -> float:
    """The wall clock as Unix seconds; of the machine's clock without the detour over a date."""
    return time.time() if type(clock) is SystemClock else clock.now().timestamp()
