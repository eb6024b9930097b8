"""What a claimer looks for in the database from time to time, beside its rounds."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence

from shiftboss.actors.board import Board
from shiftboss.actors.carrier import Carrier
from shiftboss.actors.lookout import Lookout
from shiftboss.actors.outbox import Outbox
from shiftboss.actors.roster import Roster
from shiftboss.actors.watching import Watcher
from shiftboss.events import Event, emit
from shiftboss.model import Lease
from shiftboss.store.base import Owned

log = logging.getLogger("shiftboss.claimer")


class Sweeps:
    """Cancel requests, tasks that nobody holds, unknown types, full ledgers. They go on during a drain and during a stop.

    Attributes:
        doubtful: ids of what seems to be ours and nobody holds, to be cleared up while no round is under way.
        owed: what nobody holds was not looked for, because an executor had not yet said what it holds.
    """

    def __init__(
        self, lookout: Lookout, carrier: Carrier, roster: Roster, outbox: Outbox, watcher: Watcher, board: Board
    ) -> None:
        self._lookout, self._carrier = lookout, carrier
        self._roster, self._outbox = roster, outbox
        self._watcher, self._board = watcher, board
        self.doubtful: list[str] = []
        self.owed = False

    def sweep(self, name: str, worker_id: str) -> None:
        """Look for what has that name; the answer may come later."""
        match name:
            case "reconcile" if worker_id:
                self._look_for_strays(worker_id)
            case "cancels" if worker_id and any(peer.holdings for peer in self._roster):
                self._lookout.look(name, lambda store: store.cancel_requests(worker_id), self._cancel)
            case "unknown":
                types = [info.type for info in self._roster.types_of(peer for peer in self._roster if not peer.retiring)]
                if types:
                    self._lookout.look(name, lambda store: store.unknown_types(types), self._tell_unknown_types)
            case "fold":
                ledgers = self._carrier.ledgers
                names = ledgers.full_of(worker_id)
                if names:
                    self._lookout.look(name, lambda store: store.fold_ledgers(worker_id, names), lambda _: ledgers.folded(names))

    def _cancel(self, requests: Sequence[Lease]) -> None:
        """Stop what somebody wants cancelled."""
        held = {(holding.claim.task_id, holding.claim.fence): (peer, holding) for peer, holding in self._roster.held()}
        for lease in requests:
            if (lease.task_id, lease.fence) in held:
                self._watcher.cancel(*held[lease.task_id, lease.fence])

    def _tell_unknown_types(self, counts: Mapping[str, int]) -> None:
        """Warn of pending tasks that no executor here has a handler for."""
        for type_, count in counts.items():
            emit(log, logging.WARNING, Event.TASK_UNKNOWN_TYPE, "no handler here for pending tasks", type=type_, count=count)

    # ---- what nobody holds: claims whose reply was lost, or died with a claimer

    def _look_for_strays(self, worker_id: str) -> None:
        """What the database says is ours is compared with what is held here, now and when the answer comes.

        Not before every executor has said what it holds: one that is stuck in C cannot answer.
        """
        self.owed = self._roster.silent
        if not self.owed:
            known = self._known()
            self._lookout.look("reconcile", lambda store: store.owned(worker_id), lambda owned: self._doubt(owned, known))

    def _doubt(self, owned: Sequence[Owned], known: Collection[tuple[str, int]]) -> None:
        """A round that was under way meanwhile may have claimed some of it."""
        self.doubtful = [one.task_id for one in self._strays(owned) if (one.task_id, one.fence) not in known]

    def clear_doubts(self, worker_id: str) -> None:
        """Ask again, and give back what is still there. Only while no round is under way: its claims are ours before we know."""
        ids, self.doubtful = self.doubtful, []
        if ids:
            self._lookout.now(lambda store: store.owned(worker_id, ids), self._give_back)

    def _give_back(self, owned: Sequence[Owned]) -> None:
        unknown = [Lease(one.task_id, one.fence) for one in self._strays(owned)]
        if unknown:
            message = "ours in the database, held by nobody: given back"
            emit(log, logging.WARNING, Event.TASK_RELEASED, message, count=len(unknown))
            self._outbox.release(*unknown)

    def _strays(self, owned: Sequence[Owned]) -> list[Owned]:
        self._board.set("claimer_s", time.monotonic())
        known = self._known()
        return [one for one in owned if (one.task_id, one.fence) not in known]

    def _known(self) -> set[tuple[str, int]]:
        """Id and fence of what is held here."""
        return self._outbox.leases() | {(one.claim.task_id, one.claim.fence) for _peer, one in self._roster.held()}
