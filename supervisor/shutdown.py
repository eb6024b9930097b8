"""The stop: one deadline for the whole service, children in reverse start order, SIGKILL at a known time."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from shiftboss import control
from shiftboss.clock import Clock
from shiftboss.events import Event, emit
from shiftboss.supervisor.child import Child
from shiftboss.supervisor.obituary import STOP_REASON
from shiftboss.supervisor.plan import Ended, RestartAfter, StopPlan, finish_drain, stop_plan
from shiftboss.supervisor.spec import EXIT_INTERRUPTED, SupervisorSettings
from shiftboss.supervisor.states import ChildEvent, ChildState
from shiftboss.supervisor.status import StatusLine
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

_ABANDON_S: Final = 2.0  # a process that outlives SIGKILL for so long sits in the kernel: the stop goes on without it
_PROGRESS_EVERY_S: Final = 5.0


class Shutdown:
    """Nothing until `begin`; then it takes the tree down, once.

    Attributes:
        exit_code: of the service, from `begin` on.
    """

    def __init__(
        self,
        tree: Tree,
        timers: Timers,
        settings: SupervisorSettings,
        clock: Clock,
        log: logging.Logger,
        status: StatusLine,
        start: Callable[[Child], None],
    ) -> None:
        self._tree, self._timers, self.settings, self._clock, self._log = tree, timers, settings, clock, log
        self._status, self._start = status, start
        self.exit_code: int | None = None
        self._plan = StopPlan(0.0, 0.0)
        self._steps: deque[tuple[Child, ...]] = deque()
        self._told: set[str] = set()
        self._abandoned: set[str] = set()

    @property
    def begun(self) -> bool:
        return self.exit_code is not None

    @property
    def finished(self) -> bool:
        return self.begun and not self._steps

    def begin(self, exit_code: int, why: str, *, drain: bool) -> None:
        """Take the tree down; without `drain` running work is cancelled at once."""
        self.exit_code = exit_code
        self._plan = stop_plan(self.settings, self._clock.monotonic_s(), drain=drain)
        self._steps.extend(reversed(self._tree.groups))
        deadline_s = self._plan.end_s - self._clock.monotonic_s()
        emit(self._log, logging.INFO, Event.SERVICE_STOPPING, f"stopping: {why}", reason=why, deadline_s=round(deadline_s, 3))
        self._status.stopping(why)
        for child in self._tree.running:
            self._tree.tell(child, control.Drain(why=f"stopping: {why}"))  # at once, not when its turn to stop has come
        for child in self._tree.children.values():
            self._settle(child)
        self._timers.set("", "progress", _PROGRESS_EVERY_S, self._progress)
        self._advance()

    def hurry(self) -> None:
        """No more draining: what runs is cancelled now."""
        self._plan = self._plan.hurried(self._clock.monotonic_s())
        for child in self._tree.running:
            if child.spec.drains and child.name in self._told:
                self._tell_stop(child)

    def kill_all(self) -> None:
        """SIGKILL to everything, at once."""
        self.exit_code = EXIT_INTERRUPTED
        for child in self._tree.children.values():
            if child.running:
                self._told.add(child.name)
                self._kill(child)
            elif child.state is not ChildState.ENDED:
                self._tree.end_for_good(child)
        self._advance()

    def after_end(self, child: Child, ended: Ended) -> None:
        """A child has ended during the stop. Only the draining one is started again, since others may hold what it has to
        hand back, and what it relies on."""
        action = None
        if self._may_return(child):
            now_s = self._clock.monotonic_s()
            action = finish_drain(ended, self._plan, self.settings, now_s=now_s, chance=random.random())
        if isinstance(action, RestartAfter):
            child.move(ChildEvent.DELAY)
            self._restart(child, action.delay_s)
        else:
            self._tree.end_for_good(child)
        self._advance()

    def _settle(self, child: Child) -> None:
        """What was waiting to be started is not started, but for the draining child if it may hold work."""
        if child.running or child.state is ChildState.ENDED:
            return
        if child.state is ChildState.BACKOFF and self._may_return(child):
            self._restart(child, 0.0)
        else:
            self._tree.end_for_good(child)

    def _may_return(self, child: Child) -> bool:
        if not child.ever_ready or self.exit_code != 0:
            return False
        return child.spec.drains or (child.spec.during_drain and self._is_draining())

    def _is_draining(self) -> bool:
        return any(child.spec.drains and child.state is not ChildState.ENDED for child in self._tree.children.values())

    def _restart(self, child: Child, delay_s: float) -> None:
        self._told.discard(child.name)
        self._timers.set(child.name, "restart", delay_s, lambda: self._return(child))

    def _return(self, child: Child) -> None:
        self._start(child)
        self._advance()

    def _advance(self) -> None:
        while self._steps:
            group = self._steps[0]
            for child in group:
                if child.running and child.name not in self._told:
                    self._tell_stop(child)
                elif child.state is ChildState.BACKOFF and not self._may_return(child):
                    self._tree.end_for_good(child)  # its turn to stop came before its restart
            if any(child.state is not ChildState.ENDED and child.name not in self._abandoned for child in group):
                return
            self._steps.popleft()

    def _tell_stop(self, child: Child) -> None:
        now_s = self._clock.monotonic_s()
        drains = child.spec.drains and child.ever_ready  # one that never was ready holds nothing to drain
        stop = control.Stop(drain_s=0.0, grace_s=0.0)
        if drains:
            stop = control.Stop(drain_s=self._plan.drain_left_s(now_s), grace_s=self._plan.grace_left_s(now_s))
        self._told.add(child.name)
        child.move(ChildEvent.STOP)
        self._tree.tell(child, stop)
        self._timers.set(child.name, "stop", self._plan.patience_s(child.spec, drains, now_s), lambda: self._out_of_time(child))

    def _out_of_time(self, child: Child) -> None:
        if child.spec.drains:
            message = f"{child.name} has not drained in time"
            emit(self._log, logging.WARNING, Event.DRAIN_TIMEOUT, message, actor=child.name, status=child.status)
        self._kill(child)

    def _kill(self, child: Child) -> None:
        self._tree.kill(child, STOP_REASON)
        self._timers.set(child.name, "abandon", _ABANDON_S, lambda: self._abandon(child))

    def _abandon(self, child: Child) -> None:
        message = f"{child.name} does not end on SIGKILL: it hangs in the kernel; the stop goes on without it"
        emit(self._log, logging.ERROR, Event.ACTOR_HUNG, message, actor=child.name, incarnation=child.incarnation)
        self._abandoned.add(child.name)
        self._advance()

    def _progress(self) -> None:
        left_s = max(0.0, self._plan.end_s - self._clock.monotonic_s())
        waiting = ", ".join(f"{c.name} ({c.status})" if c.status else c.name for c in self._tree.running)
        emit(
            self._log,
            logging.INFO,
            Event.DRAIN_PROGRESS,
            f"still running: {waiting}",
            actors=waiting,
            deadline_s=round(left_s, 3),
        )
        self._timers.set("", "progress", _PROGRESS_EVERY_S, self._progress)
