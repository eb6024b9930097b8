"""Executors as the claimer sees them: what each holds, and where there is room."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec

from shiftboss.actors.link import PeerRef
from shiftboss.actors.messages import Execute, Hello, ToClaimer
from shiftboss.actors.planning import PATIENCE_WINDOW_S, PREFETCH_WINDOW_S, distribute, prefetch_depth
from shiftboss.actors.retire_plan import Retirement
from shiftboss.actors.table import Table
from shiftboss.control import PeerDied
from shiftboss.model import Claim, Ended


class Holding(msgspec.Struct, eq=False, gc=False):
    """One task at one executor. All times are monotonic."""

    claim: Claim
    cell: int
    dispatched_s: float
    started_ns: int = 0
    start_stored: bool = False
    recalled: bool = False
    cancel_reason: str | None = None  # "timeout" or "cancel"
    cancelled_s: float = 0.0
    asked: bool = False  # its executor was told to stop it, not only to give it back


class Peer(msgspec.Struct, eq=False):
    """One incarnation of an executor.

    A cell is free, or held (`holdings`), or waits for its outcome to be stored (`storing`).

    Attributes:
        types: names of what it can run.
        accepting: False while it may have to be killed for a task that does not stop.
    """

    name: str
    incarnation: int
    ref: PeerRef[ToClaimer]
    table: Table
    slots: int = 0
    types: frozenset[str] = frozenset()
    said_hello: bool = False
    accepting: bool = True
    link_down: bool = False
    death: PeerDied | None = None
    died_s: float = 0.0
    replacing: bool = False
    retirement: Retirement | None = None
    free_cells: list[int] = msgspec.field(default_factory=list)
    holdings: dict[int, Holding] = msgspec.field(default_factory=dict)
    storing: set[int] = msgspec.field(default_factory=set)
    stored: list[int] = msgspec.field(default_factory=list)  # to be told with the next message

    def greet(self, hello: Hello) -> list[tuple[int, Claim, Ended]]:
        """Take over what the executor holds; returns the outcomes that still have to be stored."""
        self.slots, self.said_hello = hello.slots, True
        self.types = frozenset(info.type for info in hello.types)
        now_s = time.monotonic()
        used = set()
        unsent = []
        for held in hello.held:
            used.add(held.cell)
            if held.ended is None:
                self.holdings[held.cell] = Holding(held.claim, held.cell, now_s, start_stored=held.claim.running)
            else:
                self.storing.add(held.cell)
                unsent.append((held.cell, held.claim, held.ended))
        self.free_cells = [cell for cell in range(self.table.cells - 1, -1, -1) if cell not in used]
        return unsent

    @property
    def retiring(self) -> bool:
        """Its retirement has begun: its successors do its work."""
        return self.retirement is not None and self.retirement.begun

    @property
    def releasable(self) -> bool:
        """It retires and holds nothing any more, which the parent has not been told yet."""
        return self.retirement is not None and not (self.retirement.released or self.holdings or self.storing)

    @property
    def usable(self) -> bool:
        return self.said_hello and self.accepting and not self.retiring and not self.link_down and self.death is None

    @property
    def free_slots(self) -> int:
        return max(0, self.slots - len(self.holdings)) if self.usable else 0

    def room(self, typical_s: float | None, window_s: float = PREFETCH_WINDOW_S) -> int:
        """How many more tasks may be sent to this executor, so that each starts within the window."""
        if not self.usable:
            return 0
        depth = prefetch_depth(self.slots, typical_s, self.table.cells // 2, window_s)
        return max(0, min(self.slots + depth - len(self.holdings), len(self.free_cells)))

    def execute(self, claims: list[Claim]) -> None:
        """Send tasks, and the cells whose outcomes are stored."""
        now_s = time.monotonic()
        cells = self.free_cells[: -len(claims) - 1 : -1]
        del self.free_cells[len(self.free_cells) - len(claims) :]
        pairs = zip(cells, claims, strict=True)
        self.holdings.update(zip(cells, [Holding(claim, cell, now_s, 0, claim.running) for cell, claim in pairs], strict=True))
        self.ref.tell(Execute(self.stored, cells, claims))
        self.stored = []

    def finish(self, cells: Sequence[int]) -> list[Holding | None]:
        """The outcomes of these have come and wait to be stored. `None` where nothing was held."""
        pop = self.holdings.pop
        holdings = [pop(cell, None) for cell in cells]
        self.storing.update(cells if None not in holdings else [one.cell for one in holdings if one is not None])
        return holdings

    def mark_stored(self, cells: Sequence[int]) -> None:
        """The outcomes of these are in the database."""
        known = list(dict.fromkeys(cells))
        if not self.storing.issuperset(known):
            known = [cell for cell in known if cell in self.storing]
        self.storing.difference_update(known)
        self.stored += known
        self.free_cells += known  # whoever uses one next tells the executor in the same message

    def give_back(self, cell: int) -> Holding | None:
        """The executor has returned `cell` unstarted."""
        holding = self.holdings.pop(cell, None)
        if holding is not None:
            self.free_cells.append(cell)
        return holding

    def started_ns(self, holding: Holding) -> int:
        if not holding.started_ns:
            holding.started_ns = self.table.started_ns(holding.cell, holding.claim.task_id, holding.claim.fence)
        return holding.started_ns

    def older_than(self, dispatched_before_s: float) -> Iterator[Holding]:
        """Holdings that were sent before then; they stand in the order in which they were sent."""
        for holding in self.holdings.values():
            if holding.dispatched_s > dispatched_before_s:
                return
            yield holding

    def close(self) -> None:
        self.ref.close()
        self.table.close()


def share_out(claims: list[Claim], peers: Sequence[Peer], typical_s: float | None) -> tuple[list[list[Claim]], list[Claim]]:
    """Which claims go to which of these executors, and what is left: none of those that know its type has room any more."""
    shares: list[list[Claim]] = [[] for _ in peers]
    if len({peer.types for peer in peers}) > 1:
        return shares, _share_out_by_type(claims, peers, typical_s, shares)
    places = distribute(
        len(claims), [peer.free_slots for peer in peers], [peer.room(typical_s, PATIENCE_WINDOW_S) for peer in peers]
    )
    for claim, place in zip(claims, places, strict=False):
        shares[place].append(claim)
    return shares, claims[len(places) :]


def _share_out_by_type(
    claims: list[Claim], peers: Sequence[Peer], typical_s: float | None, shares: list[list[Claim]]
) -> list[Claim]:
    """While executors of the old and of the new code work side by side; free slots first."""
    free = [peer.free_slots for peer in peers]
    room = [peer.room(typical_s, PATIENCE_WINDOW_S) for peer in peers]
    left = []
    for claim in claims:
        able = [place for place, peer in enumerate(peers) if room[place] > 0 and claim.type in peer.types]
        if not able:
            left.append(claim)
            continue
        place = max(able, key=lambda place: (free[place], room[place]))
        free[place], room[place] = free[place] - 1, room[place] - 1
        shares[place].append(claim)
    return left
