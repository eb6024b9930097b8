"""Does a child boot in time, and does its own loop answer? A child that hangs is worse than one that is dead."""

from __future__ import annotations

import logging
from typing import Final

from shiftboss import control
from shiftboss.clock import Clock
from shiftboss.events import Event, emit
from shiftboss.supervisor.child import Child
from shiftboss.supervisor.spec import SupervisorSettings
from shiftboss.supervisor.states import ChildState
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

_START: Final = "start"
_PING: Final = "ping"
_PONG: Final = "pong"


class Liveness:
    """Start deadlines and pings; ends what misses them."""

    def __init__(self, tree: Tree, timers: Timers, settings: SupervisorSettings, clock: Clock, log: logging.Logger) -> None:
        self._tree, self._timers, self.settings, self._clock, self._log = tree, timers, settings, clock, log
        self._awaited: dict[str, int] = {}
        self._seq = 0

    def started(self, child: Child) -> None:
        """A new incarnation has to say Ready in time."""
        self._timers.set(child.name, _START, child.spec.start_timeout_s, lambda: self._not_ready(child))

    def ready(self, child: Child) -> None:
        """It has; from now on it is pinged, if its spec says so."""
        self._timers.cancel(child.name, _START)
        if child.spec.ping:
            self._timers.set(child.name, _PING, self.settings.ping_interval_s, lambda: self._ping(child))

    def answered(self, child: Child, pong: control.Pong) -> None:
        """Only the answer to the last ping counts."""
        if self._awaited.get(child.name) == pong.seq and self._timers.is_set(child.name, _PONG):
            self._timers.cancel(child.name, _PONG)
            self._timers.set(child.name, _PING, self.settings.ping_interval_s, lambda: self._ping(child))

    def forgive(self) -> None:
        """Our own loop was late, so the children may be too (a frozen service, a starved machine): deadlines start afresh."""
        for child in self._tree.running:
            if self._timers.is_set(child.name, _PONG):
                self._await_pong(child)
            if self._timers.is_set(child.name, _START):
                self.started(child)

    def _ping(self, child: Child) -> None:
        if child.state is ChildState.STOPPING and not child.spec.drains:
            return  # its stop has a deadline of its own
        self._seq += 1
        self._awaited[child.name] = self._seq
        self._tree.tell(child, control.Ping(seq=self._seq))
        self._await_pong(child)

    def _await_pong(self, child: Child) -> None:
        self._timers.set(child.name, _PONG, self.settings.ping_timeout_s, lambda: self._silent(child))

    def _silent(self, child: Child) -> None:
        if child.state is ChildState.STOPPING and not child.spec.drains:
            return
        message = f"{child.name} has not answered for {self.settings.ping_timeout_s:g} s: its stacks follow, then it is killed"
        emit(self._log, logging.ERROR, Event.ACTOR_HUNG, message, actor=child.name, incarnation=child.incarnation)
        self._tree.abort(child, "hung")

    def _not_ready(self, child: Child) -> None:
        message = f"{child.name} was not ready within {child.spec.start_timeout_s:g} s: its stacks follow, then it is killed"
        emit(self._log, logging.ERROR, Event.ACTOR_HUNG, message, actor=child.name, incarnation=child.incarnation)
        self._tree.abort(child, "start_timeout")
