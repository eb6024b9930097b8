"""Rolling children replaced one by one, more of them or fewer, and those replaced that ask for it themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from shiftboss.events import Event, emit
from shiftboss.supervisor.child import Child
from shiftboss.supervisor.operations import Asker, Nobody, Operation, Operations
from shiftboss.supervisor.rolling import Rolling
from shiftboss.supervisor.spec import SupervisorSettings
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

TRY_AGAIN_S: Final = 30.0  # after a successor that did not start
MAX_ROLLING: Final = 1000


class Replacing:
    """Operations on rolling children that leave the configuration as it is.

    Args:
        changed: called when children were put into service or retired.
    """

    def __init__(
        self,
        tree: Tree,
        timers: Timers,
        settings: SupervisorSettings,
        log: logging.Logger,
        rolling: Rolling,
        operations: Operations,
        changed: Callable[[], None],
    ) -> None:
        self._tree, self._timers, self.settings, self._log = tree, timers, settings, log
        self._rolling, self._operations, self._changed = rolling, operations, changed
        self._tired: set[str] = set()
        self._shrinking: list[Asker] = []  # who waits until those that are too many have gone

    # ---- one by one

    def restart(self, asker: Asker) -> None:
        """Replace all rolling children one by one, each successor first."""
        self._operations.ask(Operation(self._restart_all, "restart", [asker]))

    def _restart_all(self) -> None:
        self._restart_next(list(self._tree.rolling), 0)

    def _restart_next(self, olds: list[Child], done: int) -> None:
        old = next((child for child in olds[done:] if child in self._tree.rolling), None)
        if old is None:
            self._operations.finish(True, f"{len(olds)} replaced")
            return
        position = olds.index(old) + 1

        def launched(successors: Sequence[Child], why: str | None) -> None:
            if why is not None:
                self._fail("restart", f"{position - 1} of {len(olds)} replaced, the others go on as they were: {why}")
                return
            self._exchange(old, successors, "restart")
            self._operations.progress(f"{position} of {len(olds)} replaced")
            self._restart_next(olds, position)

        self._rolling.launch([old.spec], launched)

    def _exchange(self, old: Child, successors: Sequence[Child], why: str) -> None:
        self._rolling.put_into_service(successors)
        emit(self._log, logging.INFO, Event.ACTOR_REPLACED, actor=old.name, reason=why)
        if old in self._tree.rolling:
            self._rolling.retire(old, why, self.settings)
        self._changed()

    # ---- those that are worn out

    def tired(self, child: Child, reason: str) -> None:
        """A rolling child asks to be replaced; one of another kind has no successor to start beside it."""
        if child.spec.rolling and not self._rolling.owns(child) and child.name not in self._tired:
            self._tired.add(child.name)
            incarnation = child.incarnation
            self._operations.ask(Operation(lambda: self._relieve(child, incarnation, reason), "", [Nobody()]))

    def _relieve(self, child: Child, incarnation: int, reason: str) -> None:
        self._tired.discard(child.name)
        if child not in self._tree.rolling or not child.ready or child.incarnation != incarnation:
            self._operations.finish(True, "has ended meanwhile")
            return

        def launched(successors: Sequence[Child], why: str | None) -> None:
            if why is None:
                self._exchange(child, successors, reason)
            elif child.incarnation == incarnation:
                self._timers.set(child.name, "tired", TRY_AGAIN_S, lambda: self.tired(child, reason))
            self._operations.finish(why is None, why or reason)

        self._rolling.launch([child.spec], launched)

    # ---- more or fewer

    def scale(self, wanted: int, asker: Asker) -> None:
        """Have so many. Done when the new ones are in service, or those that are too many have gone."""
        if not 1 <= wanted <= MAX_ROLLING:
            asker.done(False, f"{wanted} executors: must be from 1 to {MAX_ROLLING}", code=64)
            return
        self._operations.ask(Operation(lambda: self._scale(wanted), "", [asker]))

    def scale_by(self, step: int) -> None:
        """One more or one fewer than there are when its turn comes, within the limits."""
        self._operations.ask(Operation(lambda: self._scale(self._within_limits(len(self._tree.rolling) + step)), "", [Nobody()]))

    def _within_limits(self, wanted: int) -> int:
        return min(max(1, wanted), MAX_ROLLING)

    def _scale(self, wanted: int) -> None:
        present = len(self._tree.rolling)
        if not present:
            self._operations.finish(False, "nothing here can be scaled", code=64)
            return
        if wanted == present:
            self._operations.finish(True, f"{wanted} already")
            return
        emit(self._log, logging.INFO, Event.SERVICE_SCALED, f"from {present} to {wanted}", executors=wanted)
        if wanted > present:
            self._grow(wanted)
        else:
            self._shrink(wanted)

    def _grow(self, wanted: int) -> None:
        present = self._tree.rolling

        def launched(successors: Sequence[Child], why: str | None) -> None:
            if why is not None:
                self._fail("scale", f"still {len(self._tree.rolling)} executors: {why}")
                return
            self._rolling.put_into_service(successors)
            self._changed()
            self._operations.finish(True, f"{wanted} in service")

        self._rolling.launch([present[0].spec] * (wanted - len(present)), launched)

    def _shrink(self, wanted: int) -> None:
        """The newest go, but first of all those that are down."""
        leaving = sorted(self._tree.rolling, key=lambda child: not child.ready)[wanted:]
        left = {child.name for child in leaving}
        self._operations.progress(f"{', '.join(sorted(left))} finish what they run")
        askers = self._operations.release()
        self._shrinking += askers

        def gone(name: str) -> None:
            left.discard(name)
            for asker in askers if not left else ():
                self._shrinking.remove(asker)
                asker.done(True, f"{wanted} in service")

        for child in leaving:
            self._rolling.retire(child, "scaled down", self.settings, partial(gone, child.name))
        self._changed()
        self._operations.proceed()

    # ---- when it does not come to an end

    def _fail(self, operation: str, why: str) -> None:
        """Also to the log: whoever asked by a signal hears nothing else."""
        emit(self._log, logging.WARNING, Event.OPERATION_FAILED, f"{operation} failed: {why}", operation=operation, reason=why)
        self._operations.finish(False, why)

    def abort(self, why: str) -> None:
        """The service stops, and those who wait for fewer executors have nothing left to wait for."""
        for asker in self._shrinking:
            asker.done(False, why)
        self._shrinking.clear()
