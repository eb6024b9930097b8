"""The worker's HTTP side: /health, /livez, /readyz and /metrics. Nothing else depends on it; it reads the board and the database.

Counters come from the database, where they are stored with what they count, so this process keeps none of its own.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from http import HTTPStatus
from typing import Any, Final

import msgspec

from shiftboss import __version__
from shiftboss.actors.health import Health, judge
from shiftboss.actors.messages import Died, LinkDown, Linked, Tick
from shiftboss.actors.outage import Outage
from shiftboss.actors.process import Process, ProcessActor
from shiftboss.actors.timer import Timer
from shiftboss.actors.web import Answer, Answers, WebServer
from shiftboss.control import Drain, Resume, Stop
from shiftboss.errors import StoreUnavailable
from shiftboss.events import Event, emit
from shiftboss.store.base import CounterDelta, Counts, Store
from shiftboss.store.open import open_store

log = logging.getLogger("shiftboss.gateway")
COUNTS_FRESH_S: Final = 5.0  # a scrape makes the database count pending tasks at most this often
READ_PATIENCE_S: Final = 2.0  # a scrape waits so long for the database, and then shows what was read before
JUDGE_EVERY_S: Final = 1.0  # or eight times between two heartbeats
EXIT_NO_ADDRESS: Final = 1


def _json(body: Mapping[str, object], *, well: bool = True) -> Answer:
    status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(body=msgspec.json.encode(body), content_type="application/json", status=status)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Gateway(ProcessActor):
    """Serves what others ask for, in one process with its own connection."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._store: Store | None = None  # opened by the thread that uses it
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")  # the store belongs to its thread
        self._outage = Outage(log, process.board)
        self._reading: Future[None] | None = None
        self._asking = threading.Lock()
        self._counters: Sequence[CounterDelta] = ()
        self._counts: Counts | None = None
        self._counted_s = 0.0
        self._quiet, self._pool_broken = "", False
        self._timer = Timer(lambda name: self.actor_ref.tell(Tick(name)))
        self._was_well, self._ill_since_s = False, 0.0

    def begin(self) -> None:
        fd = self.process.listen_fd
        listener = self._bind() if fd is None else self._take_over(fd)
        threading.Thread(target=self._serve, args=(listener,), name="shiftboss-http", daemon=True).start()
        emit(log, logging.INFO, Event.GATEWAY_LISTENING, url=_url(listener))
        self._judge()
        self.ready()

    def _bind(self) -> socket.socket:
        address = (self.settings.metrics_host, self.settings.metrics_port)
        try:
            family = socket.AF_INET6 if ":" in self.settings.metrics_host else socket.AF_INET
            return socket.create_server(address, family=family)
        except OSError as error:
            log.error(
                "cannot listen on %s:%d: %s. Is another worker or program there? Set METRICS_PORT (0 takes any free port)",
                *address,
                error.strerror,
            )
            self.process.end(EXIT_NO_ADDRESS)

    def _take_over(self, fd: int) -> socket.socket:
        """The socket that somebody opened for us; it outlives this process, so no connection is refused in between."""
        listener = socket.socket(fileno=fd)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listener.family not in (socket.AF_INET, socket.AF_INET6) or not listens:
            log.error("the socket that was passed is not one for TCP that listens: in the .socket unit, write ListenStream=PORT")
            self.process.end(EXIT_NO_ADDRESS)
        return listener

    def receive(self, message: Any) -> None:
        match message:
            case Stop():
                self.process.end(0)
            case Drain(why=why, broken=broken):
                self._quiet, self._pool_broken = why or "draining", broken
            case Resume():
                self._quiet, self._pool_broken = "", False
            case Tick(name="judge"):
                self._judge()
            case Linked() | LinkDown() | Died():
                pass
            case _:
                raise TypeError(f"the gateway does not know {message!r}")

    # ---- HTTP, each answer in a thread of its own

    def _serve(self, listener: socket.socket) -> None:
        WebServer(listener, self._answers()).serve()

    def _answers(self) -> Answers:
        return {"/health": self._get_health, "/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}

    def _health(self) -> Health:
        interval_s = self.settings.heartbeat_interval_s
        return judge(self.process.board, time.monotonic(), interval_s, quiet=self._quiet, pool_broken=self._pool_broken)

    def _get_health(self) -> Answer:
        """200 and "healthy" while heartbeats arrive and the claimer works; else 503 and why."""
        why = self._health().broken
        body = {
            "status": "unhealthy" if why else "healthy",
            "worker_id": self.process.board.worker_id,
            "version": __version__,
            "distributed": self.settings.distributed_mode,
        }
        return _json({**body, "reason": why} if why else body, well=not why)

    def _livez(self) -> Answer:
        """200 while this process answers: what else is wrong, a restart of the service would not cure."""
        return _json({"status": "alive"})

    def _readyz(self) -> Answer:
        """200 while this worker takes tasks; 503 and why while it drains, stops, is paused or is not healthy."""
        why = self._health().unready
        return _json({"status": "not ready", "reason": why} if why else {"status": "ready"}, well=not why)

    def _metrics(self) -> Answer:
        """The figures as they stand; while the database is away those of the last time, and without a long wait."""
        with self._asking:  # all who ask meanwhile wait for one reading
            if self._reading is None or self._reading.done():
                self._reading = self._reader.submit(self._read)
            reading = self._reading
        if wait({reading}, READ_PATIENCE_S).done:
            reading.result()  # what nobody foresaw is an error of this request
        return self._scraped()

    def _read(self) -> None:
        """In the reader's thread."""
        try:
            if self._store is None:
                self._store = open_store(
                    self.settings.database_url,
                    application_name=f"shiftboss {self.process.name}",
                    create=False,
                    memory=self.process.board,
                )
            self._counters = self._store.counters(self.process.board.worker_id)
            if time.monotonic() - self._counted_s > COUNTS_FRESH_S:
                self._counts = self._store.counts()
                self._counted_s = time.monotonic()
            self._outage.over()
        except StoreUnavailable as error:
            self._outage.wait_s(error)

    def _scraped(self) -> Answer:
        # Loaded when first scraped: it is a quarter of this process, which may be here for probes alone.
        from shiftboss.actors.metrics import CONTENT_TYPE, Sample, exposition

        board = self.process.board
        sample = Sample(
            worker_id=board.worker_id,
            health=self._health(),
            active=int(board.get("active")),
            capacity=int(board.get("capacity")),
            counters=self._counters,
            counts=self._counts,
        )
        return Answer(body=exposition(sample), content_type=CONTENT_TYPE)

    # ---- the log

    def _judge(self) -> None:
        self._timer.after("judge", min(JUDGE_EVERY_S, self.settings.heartbeat_interval_s / 8))
        self._tell_changes(self._health())

    def _tell_changes(self, health: Health) -> None:
        """One line when health is lost and one when it is back. Not while the service starts: nothing was there to lose."""
        now_s = time.monotonic()
        if not health.broken:
            if self._ill_since_s:
                emit(log, logging.WARNING, Event.HEALTH_REGAINED, duration_s=round(now_s - self._ill_since_s, 1))
            self._ill_since_s, self._was_well = 0.0, True
        elif self._was_well and not self._ill_since_s:
            self._ill_since_s = now_s
            emit(log, logging.ERROR, Event.HEALTH_LOST, health.broken, reason=health.broken)
