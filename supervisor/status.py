"""What the service manager is told on the way: readiness, one line of status, more time, signs of life."""

from __future__ import annotations

from typing import Final

from shiftboss.clock import Clock
from shiftboss.supervisor.notify import Notifier
from shiftboss.supervisor.spec import SupervisorSettings
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

_STATUS_EVERY_S: Final = 1.0
_EXTEND_EVERY_S: Final = 2.0
_EXTEND_BY_S: Final = 10.0
_RESEND_S: Final = 0.2
_FEEDS_PER_WATCHDOG: Final = 3


class StatusLine:
    """Keeps the service manager informed; idle when there is none."""

    def __init__(self, tree: Tree, timers: Timers, settings: SupervisorSettings, clock: Clock, notify: Notifier) -> None:
        self._tree, self._timers, self._settings, self._clock, self._notify = tree, timers, settings, clock, notify
        self._phase = "starting"

    def begin(self) -> None:
        """The start begins; it may take longer than the manager's own limit as long as we say so."""
        if self._notify.enabled:
            self._extend()
            self.changed()
        if self._notify.watchdog_s is not None:
            self._feed(self._notify.watchdog_s / _FEEDS_PER_WATCHDOG)

    def ready(self) -> None:
        """Everything that is critical is ready."""
        self._phase = "ready"
        self._timers.cancel("", "extend")
        self._notify.ready(self._line())
        self._flush()

    def stopping(self, why: str) -> None:
        """The stop begins; our own deadline is what ends it, not the manager's."""
        self._phase = f"stopping ({why})"
        self._notify.stopping(self._line())
        self._flush()
        if self._notify.enabled:
            self._extend()

    def changed(self) -> None:
        """The line has changed; it is sent once a second at most."""
        if self._notify.enabled and not self._timers.is_set("", "status"):
            self._timers.set("", "status", _STATUS_EVERY_S, lambda: self._notify.status(self._line()))

    def _line(self) -> str:
        children = self._tree.children.values()
        ready = sum(child.ready for child in children)
        details = [f"{child.name}: {child.status}" for child in children if child.status and child.running]
        return "; ".join([f"{self._phase}, {ready} of {len(children)} actors ready", *details])

    def _extend(self) -> None:
        self._notify.extend_timeout(_EXTEND_BY_S)
        self._timers.set("", "extend", _EXTEND_EVERY_S, self._extend)

    def _flush(self) -> None:
        if not self._notify.flush():
            self._timers.set("", "flush", _RESEND_S, self._flush)

    def _feed(self, every_s: float) -> None:
        """From the loop itself, so a loop that stands still is noticed; withheld when a core child has been down for too long."""
        if not self._core_is_down():
            self._notify.watchdog()
        self._timers.set("", "watchdog", every_s, lambda: self._feed(every_s))

    def _core_is_down(self) -> bool:
        limit_s = self._clock.monotonic_s() - self._settings.core_down_limit_s
        return any(
            child.down_since_s is not None and child.down_since_s < limit_s
            for child in self._tree.children.values()
            if child.spec.critical and child.spec.ping
        )
