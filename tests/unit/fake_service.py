"""A service that is nothing but its control socket: in a thread, or as a process (`python fake_service.py PATH HOW`)."""

from __future__ import annotations

import logging
import os
import selectors
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from shiftboss import commands
from shiftboss.clock import SystemClock
from shiftboss.supervisor.commands import CommandPeer, CommandServer, Conversation
from shiftboss.supervisor.timers import Timers

Answer = Callable[[Conversation, commands.AnyCommand], None]


class FakeService:
    """Answers every command by `answer`, and keeps what it was asked."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.asked: list[commands.AnyCommand] = []
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        clock = SystemClock()
        self._server = CommandServer(path, self._selector, Timers(clock), clock, logging.getLogger("fake"))
        self._ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> Self:
        self._server.open()
        assert self._server.is_open
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self.thread.join()
        self._server.close(0)
        self._selector.close()

    def run(self) -> None:
        while not self._ended.is_set():
            for key, mask in self._selector.select(0.02):
                assert isinstance(key.data, CommandPeer)
                for conversation, command in self._server.serve(key.data, mask):
                    self.asked.append(command)
                    self._answer(conversation, command)


def _main(path: str, how: str) -> None:
    def answer(conversation: Conversation, _command: commands.AnyCommand) -> None:
        conversation.progress("at it")
        if how == "die":
            os._exit(9)
        if how == "linger":
            conversation.done(True, "stopped")
            threading.Event().wait(0.7)
            os._exit(0)

    with FakeService(Path(path), answer) as service:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        service.thread.join()


if __name__ == "__main__":
    _main(*sys.argv[1:])
