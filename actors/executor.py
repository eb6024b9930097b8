"""Runs handlers and reports their outcomes; the only process that imports user code.

Knows no database. It keeps every outcome until the claimer has said that it is stored, so a claimer that dies costs nothing:
the next one is told what is held here.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any

from shiftboss.actors.handlers import CannotImport, load_handlers, raised_by_them
from shiftboss.actors.link import PeerRef
from shiftboss.actors.messages import (
    CancelAll,
    CancelAttempt,
    Died,
    Execute,
    Finished,
    FromPeer,
    Held,
    Hello,
    LinkDown,
    Linked,
    ProgressMade,
    Recall,
    Returned,
    Stopping,
    Tick,
    ToExecutor,
)
from shiftboss.actors.outcomes import Outcomes
from shiftboss.actors.process import EXIT_BUG, Process, ProcessActor
from shiftboss.actors.running import Job, Pool
from shiftboss.actors.table import Table
from shiftboss.actors.timer import Timer
from shiftboss.actors.wear import LOOK_EVERY_S, Wear, memory_bytes
from shiftboss.catalog import registry
from shiftboss.control import Drain, Resume, Stop, Tired
from shiftboss.errors import TaskDefinitionError
from shiftboss.events import Event, emit
from shiftboss.model import Claim, Ended, Progress

log = logging.getLogger("shiftboss.executor")
PROGRESS_EVERY_S = 1.0
THREADS_AGAIN_S = 0.5  # after a thread could not be started


class Executor(ProcessActor):
    """One process of slots."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        assert process.table_fd is not None
        self._table = Table(process.table_fd)
        board, slots = process.board, int(process.arguments[0].removeprefix("slots="))
        self._outcomes = Outcomes(self._send_outcomes, lambda: self._pool.backlog())
        self._pool = Pool(
            slots,
            self._table,
            lambda: board.worker_id,
            self._outcomes.put,
            self._on_progress,
            self._on_short,
            self._outcomes.hurry,
        )
        self._claimer: PeerRef[ToExecutor] | None = None
        self._claimer_incarnation = 0
        self._next_link: Linked | None = None
        self._lock = threading.Lock()
        self._progress: dict[str, Progress] = {}
        self._timer = Timer(lambda name: self.actor_ref.tell(Tick(name)))
        self._wear = Wear(self.settings)
        self._done = 0
        self._tired = False
        self._short = ""

    def begin(self) -> None:
        try:
            load_handlers(self.settings)
        except (CannotImport, TaskDefinitionError) as error:  # a mistake in somebody's code, not a bug of ours
            log.critical("%s", error, exc_info=raised_by_them(error))
            self.process.end(EXIT_BUG)
        self._started_s = time.monotonic()
        self._wear.start(memory_bytes())
        if self._wear.limited:
            self._timer.after("wear", LOOK_EVERY_S)
        self.ready()

    def receive(self, message: Any) -> None:
        match message:
            case FromPeer(message=order):
                self._obey(order)
            case Linked():
                self._link(message)
            case LinkDown(incarnation=incarnation):
                self._link_down(incarnation)
            case Tick(name="progress"):
                self._send_progress()
            case Tick(name="wear"):
                self._look_for_wear()
            case Tick(name="threads"):
                self._find_threads()
            case Stop():
                self.process.end(0)
            case Drain() | Resume() | Died():
                pass  # the claimer sends nothing while it is quiet; its death shows as the end of the link
            case _:
                raise TypeError(f"an executor does not know {message!r}")

    def dump(self) -> None:
        held = len(self._pool.waiting())
        outbox = len(self._pool.jobs) - held
        emit(log, logging.INFO, Event.ACTOR_STATE, slots=self._pool.slots, held=held, outbox=outbox)

    def _look_for_wear(self) -> None:
        """Once worn out, say so once: the successor comes first, so there is no hurry."""
        if self._tired:
            return
        reason = self._wear.reason(self._done, time.monotonic() - self._started_s, memory_bytes())
        if reason is None:
            self._timer.sooner("wear", LOOK_EVERY_S)
        else:
            self._ask_for_successor(reason)

    def _ask_for_successor(self, reason: str) -> None:
        self._tired = True
        self.process.tell_parent(Tired(reason=reason))

    def _find_threads(self) -> None:
        """For tasks that could not start, and for a claimer that could not be listened to. The limit may be this process's own,
        so a successor may have more luck; until then what runs goes on: our death would be charged to it."""
        if self._claimer is None and self._next_link is not None:
            self._link(self._next_link)
        linked = self._claimer is not None or self._next_link is None
        if not (self._pool.refill() and linked) and not self._tired:
            emit(log, logging.WARNING, Event.EXECUTOR_SHORT_OF_THREADS, self._short, reason=self._short, slots=self._pool.slots)
            self._ask_for_successor("short of threads")

    def _obey(self, order: Any) -> None:
        match order:
            case Execute(stored=stored, cells=cells, claims=claims):
                self._pool.forget(stored)
                tasks = {name: registry.get(name) for name in {claim.type for claim in claims}}
                self._pool.submit([Job(cell, claim, tasks[claim.type]) for cell, claim in zip(cells, claims, strict=True)])
                if self._wear.out_of_tasks(self._done):
                    self._look_for_wear()
            case Recall(cells=cells):
                self._give_back(self._pool.take_back(None if cells is None else set(cells)))
            case CancelAttempt(cell=cell, reason=reason):
                self._pool.cancel(cell, reason)
            case CancelAll(reason=reason):
                self._give_back(self._pool.take_back(None))
                self._pool.cancel_all(reason)
            case Stopping():
                self._pool.stopping()

    def _give_back(self, jobs: list[Job]) -> None:
        if jobs:
            self._tell(Returned([job.cell for job in jobs]))

    # ---- the link

    def _link(self, linked: Linked) -> None:
        """A claimer is there. What the one before has sent is read to its end first, so that nothing is left out of Hello."""
        if self._next_link is not None and self._next_link is not linked:
            os.close(self._next_link.socket_fd)  # of one that has come and gone
        self._next_link = linked
        if self._claimer is not None:
            return
        incarnation, sock = linked.link.incarnation, socket.socket(fileno=linked.socket_fd)
        try:
            self._claimer = PeerRef[ToExecutor](
                sock,
                ToExecutor,
                lambda order: self._pass_on(FromPeer("claimer", incarnation, order)),
                lambda: self._pass_on(LinkDown("claimer", incarnation)),
            )
        except (RuntimeError, MemoryError) as error:  # no thread for it; what runs here goes on, and is told later
            sock.detach()
            self._on_short(str(error) or type(error).__name__)
            return
        self._next_link, self._claimer_incarnation = None, incarnation
        self._claimer.tell(Hello(self._pool.slots, registry.types(), self._held()))

    def _pass_on(self, message: FromPeer | LinkDown) -> None:
        self.actor_ref.tell(message)

    def _link_down(self, incarnation: int) -> None:
        if incarnation != self._claimer_incarnation:
            return
        self._claimer = None
        if self._next_link is not None:
            self._link(self._next_link)

    def _held(self) -> list[Held]:
        return [Held(job.cell, job.claim, job.ended) for job in self._pool.jobs.values()]

    def _tell(self, message: Any) -> None:
        if self._claimer is not None:
            self._claimer.tell(message)

    # ---- called in the threads that run attempts

    def _send_outcomes(self, cells: list[int], ended: list[Ended]) -> None:
        self._done += len(cells)
        self.process.end_without_line()  # by a system call, so once for all of them
        self._tell(Finished(cells, ended))

    def _on_short(self, why: str) -> None:
        self._short = why
        self._timer.sooner("threads", THREADS_AGAIN_S)

    def _on_progress(self, claim: Claim, percent: float, note: str) -> None:
        with self._lock:
            first = not self._progress
            self._progress[claim.task_id] = Progress(task_id=claim.task_id, fence=claim.fence, percent=percent, note=note)
        if first:
            self._timer.sooner("progress", PROGRESS_EVERY_S)

    def _send_progress(self) -> None:
        with self._lock:
            progress, self._progress = list(self._progress.values()), {}
        if progress:
            self._tell(ProgressMade(progress))
