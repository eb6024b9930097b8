"""Whether this worker does its work, judged by what its heartbeat and its claimer leave on the board. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from shiftboss.actors.board import Board

# Actor -> its figures: when it last did its work, and since when it does not reach the database.
JUDGED: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"heartbeat": ("beat_s", "beat_away_s"), "claimer": ("claimer_s", "claimer_away_s")}
)
# In intervals between heartbeats: both actors show up once in one, and a fault is to be told of before two are over.
_LATE_AFTER: Final = 1.75
_AWAY_AFTER: Final = 0.5
_WORDS: Final = {"heartbeat": "no heartbeat stored for", "claimer": "the claimer has done nothing for"}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes and the metrics say.

    Attributes:
        broken: why this worker is not healthy; empty when it is.
        quiet: why it takes no tasks although nothing is broken; empty when it does.
        database: whether every actor reaches it.
        actors: which of heartbeat and claimer do their work.
    """

    broken: str
    quiet: str
    database: bool
    actors: Mapping[str, bool]

    @property
    def unready(self) -> str:
        """Why this worker takes no tasks; empty when it does."""
        return "; ".join(filter(None, (self.broken, self.quiet)))


def judge(board: Board, now_s: float, interval_s: float, *, quiet: str = "", pool_broken: bool = False) -> Health:
    """Look at the board.

    Args:
        now_s: monotonic.
        interval_s: of heartbeats.
        quiet: why the supervisor wants nothing claimed.
        pool_broken: that it wants so because the executors keep crashing.
    """
    seen_s = {actor: board.get(figure) for actor, (figure, _away) in JUDGED.items()}
    working = {actor: now_s - at_s <= _LATE_AFTER * interval_s for actor, at_s in seen_s.items()}
    away_s = [since_s for _figure, away in JUDGED.values() if (since_s := board.get(away))]
    reasons = [quiet] if pool_broken else []
    if away_s and now_s - min(away_s) > _AWAY_AFTER * interval_s:
        reasons.append(f"the database has not been reached for {now_s - min(away_s):.0f} s")
    for actor in (actor for actor, works in working.items() if not works):
        silent = f"{_WORDS[actor]} {now_s - seen_s[actor]:.0f} s"
        reasons.append(silent if seen_s[actor] else f"the {actor} has not started yet")
    return Health(
        broken="; ".join(reasons), quiet="" if pool_broken else quiet, database=not away_s, actors=MappingProxyType(working)
    )
