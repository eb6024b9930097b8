"""The gateway's HTTP, on the standard library's server: GET and HEAD, one answer a connection, a thread for each while it lasts.

What that server leaves to others is seen to here: clients that say nothing, too many of them, no descriptors left.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Any, Final

from shiftboss.actors.web import Answer, Answers

log = logging.getLogger("shiftboss.gateway")

MAX_CONNECTIONS: Final = 64
SILENCE_S: Final = 5.0  # a client has so long for each part of its request, and to take each part of the answer
NO_ROOM_PAUSE_S: Final = 0.5
_FOR_EVER_S: Final = 3600.0
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SILENCE_S
    server: WebServer

    def do_GET(self) -> None:
        self._give(self._made())

    def do_HEAD(self) -> None:
        self._give(self._made(), with_body=False)

    def do_POST(self) -> None:
        known = self._path() in self.server.answers
        self._give(_error(HTTPStatus.METHOD_NOT_ALLOWED, allow="GET, HEAD") if known else _error(HTTPStatus.NOT_FOUND))

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST  # noqa: N815  names that the server looks for

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _made(self) -> Answer:
        make = self.server.answers.get(self._path())
        if make is None:
            return _error(HTTPStatus.NOT_FOUND)
        try:
            return make()
        except Exception:  # of one request, which must not end the others
            log.exception("%s failed", self._path())
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _give(self, answer: Answer, *, with_body: bool = True) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.allow:
            self.send_header("Allow", answer.allow)
        self.send_header("Connection", "close")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        return "shiftboss"  # and not which Python

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What is no request is answered as any other, and not in the HTTP of 1991 with a page."""
        self.request_version, self.command = self.protocol_version, ""
        self._give(_error(HTTPStatus(code)))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the server's name for it
        """Probes and scrapes are no news."""


def _error(status: HTTPStatus, allow: str = "") -> Answer:
    return Answer(status=status, body=status.phrase.encode(), allow=allow)


class WebServer(ThreadingMixIn, TCPServer):
    """Answers on one listening socket.

    Args:
        answers: path -> what makes the answer, called in the request's own thread; may raise: a 500 and a line in the log.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, answers: Answers, max_connections: int = MAX_CONNECTIONS) -> None:
        BaseServer.__init__(self, listener.getsockname(), _Request)
        self.socket, self.answers, self._max = listener, answers, max_connections
        self._open: dict[socket.socket, None] = {}  # oldest first
        self._lock = threading.Lock()
        self._pause = threading.Event()

    def serve(self, poll_s: float = _FOR_EVER_S) -> None:
        """Answer until `shutdown()` is called, which is looked at every `poll_s`."""
        self.serve_forever(poll_s)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._pause.wait(NO_ROOM_PAUSE_S)  # who knocks waits in the kernel: asking again at once would only burn time
            raise  # the server goes on with the next

    def process_request(self, request: Any, client_address: Any) -> None:
        """The oldest gives way when there are too many: who asks properly is answered within a few seconds."""
        with self._lock:
            if len(self._open) >= self._max:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # ends it for the thread that waits for it
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that has gone, or no thread to be had for this one."""
        log.debug("a request from %s was not answered", client_address, exc_info=True)
