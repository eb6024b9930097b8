"""For the tests of the PostgreSQL store alone: a proxy that misbehaves, and the plans that the server really used."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from shiftboss.store.postgres.store import PostgresStore

_CHUNK = 65_536


class Proxy:
    """A TCP proxy on loopback. `stall()` keeps every socket open and lets nothing through, as a dead link does.

    `answers_lost_after` cuts both sides as soon as the client has sent these bytes, and they have been passed on: the
    server does what it was told and nobody hears of it. `round_trips` counts how often the client spoke after the server had.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self.answers_lost_after: bytes | None = None
        self.round_trips = 0
        self._server_spoke = True
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        self._open.clear()

    def flow(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.set()
        self._listening.close()
        for one in self._sockets:
            _cut(one)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                self._open.wait()
                self.round_trips += upwards and self._server_spoke
                self._server_spoke = not upwards
                if upwards and self.answers_lost_after and self.answers_lost_after in data:
                    _cut(source)
                    self.answers_lost_after = None
                    sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
        _cut(sink)


def _cut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def watched_plans(store: PostgresStore) -> Iterator[list[dict[str, Any]]]:
    """The plans of all that the store executes, as the server chose and measured them: `auto_explain`'s JSON."""
    with store._link.connected() as connection, plans_of(connection) as plans:
        yield plans


@contextmanager
def plans_of(connection: psycopg.Connection[Any]) -> Iterator[list[dict[str, Any]]]:
    """`watched_plans`, of one connection."""
    plans: list[dict[str, Any]] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        text = diagnostic.message_primary or ""
        if "plan:" in text:
            plans.append(json.loads(text.partition("plan:")[2]))

    connection.execute("LOAD 'auto_explain'")
    for name, value in _AUTO_EXPLAIN.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    connection.add_notice_handler(note)
    try:
        yield plans
    finally:
        connection.remove_notice_handler(note)


_AUTO_EXPLAIN = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
    "client_min_messages": "notice",
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def pages(plan: dict[str, Any]) -> int:
    """How many pages the whole statement touched."""
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])
