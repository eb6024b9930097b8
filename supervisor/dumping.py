"""State and stacks of every child to the log, and who did not answer."""

from __future__ import annotations

import logging
from typing import Final

from shiftboss import control
from shiftboss.events import Event, emit
from shiftboss.supervisor.child import Child
from shiftboss.supervisor.operations import Asker
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

PATIENCE_S: Final = 2.0


class Dumping:
    """Asks all children for a dump; those that do not answer are made to write their stacks by a signal."""

    def __init__(self, tree: Tree, timers: Timers, log: logging.Logger) -> None:
        self._tree, self._timers, self._log = tree, timers, log
        self._silent: set[str] = set()
        self._dead: set[str] = set()
        self._askers: list[Asker] = []

    def begin(self, asker: Asker) -> None:
        """Ask; whoever asks while one is under way gets the same answer."""
        self._askers.append(asker)
        if self._timers.is_set("", "dump"):
            return
        for child in self._tree.children.values():
            fields = {"actor": child.name, "state": child.state, "incarnation": child.incarnation, "status": child.status}
            pid = child.process.pid if child.process is not None else None
            emit(self._log, logging.INFO, Event.ACTOR_STATE, f"{child.name}: {child.state}", actor_pid=pid, **fields)
            self._tree.tell(child, control.Dump())
        self._silent, self._dead = {child.name for child in self._tree.running}, set()
        self._timers.set("", "dump", PATIENCE_S, self._end)

    def heard(self, child: Child) -> None:
        """A child has written all there is."""
        self._silent.discard(child.name)
        self._end_if_complete()

    def ended(self, child: Child) -> None:
        """A child has ended; if it had not answered, it will not."""
        if child.name in self._silent:
            self._dead.add(child.name)
            self._silent.discard(child.name)
            self._end_if_complete()

    def _end_if_complete(self) -> None:
        if not self._silent and self._timers.is_set("", "dump"):
            self._timers.cancel("", "dump")
            self._end()

    def _end(self) -> None:
        silent, dead = sorted(self._silent), sorted(self._dead)
        for name in silent:
            process = self._tree.children[name].process
            if process is not None:
                process.dump()
        askers, self._askers, self._silent = self._askers, [], set()
        text = "written to the log"
        text += f"; no answer from {', '.join(silent)}: their stacks alone, if they can" if silent else ""
        text += f"; {', '.join(dead)} ended before it had answered" if dead else ""
        for asker in askers:
            asker.done(not silent and not dead, text)
