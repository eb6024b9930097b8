"""Claiming nothing and staying up: who wants it, whom to tell, and when nothing runs any more."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from shiftboss import control
from shiftboss.events import Event, emit
from shiftboss.supervisor.child import Child
from shiftboss.supervisor.operations import Asker
from shiftboss.supervisor.tree import Tree

OPERATOR: Final = "operator"
POOL: Final = "pool"
DRAINED: Final = "claiming nothing, nothing runs"


class Quiet:
    """Quiet as long as anybody wants it to be.

    Attributes:
        drained: the draining child has said that nothing runs any more.
    """

    def __init__(self, tree: Tree, log: logging.Logger, changed: Callable[[], None]) -> None:
        self._tree, self._log, self._changed = tree, log, changed
        self._wishes: dict[str, str] = {}
        self._waiting: list[Asker] = []
        self._seq = 0
        self.drained = False

    def __bool__(self) -> bool:
        return bool(self._wishes)

    @property
    def why(self) -> str:
        return "; ".join(self._wishes.values())

    def wanted_by(self, who: str) -> bool:
        return who in self._wishes

    def want(self, who: str, why: str) -> None:
        """`who` wants quiet; nothing new when it did already."""
        if who in self._wishes:
            return
        first = not self._wishes
        self._wishes[who] = why
        emit(self._log, logging.INFO, Event.SERVICE_QUIET, f"claiming nothing: {why}", reason=why)
        if first:
            self.drained = False
        for child in self._tree.running:
            if first or not child.spec.drains:  # the draining child need not answer again
                self.introduced(child)
        self._changed()

    def release(self, who: str, why: str) -> None:
        """`who` wants it no longer; claiming goes on when nobody does."""
        if self._wishes.pop(who, None) is None:
            return
        if self._wishes:
            for child in self._tree.running:
                if not child.spec.drains:
                    self.introduced(child)  # for another reason now
            return
        emit(self._log, logging.INFO, Event.SERVICE_RESUMED, f"claiming again: {why}", reason=why)
        self.drained = False
        self._answer(False, "claiming was resumed before everything had ended")
        for child in self._tree.running:
            self._tree.tell(child, control.Resume())
        self._changed()

    def introduced(self, child: Child) -> None:
        """A child runs that may not know."""
        if self._wishes:
            if child.spec.drains:
                self.drained = False
                self._seq += 1
            self._tree.tell(child, control.Drain(why=self.why, seq=self._seq, broken=POOL in self._wishes))

    def heard_drained(self, child: Child, seq: int) -> None:
        """The draining child says that nothing runs any more; an answer to an earlier question is none."""
        if not child.spec.drains or not self._wishes or seq != self._seq:
            return
        self.drained = True
        self._answer(True, DRAINED)

    def when_drained(self, asker: Asker) -> None:
        """Answer this one once nothing runs any more."""
        if self.drained:
            asker.done(True, DRAINED)
        else:
            self._waiting.append(asker)

    def stop(self) -> None:
        """The service stops: nobody will be told that it is merely quiet."""
        self._answer(False, "the service is stopping")

    def _answer(self, ok: bool, text: str) -> None:
        waiting, self._waiting = self._waiting, []
        for asker in waiting:
            asker.done(ok, text)
