"""Wakes the claimer: a helper actor that waits where producers ring."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import pykka

from shiftboss.actors.board import Board
from shiftboss.actors.messages import Wake
from shiftboss.actors.outage import Outage
from shiftboss.actors.process import Actor
from shiftboss.errors import StoreUnavailable
from shiftboss.store.base import Listener

log = logging.getLogger("shiftboss.doorbell")
WAIT_S = 30.0


class Doorbell(Actor):
    """Listens again and again, with a new connection when the old one is lost. Told only once, by itself."""

    def __init__(self, listener: Callable[[str], Listener], claimer: pykka.ActorRef[Any], board: Board) -> None:
        super().__init__()
        self._new_listener, self._claimer, self._board = listener, claimer, board
        self._outage = Outage(log, board)
        self._pause = threading.Event()

    def on_start(self) -> None:
        self.actor_ref.tell("listen")

    def on_receive(self, message: Any) -> Any:  # noqa: ARG002  there is only one
        try:
            self._listen()
        except StoreUnavailable as error:
            self._pause.wait(self._outage.wait_s(error))
        self.actor_ref.tell("listen")

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        log.critical("unhandled error", exc_info=(exception_type, exception_value, traceback))
        os._exit(1)  # without its doorbell the claimer would only poll: better a new process

    def _listen(self) -> None:
        listener = self._new_listener(self._board.worker_id)
        try:
            self._outage.over()
            self._claimer.ask(Wake())  # what was rung for while nobody listened
            while True:
                if listener.wait(WAIT_S):
                    # Ask, not tell: any number of rings while the claimer is busy make one Wake.
                    self._claimer.ask(Wake())
        finally:
            listener.close()
