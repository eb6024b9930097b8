"""Looks at tasks that are not over at once.

Writes their starts, enforces timeouts and cancels, and calls back what waits too long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from shiftboss.actors.messages import CancelAll, CancelAttempt, Recall
from shiftboss.actors.outbox import Outbox
from shiftboss.actors.peers import Holding, Peer
from shiftboss.control import Replace
from shiftboss.model import Lease, TypeInfo

START_STORED_AFTER_S: Final = 0.25  # an attempt that ends sooner is never written as running
RECALL_AFTER_S: Final = 0.4  # unstarted for longer: someone else may have a free slot


class Watcher:
    """The claimer's eye on its executors.

    Args:
        replace: asks the parent to kill and start anew an executor.

    Attributes:
        grace_s: how long an attempt may take to stop after it was asked to; may change.
    """

    def __init__(self, outbox: Outbox, types: Mapping[str, TypeInfo], replace: Callable[[Replace], None], grace_s: float) -> None:
        self._outbox, self._types, self._replace = outbox, types, replace
        self.grace_s = grace_s

    def look(self, peer: Peer) -> None:
        """One look at one executor."""
        now_s = time.monotonic()
        overdue = [holding for holding in peer.older_than(now_s - START_STORED_AFTER_S) if self._look_at(peer, holding, now_s)]
        if overdue and peer.usable:
            peer.ref.tell(Recall([holding.cell for holding in overdue]))
        self._replace_if_stuck(peer, now_s)

    def _look_at(self, peer: Peer, holding: Holding, now_s: float) -> bool:
        """Whether the task should be called back."""
        started_ns = peer.started_ns(holding)
        if not started_ns:
            overdue = now_s - holding.dispatched_s > RECALL_AFTER_S and not holding.recalled
            holding.recalled = holding.recalled or overdue
            return overdue
        if not holding.start_stored:
            holding.start_stored = True
            self._outbox.start(Lease(holding.claim.task_id, holding.claim.fence))
        if holding.cancel_reason is not None and not holding.asked:
            self._ask_to_stop(peer, holding, holding.cancel_reason)  # it was quicker than the recall
        timeout_s = holding.claim.timeout_s
        if timeout_s is not None and holding.cancel_reason is None and now_s - started_ns / 1e9 > timeout_s:
            self._ask_to_stop(peer, holding, "timeout")
        return False

    def cancel(self, peer: Peer, holding: Holding) -> None:
        """Somebody wants this task cancelled: stop it, or call it back when it has not started."""
        if holding.cancel_reason is not None:
            return
        if peer.started_ns(holding):
            self._ask_to_stop(peer, holding, "cancel")
        else:
            holding.cancel_reason, holding.cancelled_s = "cancel", time.monotonic()
            peer.ref.tell(Recall([holding.cell]))

    def fence(self, peers: Iterable[Peer]) -> None:
        """Every attempt is to stop: its task may run elsewhere now."""
        now_s = time.monotonic()
        for peer in peers:
            peer.ref.tell(CancelAll("fenced"))
            for holding in peer.holdings.values():
                holding.cancel_reason, holding.cancelled_s = holding.cancel_reason or "fenced", now_s
                holding.asked = True

    def _ask_to_stop(self, peer: Peer, holding: Holding, reason: str) -> None:
        """Past the grace the process will be replaced, so nothing new goes to one that runs this in a thread."""
        holding.cancel_reason, holding.cancelled_s, holding.asked = reason, time.monotonic(), True
        peer.ref.tell(CancelAttempt(holding.cell, reason))
        info = self._types.get(holding.claim.type)
        if info is None or not info.is_async:
            peer.accepting, peer.replacing = False, True
            peer.ref.tell(Recall())

    def _replace_if_stuck(self, peer: Peer, now_s: float) -> None:
        for holding in peer.holdings.values():
            if holding.cancel_reason and now_s - holding.cancelled_s > self.grace_s:
                reason = f"{holding.cancel_reason} of task {holding.claim.task_id} ({holding.claim.type})"
                peer.accepting = False
                self._replace(Replace(peer=peer.name, incarnation=peer.incarnation, reason=reason))
                return
