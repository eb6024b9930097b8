"""The control socket: takes commands from operators' programs and carries the answers. Transport only, and it never blocks.

Who may ask is decided by the file system (a socket of mode 0600 in a folder that is ours alone) and, once more, by the
kernel's word for who has connected.
"""

from __future__ import annotations

import logging
import os
import selectors
from pathlib import Path
from typing import Final

import msgspec

from shiftboss import commands
from shiftboss.clock import Clock
from shiftboss.control import EXIT_USAGE
from shiftboss.events import Event, emit
from shiftboss.supervisor.control_socket import ControlSocket
from shiftboss.supervisor.conversation import CommandPeer, Conversation, credentials_of
from shiftboss.supervisor.timers import Timers

__all__ = ["CommandPeer", "CommandServer", "Conversation"]

MAX_CONNECTIONS: Final = 16
SILENCE_S: Final = 10.0  # for a program that asks nothing, or does not take its last answer

_OWNER: Final = "control socket"  # of our timers
_ACCEPT_AGAIN_S: Final = 1.0


class Listener(CommandPeer):
    """Programs connect here."""


class CommandServer:
    """The control socket of one service, in the supervisor's loop.

    Args:
        path: where; None: no control socket.
        selector: of the loop; it hands keys whose `data` is a `CommandPeer` to `serve`.
        timers: of the loop.
    """

    def __init__(
        self, path: Path | None, selector: selectors.BaseSelector, timers: Timers, clock: Clock, log: logging.Logger
    ) -> None:
        self.path = path
        self._selector, self._timers, self._clock, self._log = selector, timers, clock, log
        self._socket: ControlSocket | None = None
        self._conversations: dict[int, Conversation] = {}  # by descriptor

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self) -> None:
        """Listen. Where that cannot be, a warning says why, and the service goes on without."""
        if self.path is None:
            return
        try:
            self._socket = ControlSocket(self.path)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}" if error.filename else str(error.args[-1])
            message = f"no control socket at {self.path}, so commands do not reach this service: {reason}"
            emit(self._log, logging.WARNING, Event.CONTROL_UNAVAILABLE, message, path=str(self.path), reason=reason)
        else:
            self._listen()

    def serve(self, data: CommandPeer, mask: int) -> list[tuple[Conversation, commands.AnyCommand]]:
        """What the selector has found: take in and send on. Returns the commands that are to be obeyed now."""
        if isinstance(data, Listener):
            self._accept()
        elif isinstance(data, Conversation) and not data.closed:
            if mask & selectors.EVENT_WRITE:
                data.send()
            if mask & selectors.EVENT_READ:
                data.read()
            command = self._command(data)
            self._watch(data)
            return [] if command is None else [(data, command)]
        return []

    def close(self, within_s: float) -> None:
        """Say what is still to be said, for `within_s` at most, hang up, and leave nothing behind."""
        deadline_s = self._clock.monotonic_s() + within_s
        for conversation in list(self._conversations.values()):
            self._flush_until(conversation, deadline_s)
            self._drop(conversation)
        self._timers.cancel_all(_OWNER)
        if self._socket is not None:
            self._deafen()
            self._socket.close()
            self._socket = None

    # ---- connections

    def _listen(self) -> None:
        if self._socket is not None:
            self._selector.register(self._socket.listener, selectors.EVENT_READ, Listener())

    def _deafen(self) -> None:
        if self._socket is not None and self._socket.listener in self._selector.get_map():
            self._selector.unregister(self._socket.listener)

    def _accept(self) -> None:
        if self._socket is None:
            return
        try:
            sock, _address = self._socket.listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor left: the loop must not spin on a connection that it cannot take
            self._deafen()
            self._timers.set(_OWNER, "listen", _ACCEPT_AGAIN_S, self._listen)
            return
        sock.setblocking(False)
        conversation = Conversation(sock, credentials_of(sock), self._watch)
        self._conversations[sock.fileno()] = conversation
        self._selector.register(sock, selectors.EVENT_READ, conversation)
        self._hurry(conversation)
        self._admit(conversation)

    def _admit(self, conversation: Conversation) -> None:
        if len(self._conversations) > MAX_CONNECTIONS:
            conversation.done(False, f"too many commands at once: {MAX_CONNECTIONS} are under way; try again later")
        elif conversation.uid not in (0, os.geteuid()):
            text = f"refused: this service belongs to user {os.geteuid()} and takes commands from that user and root only"
            self._refuse(conversation, text, code=None)

    def _hurry(self, conversation: Conversation) -> None:
        """Drop it unless it does within `SILENCE_S` what it is there for: ask, or take its answer."""

        def drop() -> None:
            conversation.closed = True
            self._watch(conversation)

        self._timers.set(_OWNER, str(conversation.sock.fileno()), SILENCE_S, drop)

    def _watch(self, conversation: Conversation) -> None:
        """Have the selector wait for what this conversation waits for; the end of it when there is nothing any more."""
        sock = conversation.sock
        if self._conversations.get(sock.fileno()) is not conversation:
            return
        if conversation.closed or (conversation.ended and not conversation.unsent):
            self._drop(conversation)
            return
        if conversation.ended and not self._timers.is_set(_OWNER, str(sock.fileno())):
            self._hurry(conversation)
        wanted = (0 if conversation.hung_up else selectors.EVENT_READ) | (selectors.EVENT_WRITE if conversation.unsent else 0)
        self._select(conversation, wanted)

    def _select(self, conversation: Conversation, wanted: int) -> None:
        registered = conversation.sock in self._selector.get_map()
        if wanted and registered:
            self._selector.modify(conversation.sock, wanted, conversation)
        elif wanted:
            self._selector.register(conversation.sock, wanted, conversation)
        elif registered:
            self._selector.unregister(conversation.sock)

    def _drop(self, conversation: Conversation) -> None:
        conversation.closed = True
        fd = conversation.sock.fileno()
        del self._conversations[fd]
        self._timers.cancel(_OWNER, str(fd))
        self._select(conversation, 0)
        conversation.sock.close()

    # ---- requests

    def _command(self, conversation: Conversation) -> commands.AnyCommand | None:
        """The request, when it is complete and right; what is wrong is answered here."""
        if conversation.asked or conversation.closed or conversation.ended:
            return None
        line, separator, _rest = bytes(conversation.received).partition(b"\n")
        if len(line) >= commands.MAX_LINE_BYTES:
            self._refuse(conversation, f"a request is one line of at most {commands.MAX_LINE_BYTES} bytes", code=EXIT_USAGE)
            return None
        if not separator:
            conversation.closed = conversation.hung_up  # it will never be complete
            return None
        return self._decode(conversation, line)

    def _decode(self, conversation: Conversation, line: bytes) -> commands.AnyCommand | None:
        try:
            command = commands.decode_command(line)
        except msgspec.DecodeError as error:
            self._refuse(conversation, f"not a command: {error}; {commands.USAGE}", code=EXIT_USAGE)
            return None
        conversation.asked = True
        conversation.received.clear()
        self._timers.cancel(_OWNER, str(conversation.sock.fileno()))
        emit(
            self._log,
            logging.INFO,
            Event.COMMAND_RECEIVED,
            f"received command {commands.describe(command)}",
            command=commands.name_of(command),
            uid=conversation.uid,
            sender_pid=conversation.pid,
        )
        return command

    def _refuse(self, conversation: Conversation, text: str, *, code: int | None) -> None:
        emit(
            self._log,
            logging.WARNING,
            Event.COMMAND_REFUSED,
            f"command refused: {text}",
            reason=text,
            uid=conversation.uid,
            sender_pid=conversation.pid,
        )
        conversation.done(False, text, code=code)

    # ---- end

    def _flush_until(self, conversation: Conversation, deadline_s: float) -> None:
        conversation.send()
        with selectors.DefaultSelector() as waiting:
            waiting.register(conversation.sock, selectors.EVENT_WRITE)
            while conversation.unsent and not conversation.closed:
                left_s = deadline_s - self._clock.monotonic_s()
                if left_s <= 0 or not waiting.select(left_s):
                    return
                conversation.send()
