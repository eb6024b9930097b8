"""How often something may be looked for in the database, so that looking takes a twentieth of the time at most.

An index keeps what has left it until a vacuum comes, which a transaction elsewhere may hold up for hours. A look that begins
where an index begins steps over all of that: it is as dear as the past is long, not as the queue.
"""

from __future__ import annotations

import math
from typing import Final

CHEAP_S: Final = 0.002  # what takes no longer may be done at any time
PAUSE_BY_COST: Final = 20
LONGEST_PAUSE_S: Final = 60.0
DEAR_PAUSE_S: Final = 0.4  # looks that take 20 ms each time: whoever has better things to do has them taken by somebody else


class Pace:
    """When the next look may be taken. One that was slow just once, on a busy machine, say, changes nothing."""

    def __init__(self) -> None:
        self._taken_s = -math.inf
        self._before_s = 0.0
        self.pause_s = 0.0

    def taken(self, now_s: float, took_s: float) -> None:
        """A look has been taken. `now_s`: monotonic, at its end or its beginning."""
        cost_s = min(took_s, self._before_s)
        self._taken_s, self._before_s = now_s, took_s
        self.pause_s = min(PAUSE_BY_COST * cost_s, LONGEST_PAUSE_S) if cost_s > CHEAP_S else 0.0

    def missed(self, now_s: float, took_s: float) -> None:
        """A look has had no answer: what it would have cost nobody knows, and the next one may have none either."""
        self._taken_s = now_s
        self.pause_s = min(max(PAUSE_BY_COST * took_s, DEAR_PAUSE_S), LONGEST_PAUSE_S)

    @property
    def dear(self) -> bool:
        """Whether nobody should wait for the next look."""
        return self.pause_s >= DEAR_PAUSE_S

    def due(self, now_s: float, at_least_s: float = 0.0) -> bool:
        """Whether the last look was long enough ago."""
        return now_s - self._taken_s > max(at_least_s, self.pause_s)
