"""The little HTTP that the gateway needs: GET and HEAD, one answer a connection, a thread for each while it lasts.

No framework: an event loop, a server and a router cost 8 MiB and 0.15 s of CPU at every start, for probes and scrapes; the
standard library's own server 3 MiB, most of it for headers that nobody here reads. What must not happen to a service is seen to:
clients that say nothing, too many of them, no descriptors left.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

log = logging.getLogger("shiftboss.gateway")

MAX_CONNECTIONS: Final = 64
SILENCE_S: Final = 5.0  # a client has so long for its request, and so long to take each part of the answer
MAX_HEAD_BYTES: Final = 16_384
LINGER_S: Final = 1.0  # so long it may take to read our answer, when it goes on sending what nobody wanted
NO_ROOM_PAUSE_S: Final = 0.5
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request gets."""

    body: bytes
    content_type: str = _TEXT
    status: HTTPStatus = HTTPStatus.OK
    allow: str = ""  # methods, with a 405


Answers = Mapping[str, Callable[[], Answer]]


class WebServer:
    """Answers on one listening socket, for ever.

    Args:
        answers: path -> what makes the answer, called in the request's own thread; may raise: a 500 and a line in the log.
    """

    def __init__(self, listener: socket.socket, answers: Answers, max_connections: int = MAX_CONNECTIONS) -> None:
        self._listener, self._answers, self._max = listener, answers, max_connections
        self._open: dict[socket.socket, None] = {}  # oldest first
        self._lock = threading.Lock()
        self._pause = threading.Event()

    def serve(self) -> None:
        """Accept connections until the process ends.

        Raises:
            OSError: the listening socket cannot be used any more.
        """
        self._listener.setblocking(True)
        while True:
            try:
                connection, _address = self._listener.accept()
            except ConnectionError:
                continue  # it has gone while it waited
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._pause.wait(NO_ROOM_PAUSE_S)  # who knocks waits in the kernel: asking again at once would only burn time
                continue
            self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        self._make_room()
        with self._lock:
            self._open[connection] = None
        try:
            threading.Thread(target=self._talk, args=(connection,), name="http", daemon=True).start()
        except RuntimeError:  # no thread to be had
            self._end(connection)
            self._pause.wait(NO_ROOM_PAUSE_S)

    def _make_room(self) -> None:
        """The oldest gives way: who asks properly is answered within a few seconds, so it is one who does not."""
        with self._lock:
            if len(self._open) >= self._max:
                oldest = next(iter(self._open))
                del self._open[oldest]
                _cut(oldest)

    def _talk(self, connection: socket.socket) -> None:
        try:
            method, path = _read_request(connection)
            connection.settimeout(SILENCE_S)
            connection.sendall(_written(self._answer(method, path), with_body=method != "HEAD"))
            _linger(connection)
        except OSError:
            pass  # the client has gone
        finally:
            self._end(connection)

    def _answer(self, method: str, path: str) -> Answer:
        if not method:
            return _error(HTTPStatus.BAD_REQUEST)
        make = self._answers.get(path)
        if make is None:
            return _error(HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, allow="GET, HEAD")
        try:
            return make()
        except Exception:  # of one request, which must not end the others
            log.exception("%s failed", path)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)
        connection.close()


def _error(status: HTTPStatus, allow: str = "") -> Answer:
    return Answer(status=status, body=status.phrase.encode(), allow=allow)


def _cut(connection: socket.socket) -> None:
    """End it for the thread that is waiting for it, which closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _linger(connection: socket.socket) -> None:
    """Let the client read before we close: what it has sent beyond its request would make the kernel throw our answer away."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(LINGER_S)
    for _ in range(16):
        if not connection.recv(65_536):
            return


def _read_request(connection: socket.socket) -> tuple[str, str]:
    """Method and path; what else stands in the head means nothing here, and a body is not read.

    Raises:
        OSError: nothing that is a request came in time.
    """
    give_up_s, head = time.monotonic() + SILENCE_S, b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        connection.settimeout(max(0.001, give_up_s - time.monotonic()))  # for all of it: not a byte now and then for ever
        some = connection.recv(MAX_HEAD_BYTES)
        head += some
        if not some or len(head) > MAX_HEAD_BYTES or time.monotonic() > give_up_s:
            raise ConnectionAbortedError("no request")
    words = head.partition(b"\n")[0].decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return "", ""
    return words[0], words[1].partition("?")[0]


def _written(answer: Answer, *, with_body: bool) -> bytes:
    head = {
        "Content-Type": answer.content_type,
        "Content-Length": str(len(answer.body)),
        "Connection": "close",
    }
    if answer.allow:
        head["Allow"] = answer.allow
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    first = f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
    return f"{first}{lines}\r\n".encode("latin-1") + (answer.body if with_body else b"")
