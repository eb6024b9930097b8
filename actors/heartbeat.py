"""Renews the worker's row, so that nobody recovers what this worker still runs; registers it anew when somebody has.

It starts first and stops last. At its start it makes the database fit to work with (migrates SQLite, checks PostgreSQL).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

from shiftboss import __version__
from shiftboss.actors.messages import Died, LinkDown, Linked, Tick
from shiftboss.actors.outage import Outage
from shiftboss.actors.process import Process, ProcessActor
from shiftboss.actors.timer import Timer
from shiftboss.config import Settings, redact
from shiftboss.control import EXIT_CONFIG, EXIT_UNREACHABLE, Drain, Report, Resume, Stop
from shiftboss.errors import StoreCorrupt, StoreError, StoreUnavailable
from shiftboss.events import Event, emit
from shiftboss.lease import TrustWindow
from shiftboss.model import WorkerView
from shiftboss.store.base import Store
from shiftboss.store.open import open_store

log = logging.getLogger("shiftboss.heartbeat")


class Heartbeat(ProcessActor):
    """Keeps this worker alive in the eyes of the others."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._timer = Timer(lambda name: self.actor_ref.tell(Tick(name)))
        self._outage = Outage(log, process.board, "beat_away_s")
        self._trust: TrustWindow | None = None
        self._missed: tuple[float, bool] | None = None  # when that was said last, and whether the worker was trusted then
        self._new_id = self._new_worker_id()
        self._give_up_s = 0.0

    def begin(self) -> None:
        try:
            self._store: Store = open_store(
                self.settings.database_url,
                application_name=f"shiftboss {self.process.name}",
                create=not self.process.board.worker_id,  # one of ours had it already: if it is gone now, it is not made anew
                memory=self.process.board,
            )
        except StoreError as error:
            self._cannot_work(error)
        if self.process.board.worker_id:
            self._go_on()
        else:
            self._start_anew()

    def _go_on(self) -> None:
        """The one before us died: go on under its name. If the database is away just now, that is waited out as ever."""
        self.ready()
        for name in ("queues", "beat"):
            self._timer.after(name, 0.0)

    def _start_anew(self) -> None:
        # Before the supervisor, which counts from the start of this process, takes us for hung.
        self._give_up_s = time.monotonic() - _age_s() + self.settings.start_timeout_s * 0.9
        self._open_database()

    def _opened(self) -> None:
        self._outage.over()
        if self.settings.enqueue_examples:
            self._enqueue_samples()
        self.ready()
        self._timer.after("beat", self._interval_s())

    def receive(self, message: Any) -> None:
        match message:
            case Tick(name="beat"):
                self._timer.after("beat", self._beat())
            case Tick(name="queues"):
                self._set_queues_again()
            case Tick(name="open"):
                self._open_database()
            case Stop():
                self._shut_down()
            case Linked() | LinkDown() | Died() | Drain() | Resume():
                pass
            case _:
                raise TypeError(f"the heartbeat does not know {message!r}")

    def dump(self) -> None:
        emit(log, logging.INFO, Event.ACTOR_STATE, worker_id=self.process.board.worker_id, trusted=self._trusted())

    def reloaded(self, old: Settings) -> None:
        """The row learns of a new timeout at once: the others go by it from then on, and so do we."""
        if not self.process.board.worker_id:
            return  # whoever opens the database goes by the new ones
        self._timer.after("beat", 0.0)
        if old.queues != self.settings.queues:
            self._timer.after("queues", 0.0)

    def leave(self) -> None:
        """The row stays: our successor goes on under the same name."""
        self._store.close()
        self.process.end(0)

    def _interval_s(self) -> float:
        return self.settings.heartbeat_interval_s

    # ---- at the start

    def _open_database(self) -> None:
        """Register there, and try again later while it is away, up to `start_timeout`; what waiting does not cure ends the
        service with its own code."""
        try:
            self._prepare()
            self._register(self._new_id, exclusive=not self.settings.distributed_mode)
        except StoreCorrupt as error:
            self._cannot_work(error)
        except StoreUnavailable as error:
            wait_s = self._outage.wait_s(error)
            if time.monotonic() + wait_s > self._give_up_s:
                log.critical("no database within start_timeout: %s", redact(str(error)))
                self.process.end(EXIT_UNREACHABLE)
            self.process.tell_parent(Report(status="waiting for the database"))
            self._timer.after("open", wait_s)
        except StoreError as error:
            self._cannot_work(error)
        else:
            self.process.tell_parent(Report(status=""))
            self._opened()

    def _cannot_work(self, error: StoreError) -> NoReturn:
        log.critical("cannot work with this database: %s", redact(str(error)))
        self.process.end(EXIT_CONFIG)

    def _prepare(self) -> None:
        if self.settings.database_url.startswith("sqlite"):
            plan = self._store.migrate()
            if plan.steps:
                emit(log, logging.INFO, Event.DATABASE_MIGRATED, from_version=plan.current, to_version=plan.target)
        self._store.check_schema()
        self._set_queues()

    def _set_queues(self) -> None:
        for name, queue in self.settings.queues.items():
            self._store.set_queue(name, concurrency=queue.concurrency, weight=queue.weight)

    def _new_worker_id(self) -> str:
        """A name that was ever another's would hide orphans."""
        return f"{socket.gethostname()}-{self.process.parent_pid}-{os.urandom(4).hex()}"

    def _register(self, worker_id: str, *, exclusive: bool) -> None:
        """Under the same id again when the outcome is unknown, or a row would stay behind that nobody renews."""
        now = self._store.now()
        worker = WorkerView(
            id=worker_id,
            hostname=socket.gethostname(),
            pid=self.process.parent_pid,
            version=__version__,
            started_at=now,
            last_heartbeat=now,
            pool_size=self.settings.worker_pool_size,
            active=0,
        )
        sent_s = time.monotonic()
        recovered = self._store.register(worker, self.settings.worker_timeout_s, exclusive)
        self._trusted_from(sent_s)
        self.process.board.worker_id = worker_id
        emit(log, logging.INFO, Event.WORKER_REGISTERED, worker_id=worker_id, recovered=recovered)

    def _enqueue_samples(self) -> None:
        from shiftboss.samples import sample_tasks  # rarely needed, so not loaded by every heartbeat

        tasks = sample_tasks()
        self._store.enqueue(tasks)
        emit(log, logging.INFO, Event.SAMPLES_ENQUEUED, count=len(tasks))

    # ---- beating

    def _beat(self) -> float:
        """Renew once; returns when to do it again, in seconds."""
        board, sent_s = self.process.board, time.monotonic()
        try:
            slots = int(board.get("capacity")) or self.settings.worker_pool_size
            if self._store.beat(board.worker_id, int(board.get("active")), slots, self.settings.worker_timeout_s):
                self._trusted_from(sent_s)
            else:
                emit(log, logging.ERROR, Event.WORKER_FENCED, "declared dead: registering anew", worker_id=board.worker_id)
                self._register(self._new_worker_id(), exclusive=False)
            self._outage.over()
            self._missed = None
            return self._interval_s()
        except StoreUnavailable as error:
            self._say_missed(error, time.monotonic(), self._trusted())
            return min(self._outage.wait_s(error), self._interval_s())

    def _say_missed(self, error: StoreUnavailable, now_s: float, trusted: bool) -> None:
        """Once for each heartbeat that there should have been, however often it is tried, and when trust ends."""
        if self._missed is None or now_s - self._missed[0] >= self._interval_s() or trusted != self._missed[1]:
            self._missed = now_s, trusted
            emit(log, logging.WARNING, Event.HEARTBEAT_MISSED, error=redact(str(error)), trusted=trusted)

    def _set_queues_again(self) -> None:
        try:
            self._set_queues()
        except StoreUnavailable as error:
            self._timer.after("queues", self._outage.wait_s(error))

    def _trusted_from(self, sent_s: float) -> None:
        # Anchored before the request was sent: a slow round trip must not stretch how long we trust it.
        self._trust = TrustWindow(sent_s, self.settings.worker_timeout_s)
        self.process.board.set("beat_s", sent_s)

    def _trusted(self) -> bool:
        return self._trust is not None and self._trust.trusted(time.monotonic())

    def _shut_down(self) -> None:
        try:
            if self.process.board.worker_id:
                self._store.deregister(self.process.board.worker_id)
        except StoreUnavailable as error:
            log.warning("could not remove this worker's row, it will expire: %s", redact(str(error)))
        self._store.close()
        self.process.end(0)


def _age_s() -> float:
    """Seconds since this process was started: the interpreter and its imports have taken some already."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
