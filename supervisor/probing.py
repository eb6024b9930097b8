"""A rolling group that keeps crashing: no more work is fed to it, and one child is tried from time to time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from shiftboss.events import Event, emit
from shiftboss.supervisor.child import Child
from shiftboss.supervisor.quiet import POOL, Quiet
from shiftboss.supervisor.spec import SupervisorSettings
from shiftboss.supervisor.states import ChildState
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

STABLE_S: Final = 5.0  # ready for so long, a probe has shown that the group can run again


class Probing:
    """Nothing until `pause`.

    Args:
        start: starts a child that waits.
        forgive: forgets what the group has been through.
    """

    def __init__(
        self,
        tree: Tree,
        timers: Timers,
        settings: SupervisorSettings,
        log: logging.Logger,
        quiet: Quiet,
        start: Callable[[Child], None],
        forgive: Callable[[str], None],
    ) -> None:
        self._tree, self._timers, self.settings, self._log, self._quiet = tree, timers, settings, log, quiet
        self._start, self._forgive = start, forgive
        self._group: str | None = None

    @property
    def paused(self) -> bool:
        return self._group is not None

    def covers(self, child: Child) -> bool:
        """Whether its ends are dealt with here: it waits to be probed."""
        return self._group is not None and child.spec.group == self._group

    def pause(self, child: Child, restarts: int) -> None:
        """The group of this child has used up its budget. The child waits already, as do the others that have ended."""
        self._group = child.spec.group
        every_s = self.settings.probe_interval_s
        why = f"{self._group} ended {restarts} times within {self.settings.restart_period_s:g} s"
        message = f"{why}: claiming pauses, one is tried every {every_s:g} s"
        emit(self._log, logging.CRITICAL, Event.SUPERVISOR_INTENSITY_EXCEEDED, message, actor=child.name)
        for waiting in self._waiting():
            self._timers.cancel(waiting.name, "restart")
        self._quiet.want(POOL, why)
        self._timers.set("", "probe", every_s, self._probe)

    def ready(self, child: Child) -> None:
        """One of the group has said Ready; if it stays so, the pause is over."""
        if self.covers(child):
            self._timers.set(child.name, "stable", STABLE_S, lambda: self.resume(child.name))

    def resume(self, because: str) -> None:
        """Start the others and go on. Nothing when there is no pause."""
        if self._group is None:
            return
        group, self._group = self._group, None
        self._timers.cancel("", "probe")
        self._forgive(group)
        emit(self._log, logging.INFO, Event.POOL_RESUMED, f"{group} runs again", actor=because)
        for child in self._waiting(group):
            child.streak = 0
            self._start(child)
        self._quiet.release(POOL, f"{group} runs again")

    def abort(self) -> None:
        """The service stops: nothing is tried any more, and nobody is told to claim again."""
        self._group = None
        self._timers.cancel("", "probe")

    def _probe(self) -> None:
        self._timers.set("", "probe", self.settings.probe_interval_s, self._probe)
        probe = next(iter(self._waiting()), None)
        if probe is not None:
            emit(self._log, logging.INFO, Event.POOL_PROBED, actor=probe.name)
            self._start(probe)
        elif (members := self._members()) and all(map(self._is_stable, members)):
            self.resume(members[0].name)  # those that kept crashing have been scaled away

    def _is_stable(self, child: Child) -> bool:
        return child.ready and not self._timers.is_set(child.name, "stable")

    def _members(self) -> list[Child]:
        return [child for child in self._tree.rolling if child.spec.group == self._group]

    def _waiting(self, group: str | None = None) -> list[Child]:
        wanted = group or self._group
        return [c for c in self._tree.rolling if c.spec.group == wanted and c.state is ChildState.BACKOFF]
