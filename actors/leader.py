"""Elects one leader among the workers, which recovers orphans, removes dead workers and prunes.

Two leaders would be harmless (every row is guarded), the term makes them impossible to last: each write carries it.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from shiftboss.actors.messages import Died, LinkDown, Linked, Tick
from shiftboss.actors.outage import Outage
from shiftboss.actors.pace import Pace
from shiftboss.actors.process import Process, ProcessActor
from shiftboss.actors.timer import Timer
from shiftboss.config import Settings
from shiftboss.control import Drain, Resume, Stop
from shiftboss.errors import StoreUnavailable
from shiftboss.events import Event, emit
from shiftboss.lease import LeaderLease, TrustWindow
from shiftboss.store.base import TRACE_S, Recovered, Retention, Store
from shiftboss.store.open import open_store

log = logging.getLogger("shiftboss.leader")

RECOVER_LIMIT: Final = 500
PRUNE_LIMIT: Final = 5_000
AFTER_EXPIRY_S: Final = 0.05  # look again this long after something was to expire
LONGEST_WAIT_S: Final = 10.0


class Leader(ProcessActor):
    """Leads, or waits to."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._timer = Timer(lambda name: self.actor_ref.tell(Tick(name)))
        self._outage = Outage(log, process.board)
        self._lease: LeaderLease | None = None
        self._trust = TrustWindow(0.0, 0.0)
        self._pace = Pace()  # of the looks for the dead

    def begin(self) -> None:
        self._store: Store = open_store(
            self.settings.database_url,
            application_name=f"shiftboss {self.process.name}",
            create=False,
            memory=self.process.board,
        )
        for name in ("lead", "recover", "prune"):
            self._timer.after(name, 0.0)
        self.ready()

    def receive(self, message: Any) -> None:
        match message:
            case Tick(name=name):
                self._tick(name)
            case Stop():
                self.leave()
            case Linked() | LinkDown() | Died() | Drain() | Resume():
                pass
            case _:
                raise TypeError(f"the leader does not know {message!r}")

    def dump(self) -> None:
        emit(log, logging.INFO, Event.ACTOR_STATE, lease=str(self._lease))

    def reloaded(self, old: Settings) -> None:
        if old.leader_term_s != self.settings.leader_term_s:
            self._timer.after("lead", 0.0)  # a shorter term must hold in the database before we renew it more seldom
        self._timer.sooner("prune", self.settings.cleanup_interval_s)

    def _tick(self, name: str) -> None:
        try:
            if name == "lead":
                next_in_s = self._lead()
            elif (lease := self._leading()) is None:  # asks nothing, and so learns nothing of the database
                self._timer.sooner(name, LONGEST_WAIT_S if name == "recover" else self.settings.cleanup_interval_s)
                return
            else:
                next_in_s = self._recover(lease) if name == "recover" else self._prune(lease)
            self._timer.sooner(name, next_in_s)
            self._outage.over()
        except StoreUnavailable as error:
            # Whatever was under way has an unknown end: not leader until that is confirmed.
            self._lose("the database cannot be reached")
            self._timer.sooner(name, self._outage.wait_s(error))

    # ---- the lead

    def _lead(self) -> float:
        """Renew our term or try to get one; returns when to do so again, in seconds."""
        worker_id, sent_s = self.process.board.worker_id, time.monotonic()
        if self._lease is not None and self._lease.worker_id == worker_id:
            if self._store.renew(self._lease, self.settings.leader_term_s):
                self._trust = TrustWindow(sent_s, self.settings.leader_term_s)
                return self.settings.leader_term_s / 3
            self._lose("the term ran out")
        elif self._lease is not None:
            self._lose("this worker was declared dead")
        return self._elect(worker_id, sent_s)

    def _elect(self, worker_id: str, sent_s: float) -> float:
        election = self._store.elect(worker_id, self.settings.leader_term_s)
        if election.lease is None:
            return min(election.retry_in_s + AFTER_EXPIRY_S, LONGEST_WAIT_S)
        self._lease, self._trust = election.lease, TrustWindow(sent_s, self.settings.leader_term_s)
        emit(log, logging.INFO, Event.LEADER_ELECTED, term=election.lease.term, worker_id=worker_id)
        self._timer.after("recover", 0.0)
        return self.settings.leader_term_s / 3

    def _lose(self, why: str) -> None:
        if self._lease is not None:
            emit(log, logging.WARNING, Event.LEADER_LOST, why, term=self._lease.term)
            self._lease = None

    def _leading(self) -> LeaderLease | None:
        return self._lease if self._lease is not None and self._trust.trusted(time.monotonic()) else None

    # ---- duties of who leads, each returns when it is due again, in seconds

    def _recover(self, lease: LeaderLease) -> float:
        began_s = time.monotonic()
        recovered = self._store.recover(lease, RECOVER_LIMIT)
        self._tell(recovered)
        if recovered.pending + recovered.dead_letter >= RECOVER_LIMIT:
            return 0.0
        if not (recovered.workers or recovered.pending or recovered.dead_letter):  # what is found was worth its time
            now_s = time.monotonic()
            self._pace.taken(now_s, now_s - began_s)
        next_in_s = recovered.next_in_s if recovered.next_in_s is not None else LONGEST_WAIT_S
        return max(min(max(next_in_s, 0.0) + AFTER_EXPIRY_S, LONGEST_WAIT_S), self._pace.pause_s)

    def _tell(self, recovered: Recovered) -> None:
        for worker_id in recovered.workers:
            emit(log, logging.WARNING, Event.WORKER_REMOVED, "no heartbeat within its timeout", worker_id=worker_id)
        if recovered.pending or recovered.dead_letter:
            emit(
                log,
                logging.WARNING,
                Event.TASK_RECOVERED,
                "tasks of dead workers",
                pending=recovered.pending,
                dead_letter=recovered.dead_letter,
            )

    def _prune(self, lease: LeaderLease) -> float:
        settings = self.settings
        retention = Retention(
            # Of those that keep a history, or did until now: an end may be sent again for as long as a trace is kept.
            completed_s=settings.completed_retention_s if settings.keeps_completed else TRACE_S,
            cancelled_s=settings.cancelled_retention_s,
            dead_letter_s=settings.dead_letter_retention_s,
            result_s=settings.result_retention_s,
        )
        pruned = self._store.prune(lease, retention, PRUNE_LIMIT)
        if pruned:
            emit(log, logging.INFO, Event.TASKS_PRUNED, count=pruned)
        return 0.1 if pruned >= PRUNE_LIMIT else settings.cleanup_interval_s

    def leave(self) -> None:
        """Resign, so that another worker, or our successor, leads at once and not when our term has run out."""
        if self._lease is not None:
            try:
                self._store.resign(self._lease)
                emit(log, logging.INFO, Event.LEADER_RESIGNED, term=self._lease.term)
            except StoreUnavailable as error:
                log.warning("could not resign, the term will run out: %s", error)
        self._store.close()
        self.process.end(0)
