"""The worker's HTTP side: /health, /livez, /readyz and /metrics. Nothing else depends on it; it reads the board and the database.

Counters come from the database, where they are stored with what they count, so this process keeps none of its own.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shiftboss import __version__
from shiftboss.actors.health import Health, judge
from shiftboss.actors.messages import Died, LinkDown, Linked, Tick
from shiftboss.actors.process import Process, ProcessActor
from shiftboss.actors.timer import Timer
from shiftboss.actors.web import Answer, Answers, serve
from shiftboss.control import Drain, Resume, Stop
from shiftboss.events import Event, emit

if TYPE_CHECKING:
    from shiftboss.actors.scrape import Scraper

log = logging.getLogger("shiftboss.gateway")
JUDGE_EVERY_S: Final = 1.0  # or eight times between two heartbeats
EXIT_NO_ADDRESS: Final = 1


def _json(body: Mapping[str, object], *, well: bool = True) -> Answer:
    return Answer(body=msgspec.json.encode(body), content_type="application/json", status=200 if well else 503)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Gateway(ProcessActor):
    """Serves what others ask for, in one process with its own connection."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._scraper: Scraper | None = None
        self._first_scrape = threading.Lock()
        self._quiet, self._pool_broken = "", False
        self._timer = Timer(lambda name: self.actor_ref.tell(Tick(name)))
        self._was_well, self._ill_since_s = False, 0.0

    def begin(self) -> None:
        fd = self.process.listen_fd
        listener = self._bind() if fd is None else self._take_over(fd)
        threading.Thread(target=serve, args=(listener, self._answers()), name="shiftboss-http", daemon=True).start()
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
        return self._scraping().answer(self._health)

    def _scraping(self) -> Scraper:
        with self._first_scrape:
            if self._scraper is None:
                # Loaded when first scraped: it is a quarter of this process, which may be here for probes alone.
                from shiftboss.actors.scrape import Scraper

                self._scraper = Scraper(self.process, self.settings.database_url)
            return self._scraper

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
