"""Under which names rounds count what they do, so that no row is changed without end.

PostgreSQL keeps every version of a row for as long as any transaction might look at it, and whoever changes the row again steps
over all of them. A counter that a hundred rounds a second add to is as slow as it has versions after minutes of a snapshot
that somebody holds. So rounds that go on beside each other have names of their own, nobody uses one for long, and what stands
under those that are full is folded into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ROUNDS: Final = 128  # of one ledger: few versions to step over, and seldom anything to fold


class Ledgers:
    """`Exchange.ledger` of the rounds of a claimer, by connection. Numbers begin again with the claimer: whatever it finds
    under a name, it adds to.

    Attributes:
        full: names that no round uses any more, of any worker id that this claimer had.
    """

    def __init__(self) -> None:
        self._open: dict[int, tuple[str, int]] = {}
        self._opened = 0
        self.full: list[str] = []

    def name(self, worker_id: str, lane: int) -> str:
        """For the next round on this connection."""
        name, rounds = self._open.get(lane, ("", ROUNDS))
        if rounds == ROUNDS or not name.startswith(f"{worker_id}/"):
            if name:
                self.full.append(name)
            self._opened += 1
            name, rounds = f"{worker_id}/{self._opened}", 0
        self._open[lane] = name, rounds + 1
        return name

    def full_of(self, worker_id: str) -> list[str]:
        """Those of this worker. A dead one's are folded by the leader, so they are forgotten here."""
        self.full = [name for name in self.full if name.startswith(f"{worker_id}/")]
        return list(self.full)

    def folded(self, names: Sequence[str]) -> None:
        """These have been dealt with."""
        self.full = [name for name in self.full if name not in names]
