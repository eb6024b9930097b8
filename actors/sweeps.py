"""What a claimer looks for in the database from time to time, beside its rounds: what the answers mean."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence

from shiftboss.actors.board import Board
from shiftboss.actors.outbox import Outbox
from shiftboss.actors.roster import Roster
from shiftboss.actors.watching import Watcher
from shiftboss.events import Event, emit
from shiftboss.model import Lease
from shiftboss.store.base import Owned

log = logging.getLogger("shiftboss.claimer")


class Sweeps:
    """Cancel requests, tasks that nobody holds, unknown types. They go on during a drain and during a stop."""

    def __init__(self, roster: Roster, outbox: Outbox, watcher: Watcher, board: Board) -> None:
        self._roster, self._outbox = roster, outbox
        self._watcher, self._board = watcher, board

    def cancel(self, requests: Sequence[Lease]) -> None:
        """Stop what somebody wants cancelled."""
        held = {(holding.claim.task_id, holding.claim.fence): (peer, holding) for peer, holding in self._roster.held()}
        for lease in requests:
            if (lease.task_id, lease.fence) in held:
                self._watcher.cancel(*held[lease.task_id, lease.fence])

    def known(self) -> set[tuple[str, int]]:
        """Id and fence of what we hold."""
        return self._outbox.leases() | {(one.claim.task_id, one.claim.fence) for _peer, one in self._roster.held()}

    def unknown(self, owned: Sequence[Owned], known_before: Collection[tuple[str, int]] = ()) -> list[Owned]:
        """What the database says is ours, but nobody here holds it, nor has when it was asked."""
        self._board.set("claimer_s", time.monotonic())
        known = self.known()
        return [one for one in owned if (key := (one.task_id, one.fence)) not in known and key not in known_before]

    def give_back(self, owned: Sequence[Owned]) -> None:
        """Give back what nobody holds: claims whose reply was lost, or died with a claimer.

        Asked for while no round was under way: what a round claims is ours before we know of it. Not before every executor
        has said what it holds: one that is stuck in C cannot answer.
        """
        unknown = [Lease(one.task_id, one.fence) for one in self.unknown(owned)]
        if unknown:
            message = "ours in the database, held by nobody: given back"
            emit(log, logging.WARNING, Event.TASK_RELEASED, message, count=len(unknown))
            self._outbox.release(*unknown)

    def known_types(self) -> list[str]:
        """Those that some executor here has a handler for."""
        return [info.type for info in self._roster.types_of(peer for peer in self._roster if not peer.retiring)]

    def tell_unknown_types(self, counts: Mapping[str, int]) -> None:
        """Warn of pending tasks that no executor here has a handler for."""
        for type_, count in counts.items():
            emit(log, logging.WARNING, Event.TASK_UNKNOWN_TYPE, "no handler here for pending tasks", type=type_, count=count)
