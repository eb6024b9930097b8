"""The worker's HTTP side: /health, /livez, /readyz and /metrics. Nothing else depends on it; it reads the board and the database.

Counters come from the database, where they are stored with what they count, so this process keeps none of its own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any, Final

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shiftboss.actors.messages import Died, LinkDown, Linked, Tick
from shiftboss.actors.metrics import Sample, SampleCollector
from shiftboss.actors.outage import Outage
from shiftboss.actors.process import Process, ProcessActor
from shiftboss.control import Drain, Resume, Stop
from shiftboss.errors import StoreUnavailable
from shiftboss.events import Event, emit
from shiftboss.store.base import Counts, Store
from shiftboss.store.open import open_store

log = logging.getLogger("shiftboss.gateway")
COUNTS_FRESH_S: Final = 5.0  # a scrape makes the database count pending tasks at most this often
EXIT_NO_ADDRESS: Final = 1


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
        self._collector = SampleCollector()
        self._registry = CollectorRegistry()
        self._registry.register(self._collector)
        self._counts: Counts | None = None
        self._counted_s = 0.0
        self._version = metadata.version("shiftboss")
        self._quiet_because: str | None = None

    def begin(self) -> None:
        fd = self.process.listen_fd
        listener = self._bind() if fd is None else self._take_over(fd)
        threading.Thread(target=self._serve, args=(listener,), name="shiftboss-http", daemon=True).start()
        emit(log, logging.INFO, Event.GATEWAY_LISTENING, url=_url(listener))
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
            case Drain(why=why):
                self._quiet_because = why or "draining"
            case Resume():
                self._quiet_because = None
            case Tick() | Linked() | LinkDown() | Died():
                pass
            case _:
                raise TypeError(f"the gateway does not know {message!r}")

    # ---- HTTP

    def _serve(self, listener: socket.socket) -> None:
        answers = {"/health": self._health, "/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        app = Starlette(routes=[Route(path, answer, methods=["GET"]) for path, answer in answers.items()])
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False, loop="uvloop")
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it starts and stops: that is in our own events
        server = uvicorn.Server(config)
        # Signals are the supervisor's business.
        asyncio.run(server._serve(sockets=[listener]))
        self.process.end(0)

    async def _health(self, _request: Request) -> JSONResponse:
        """200 and "healthy" while heartbeats arrive and the claimer reaches the database; else 503 and why."""
        why = self._ill()
        body = {
            "status": "unhealthy" if why else "healthy",
            "worker_id": self.process.board.worker_id,
            "version": self._version,
            "distributed": self.settings.distributed_mode,
        }
        return JSONResponse({**body, "reason": why} if why else body, status_code=503 if why else 200)

    async def _livez(self, _request: Request) -> JSONResponse:
        """200 while this process answers: what else is wrong, a restart of the service would not cure."""
        return JSONResponse({"status": "alive"})

    async def _readyz(self, _request: Request) -> JSONResponse:
        """200 while this worker takes tasks; 503 and why while it drains, stops, is paused or is not healthy."""
        why = self._quiet_because or self._ill()
        body = {"status": "not ready", "reason": why} if why else {"status": "ready"}
        return JSONResponse(body, status_code=503 if why else 200)

    def _ill(self) -> str | None:
        now_s, board = time.monotonic(), self.process.board
        beat_s, claimer_s = now_s - board.get("beat_s"), now_s - board.get("claimer_s")
        if beat_s > 2 * self.settings.heartbeat_interval_s:
            return f"no heartbeat stored for {beat_s:.0f} s"
        if claimer_s > 2 * self.settings.heartbeat_interval_s:
            return f"the claimer has not reached the database for {claimer_s:.0f} s"
        return None

    async def _metrics(self, _request: Request) -> Response:
        body = await asyncio.get_running_loop().run_in_executor(self._reader, self._scrape)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    def _scrape(self) -> bytes:
        """The figures as they stand; those of the last time while the database is away."""
        self._read()
        return generate_latest(self._registry)

    def _read(self) -> None:
        board, last = self.process.board, self._collector.sample
        counters = last.counters if last is not None else ()
        try:
            if self._store is None:
                self._store = open_store(
                    self.settings.database_url, application_name=f"shiftboss {self.process.name}", create=False
                )
            counters = self._store.counters(board.worker_id)
            if time.monotonic() - self._counted_s > COUNTS_FRESH_S:
                self._counts = self._store.counts()
                self._counted_s = time.monotonic()
            self._outage.over()
        except StoreUnavailable as error:
            self._outage.wait_s(error)
        self._collector.sample = Sample(
            worker_id=board.worker_id,
            active=int(board.get("active")),
            capacity=int(board.get("capacity")),
            counters=counters,
            counts=self._counts,
        )
