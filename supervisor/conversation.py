"""One program that has connected to the control socket: what it asks, and what it is answered."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from shiftboss import commands

MAX_UNSENT_BYTES: Final = 1024 * 1024
_READ_BYTES: Final = 64 * 1024
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class CommandPeer:
    """What the selector's keys of the control socket carry; `CommandServer.serve` takes it."""


class Credentials(NamedTuple):
    """Who has connected, as the kernel knows it."""

    pid: int
    uid: int


class Conversation(CommandPeer):
    """One program that has connected: its request, and what it is answered. Nothing here raises when it goes away.

    Attributes:
        closed: it hears nothing any more. What it asked for goes on.
        uid, pid: of the program.
    """

    def __init__(self, sock: socket.socket, peer: Credentials, watch: Callable[[Conversation], None]) -> None:
        self.sock = sock
        self.uid, self.pid = peer.uid, peer.pid
        self.closed = False
        self.asked = False  # its one request has come
        self.ended = False  # its answer is complete
        self.hung_up = False  # it sends nothing any more
        self.received = bytearray()
        self.unsent = bytearray()
        self._watch = watch

    def progress(self, text: str) -> None:
        """Say how far it is; nothing after `done`."""
        self._say(commands.Progress(text=text))

    def done(self, ok: bool, text: str, *, code: int | None = None, data: commands.ServiceStatus | None = None) -> None:
        """Say how it ended, and hang up when that is said. A second `done` says nothing."""
        self._say(commands.Done(ok=ok, text=text, code=code, data=data), last=True)

    def _say(self, reply: commands.Progress | commands.Done, *, last: bool = False) -> None:
        if self.closed or self.ended:
            return
        self.ended = last
        self.unsent += commands.encode(reply)
        self.send()
        self._watch(self)

    def send(self) -> None:
        """Send what waits, as far as the program reads."""
        try:
            while self.unsent:
                del self.unsent[: self.sock.send(self.unsent)]
        except BlockingIOError:
            self.closed = len(self.unsent) > MAX_UNSENT_BYTES
        except OSError:
            self.closed = True

    def read(self) -> None:
        """Take in what has come; what comes after the request is nobody's."""
        try:
            chunk = self.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.closed = True
            return
        if not chunk:
            self.hung_up = True
            self.closed = _is_gone(self.sock)  # else it has only closed its own direction, and still listens
        elif not self.asked:
            self.received += chunk


def credentials_of(sock: socket.socket) -> Credentials:
    """Who is at the other end."""
    pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Credentials(pid, uid)


def _is_gone(sock: socket.socket) -> bool:
    """Whether the other side is closed in both directions."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(event & select.POLLHUP for _fd, event in poll.poll(0))
