"""A TCP proxy in front of PostgreSQL that knows which statement passes, and cuts just there.

It follows the wire protocol far enough to tell the named queries of the store, where a transaction ends, and which answer
belongs to it. So "the commit was done and nobody heard of it" is not a matter of luck: the proxy has seen the server's answer
before it cuts.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import cache
from typing import Final, NamedTuple

from shiftboss.store.postgres.sqltext import queries

_CHUNK: Final = 65_536
_REFUSED_TO_ENCRYPT: Final = b"N"
_ENCRYPTION: Final = (80877103, 80877104)  # SSLRequest, GSSENCRequest
_PREPARE: Final = re.compile(rb"PREPARE (\w+) AS (.*)", re.DOTALL)
_PARAMETER: Final = re.compile(r"%\(\w+\)s|\$\d+")
_OTHERS: Final = {
    "SELECT pg_backend_pid()": "connect",
    "LISTEN shiftboss": "listen",
    "SELECT 1": "probe",
}
_ENDS: Final = ("COMMIT", "ROLLBACK")


class Cut(StrEnum):
    """Where a statement's transaction is cut off."""

    REQUEST = "request"  # nothing of it arrives
    MIDDLE = "middle"  # half of it arrives: it is rolled back
    REPLY = "reply"  # it is committed, and nothing of the answer arrives
    TORN = "torn"  # it is committed, and half of the answer arrives
    LATE = "late"  # its client is cut off, and its end reaches the server later, from nobody
    ORPHAN = "orphan"  # its client is cut off while the server works on it, and works on; what was not sent yet never comes

    @property
    def commits(self) -> bool:
        return self in (Cut.REPLY, Cut.TORN, Cut.LATE)


class Rule:
    """Cut the next `times` transactions with one of these named queries in them.

    Attributes:
        fired: counts those that are over and done with.
        late_s: how long the end of one is held back, for `Cut.LATE`.
    """

    def __init__(self, statements: Iterable[str], cut: Cut, times: int = 1, late_s: float = 0.05) -> None:
        self.statements, self.cut, self.late_s = frozenset(statements), cut, late_s
        self._left = times
        self._over = threading.Condition()
        self.fired = 0

    def takes(self, statements: Iterable[str], *, at_end: bool) -> bool:
        """Whether to cut here and now; counts."""
        if at_end is not self.cut.commits or self.statements.isdisjoint(statements):
            return False
        with self._over:
            self._left -= 1
            return self._left >= 0

    def done(self) -> None:
        with self._over:
            self.fired += 1
            self._over.notify_all()

    def wait(self, times: int, timeout_s: float) -> bool:
        """Until so many were cut."""
        with self._over:
            return self._over.wait_for(lambda: self.fired >= times, timeout_s)


class Valve:
    """Lets through, unless somebody has closed it; several may at once."""

    def __init__(self) -> None:
        self._closed, self._change = 0, threading.Condition()

    def close(self) -> None:
        with self._change:
            self._closed += 1

    def open(self) -> None:
        with self._change:
            self._closed = max(0, self._closed - 1)
            self._change.notify_all()

    def heal(self) -> None:
        """Open, whoever has closed it."""
        with self._change:
            self._closed = 0
            self._change.notify_all()

    @property
    def is_open(self) -> bool:
        return not self._closed

    def wait(self) -> None:
        with self._change:
            self._change.wait_for(lambda: self.is_open)


class Message(NamedTuple):
    type: bytes
    body: bytes
    raw: bytes


class Proxy:
    """Listens on a free port of `host` and passes on to `target`, until it is told to be difficult.

    Attributes:
        upward, downward: closed, nothing goes this way, and every socket stays open: as a dead link does.
        door: closed, new connections are ended at once.
        delay_s: how long everything is held back, each way.
        passed: named queries that have gone through.
    """

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self.target = target
        self._listening = socket.create_server((host, 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        self.upward, self.downward, self.door = Valve(), Valve(), Valve()
        self.delay_s = 0.0
        self.passed: Counter[str] = Counter()
        self._rules: list[Rule] = []
        self._lines: set[_Line] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    # ---- being difficult

    def arm(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def disarm(self, rule: Rule) -> None:
        with self._lock, suppress(ValueError):
            self._rules.remove(rule)

    def slow_down(self, by_s: float) -> None:
        """Hold everything back for so much longer each way."""
        with self._lock:
            self.delay_s = max(0.0, self.delay_s + by_s)

    def cut_all(self) -> int:
        """End every connection, both ways; how many."""
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            line.cut()
        return len(lines)

    def heal(self) -> None:
        self.delay_s = 0.0
        for valve in (self.upward, self.downward, self.door):
            valve.heal()

    def close(self) -> None:
        self.heal()
        self.door.close()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut_all()

    # ---- inside

    def rule_for(self, statements: Iterable[str], *, at_end: bool) -> Rule | None:
        if not self._rules:
            return None
        with self._lock:
            return next((rule for rule in self._rules if rule.takes(statements, at_end=at_end)), None)

    def forget(self, line: _Line) -> None:
        with self._lock:
            self._lines.discard(line)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self.upward.wait()  # on a dead link nobody is answered
        try:
            if not self.door.is_open:
                raise ConnectionRefusedError
            server = socket.create_connection(self.target)
        except OSError:
            client.close()
            return
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = _Line(self, client, server)
        with self._lock:
            self._lines.add(line)
        line.run()


class _Line:
    """One client's connection and the server's, with a thread for each way."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._talk = _Talk()
        self._ready = 0  # answers that have come
        self._orphaned: Rule | None = None
        self._asked_before = 0
        self._swallow: tuple[int, Rule] | None = None  # from the answer of this number on

    def run(self) -> None:
        threading.Thread(target=self._downwards, name="proxy down", daemon=True).start()
        try:
            with suppress(OSError):
                self._upwards()
        finally:
            if self._swallow is None:  # or the answer is still awaited
                self.cut()

    def cut(self) -> None:
        for one in (self._client, self._server):
            _end(one)
        self._proxy.forget(self)

    def _upwards(self) -> None:
        while data := self._client.recv(_CHUNK):
            self._hold(self._proxy.upward)
            out = bytearray()
            for message in self._talk.feed(data):
                if message is _ENCRYPT:
                    self._client.sendall(_REFUSED_TO_ENCRYPT)
                    continue
                out += message.raw
                if self._is_over(message, out):
                    return
            if self._orphaned is not None and self._talk.asked > self._asked_before:  # or the server would wait for more
                self._cut_after(self._orphaned, out)
                return
            if out:
                self._server.sendall(out)

    def _is_over(self, message: Message, out: bytearray) -> bool:
        """Follow one message of the client; whether this connection ended with it."""
        name = self._talk.follow(message)
        if name:
            self._proxy.passed[name] += 1
            rule = self._proxy.rule_for((name,), at_end=False)
            if rule is not None and rule.cut is Cut.ORPHAN:
                self._orphaned, self._asked_before = rule, self._talk.asked
            elif rule is not None:
                if rule.cut is Cut.MIDDLE:
                    self._server.sendall(out[: -(len(message.raw) // 2)])
                self.cut()
                rule.done()
                return True
        if self._talk.ended and self._orphaned is None:
            rule = self._proxy.rule_for(self._talk.ended, at_end=True)
            if rule is not None:
                self._cut_after(rule, out)
                return True
        return False

    def _cut_after(self, rule: Rule, out: bytearray) -> None:
        """The end of a transaction goes to the server, now or late; its answer goes to nobody."""
        self._swallow = (self._talk.asked, rule)
        if rule.cut in (Cut.LATE, Cut.ORPHAN):
            _end(self._client)
        if rule.cut is Cut.LATE:
            threading.Event().wait(rule.late_s)
        with suppress(OSError):
            self._server.sendall(out)
            return
        self.cut()
        rule.done()

    def _downwards(self) -> None:
        answers = _Answers()
        with suppress(OSError):
            while data := self._server.recv(_CHUNK):
                self._hold(self._proxy.downward)
                if self._swallow is not None:
                    if self._swallowed(answers, data, *self._swallow):
                        break
                else:
                    self._ready += answers.count(data)
                    self._client.sendall(data)
        swallow = self._swallow
        self.cut()
        if swallow is not None:
            swallow[1].done()

    def _swallowed(self, answers: _Answers, data: bytes, number: int, rule: Rule) -> bool:
        """Whether the answer of that number is complete; what comes before it is passed on."""
        self._ready += answers.count(data)
        if self._ready < number:
            if self._ready < number - 1 or rule.cut is Cut.TORN:
                with suppress(OSError):
                    self._client.sendall(data)
            return False
        if rule.cut is Cut.TORN:
            with suppress(OSError):
                self._client.sendall(data[: len(data) // 2])
        return True

    def _hold(self, way: Valve) -> None:
        if self._proxy.delay_s:
            threading.Event().wait(self._proxy.delay_s)
        way.wait()


_ENCRYPT: Final = Message(b"", b"", b"")


class _Talk:
    """What a client says: its messages, the names of its prepared statements, where its transactions end.

    Attributes:
        asked: how many answers ("ready for query") the server owes in all, once it has what was followed so far.
        ended: the named queries of the transaction that ends with the message followed last; else nothing.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._started = False
        self._prepared: dict[bytes, str] = {}
        self._bound = ""
        self._in_transaction = self._ends_here = False
        self._seen: set[str] = set()
        self.asked = 0
        self.ended: frozenset[str] = frozenset()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The whole messages so far."""
        self._buffer += data
        while True:
            head = 1 if self._started else 0
            if len(self._buffer) < head + 4:
                return
            (length,) = struct.unpack_from("!I", self._buffer, head)
            if len(self._buffer) < head + length:
                return
            raw = bytes(self._buffer[: head + length])
            del self._buffer[: head + length]
            if self._started:
                yield Message(raw[:1], raw[5:], raw)
            elif length == 8 and struct.unpack("!I", raw[4:])[0] in _ENCRYPTION:
                yield _ENCRYPT
            else:
                self._started, self.asked = True, 1
                yield Message(b"", raw[4:], raw)

    def follow(self, message: Message) -> str:
        """The name of the query that this message executes, if it does and it has one."""
        self.ended = frozenset()
        match message.type:
            case b"Q":
                self.asked += 1
                if prepare := _PREPARE.match(message.body[:-1]):
                    self._prepared[prepare[1]] = _name(prepare[2])
                return self._executed(_name(message.body[:-1]), whole=True)
            case b"P":
                name, text, _types = message.body.split(b"\0", 2)
                self._prepared[name] = _name(text)
            case b"B":
                _portal, name, _values = message.body.split(b"\0", 2)
                self._bound = self._prepared.get(name, "")
            case b"E":
                return self._executed(self._bound, whole=False)
            case b"S":
                self.asked += 1
                self._synced()
        return ""

    def _executed(self, name: str, *, whole: bool) -> str:
        if name == "BEGIN":
            self._seen, self._in_transaction = set(), True
        elif name in _ENDS:
            self._in_transaction, self._ends_here = False, name == "COMMIT"
        else:
            self._seen.add(name)
        if whole:
            self._synced()
        return "" if name == "BEGIN" or name in _ENDS else name

    def _synced(self) -> None:
        if self._ends_here or not self._in_transaction:
            self.ended = frozenset(self._seen - {""})
            self._seen, self._ends_here = set(), False


class _Answers:
    """Counts the server's "ready for query", however its bytes are cut into pieces."""

    def __init__(self) -> None:
        self._skip = 0
        self._head = bytearray()

    def count(self, data: bytes) -> int:
        at, found = 0, 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            step = min(5 - len(self._head), len(data) - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == 5:
                self._skip = struct.unpack("!I", self._head[1:])[0] - 4
                found += self._head[:1] == b"Z"
                self._head.clear()
        return found


@cache
def _names() -> dict[str, str]:
    """The text of a query as it goes over the wire, parameters left out -> its name."""
    return {_PARAMETER.sub("?", text).replace("%%", "%"): name for name, text in queries().items()}


@cache
def _name(text: bytes) -> str:
    sql = text.decode(errors="replace").strip()
    word = sql.partition(" ")[0].upper()
    if word in ("BEGIN", *_ENDS) and " TO " not in sql:
        return word
    return _names().get(_PARAMETER.sub("?", sql)) or _OTHERS.get(sql, "")


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def proxied(port: int, host: str = "127.0.0.1") -> Iterator[Proxy]:
    """A proxy for this block in front of the server at this port of 127.0.0.1."""
    proxy = Proxy(("127.0.0.1", port), host)
    try:
        yield proxy
    finally:
        proxy.close()
