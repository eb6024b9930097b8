"""What a claimer looks for in the database from time to time, beside its rounds. Each may raise `StoreUnavailable`."""

from __future__ import annotations

import logging
import time

from shiftboss.actors.board import Board
from shiftboss.actors.ledgers import Ledgers
from shiftboss.actors.outbox import Outbox
from shiftboss.actors.roster import Roster
from shiftboss.actors.watching import Watcher
from shiftboss.events import Event, emit
from shiftboss.model import Lease
from shiftboss.store.base import Store

log = logging.getLogger("shiftboss.claimer")


class Sweeps:
    """Cancel requests, tasks that nobody holds, unknown types, full ledgers. They go on during a drain and during a stop."""

    def __init__(self, roster: Roster, outbox: Outbox, watcher: Watcher, board: Board) -> None:
        self._roster, self._outbox = roster, outbox
        self._watcher, self._board = watcher, board

    def look_for_cancels(self, store: Store, worker_id: str) -> None:
        """Stop what somebody wants cancelled."""
        held = {(holding.claim.task_id, holding.claim.fence): (peer, holding) for peer, holding in self._roster.held()}
        for lease in store.cancel_requests(worker_id) if held else ():
            if (lease.task_id, lease.fence) in held:
                self._watcher.cancel(*held[lease.task_id, lease.fence])

    def reconcile(self, store: Store, worker_id: str) -> bool:
        """Give back what the database says is ours but nobody holds: claims whose reply was lost, or died with a claimer.
        Not while a round is under way: what it claims is ours before we know of it.

        Not before every executor has said what it holds: one that is stuck in C cannot answer. False: so it was left out.
        """
        if self._roster.silent:
            return False
        owned = store.owned(worker_id)
        self._board.set("claimer_s", time.monotonic())
        known = self._outbox.leases()
        known |= {(one.claim.task_id, one.claim.fence) for _peer, one in self._roster.held()}
        unknown = [Lease(one.task_id, one.fence) for one in owned if (one.task_id, one.fence) not in known]
        if unknown:
            message = "ours in the database, held by nobody: given back"
            emit(log, logging.WARNING, Event.TASK_RELEASED, message, count=len(unknown))
            self._outbox.release(*unknown)
        return True

    def fold(self, store: Store, worker_id: str, ledgers: Ledgers) -> None:
        """Put what stands under the names that are full under one. A dead worker's are folded by the leader."""
        names = ledgers.full
        ours = [name for name in names if name.startswith(f"{worker_id}/")]
        if ours:
            store.fold_ledgers(worker_id, ours)
        ledgers.folded(names)

    def tell_unknown_types(self, store: Store) -> None:
        """Warn of pending tasks that no executor here has a handler for."""
        types = [info.type for info in self._roster.types_of(peer for peer in self._roster if not peer.retiring)]
        for type_, count in store.unknown_types(types).items() if types else ():
            emit(log, logging.WARNING, Event.TASK_UNKNOWN_TYPE, "no handler here for pending tasks", type=type_, count=count)
