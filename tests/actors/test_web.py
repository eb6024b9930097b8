"""The gateway's HTTP on a real socket: what clients may do to it, and that others are answered meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from shiftboss.actors import webserver
from shiftboss.actors.web import Answer
from shiftboss.actors.webserver import WebServer

BIG = b"x" * 300_000
Talk = Callable[[bytes], bytes]


def fails() -> Answer:
    raise ValueError("a mistake of ours")


ANSWERS = {"/well": lambda: Answer(body=b"fine"), "/big": lambda: Answer(body=BIG), "/fails": fails}


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = WebServer(listener, ANSWERS, max_connections=4)
        served = threading.Thread(target=server.serve, args=(0.02,), daemon=True)
        served.start()
        yield listener.getsockname()
        server.shutdown()
        served.join(10)
        assert not served.is_alive()


@pytest.fixture
def talk(address: tuple[str, int]) -> Talk:
    """Say something on a connection of its own; everything that is answered until its end."""

    def said(text: bytes) -> bytes:
        with socket.create_connection(address, 10) as connection:
            connection.sendall(text)
            return everything(connection)

    return said


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_one_answer_and_the_end_of_the_connection(talk: Talk) -> None:
    head, _, body = talk(b"GET /well HTTP/1.1\r\nHost: here\r\n\r\n").partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK" and body == b"fine"
    assert {b"Content-Length: 4", b"Connection: close"} <= set(lines)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /well?pretty=1 HTTP/1.0", b"200 OK"),
        (b"GET /nowhere HTTP/1.1", b"404 Not Found"),
        (b"POST /well HTTP/1.1", b"405 Method Not Allowed"),
        (b"GET /fails HTTP/1.1", b"500 Internal Server Error"),
        (b"GET /well HTTP/9.9.9", b"400 Bad Request"),
        (b"\x00\xff nonsense", b"400 Bad Request"),
    ],
)
def test_what_is_asked_for_decides_the_status(talk: Talk, request_line: bytes, status: bytes) -> None:
    assert talk(request_line + b"\r\n\r\n").startswith(b"HTTP/1.1 " + status + b"\r\n")


def test_head_is_the_same_without_the_body(talk: Talk) -> None:
    assert talk(b"HEAD /well HTTP/1.1\r\n\r\n") == talk(b"GET /well HTTP/1.1\r\n\r\n").removesuffix(b"fine")


def test_a_method_that_is_refused_is_told_which_are_not(talk: Talk) -> None:
    assert b"\r\nAllow: GET, HEAD\r\n" in talk(b"DELETE /well HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("line", [b"X-Header: and one more\r\n", b"x" * 100])
def test_a_head_that_never_ends_is_cut_off(address: tuple[str, int], line: bytes) -> None:
    with socket.create_connection(address, 10) as endless:
        read = b""
        with suppress(ConnectionError):
            for _ in range(100):
                endless.sendall(line * 100)
            read = everything(endless)
        assert read == b"" or read.startswith(b"HTTP/1.1 4")


def test_who_says_nothing_is_hung_up_on(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webserver._Request, "timeout", 0.2)
    with socket.create_connection(address, 10) as silent:
        assert everything(silent) == b""


def test_the_oldest_gives_way_to_who_asks_properly(address: tuple[str, int], talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webserver._Request, "timeout", 60.0)
    silent = [socket.create_connection(address, 10) for _ in range(12)]
    assert b"200 OK" in talk(b"GET /well HTTP/1.1\r\n\r\n")
    assert everything(silent[0]) == b"", "the first of those that say nothing was not cut off"
    for connection in silent:
        connection.close()


def test_one_that_does_not_read_holds_up_nobody(address: tuple[str, int], talk: Talk) -> None:
    with socket.create_connection(address, 10) as deaf:
        deaf.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        assert b"200 OK" in talk(b"GET /well HTTP/1.1\r\n\r\n")
