"""What the service manager is told on the way: readiness, one line of status, more time, signs of life."""

from __future__ import annotations

from typing import Final

from shiftboss.clock import Clock
from shiftboss.supervisor.notify import Notifier
from shiftboss.supervisor.quiet import POOL, Quiet
from shiftboss.supervisor.spec import SupervisorSettings
from shiftboss.supervisor.timers import Timers
from shiftboss.supervisor.tree import Tree

_STATUS_EVERY_S: Final = 1.0
_EXTEND_EVERY_S: Final = 2.0
_EXTEND_BY_S: Final = 10.0
_RESEND_S: Final = 0.2
_FEEDS_PER_WATCHDOG: Final = 3


class StatusLine:
    """Knows the phase of the service and keeps the service manager informed, if there is one."""

    def __init__(
        self, tree: Tree, timers: Timers, settings: SupervisorSettings, clock: Clock, notify: Notifier, quiet: Quiet
    ) -> None:
        self._tree, self._timers, self.settings, self._clock, self._notify = tree, timers, settings, clock, notify
        self._quiet = quiet
        self._phase, self._stop_reason, self._reloading = "starting", "", False

    @property
    def phase(self) -> str:
        """starting, ready, reloading, quiet, paused or stopping: what says most."""
        if self._phase == "stopping":
            return self._phase
        if self._reloading:
            return "reloading"
        if self._quiet:
            return "paused" if self._quiet.wanted_by(POOL) else "quiet"
        return self._phase

    @property
    def why(self) -> str:
        """Of the phase, where there is more to say."""
        return self._stop_reason or self._quiet.why

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

    def reloading(self) -> None:
        """A reload begins; `reloaded` must follow, also when it fails, or the manager waits for ever."""
        self._reloading = True
        self._notify.reloading(self._line())
        self._flush()

    def reloaded(self) -> None:
        """It has ended, well or not."""
        self._reloading = False
        if self._phase == "ready":
            self._notify.ready(self._line())
            self._flush()

    def stopping(self, why: str) -> None:
        """The stop begins; our own deadline is what ends it, not the manager's."""
        self._phase, self._stop_reason, self._reloading = "stopping", why, False
        self._notify.stopping(self._line())
        self._flush()
        if self._notify.enabled:
            self._extend()

    def changed(self) -> None:
        """The line has changed; it is sent once a second at most."""
        if self._notify.enabled and not self._timers.is_set("", "status"):
            self._timers.set("", "status", _STATUS_EVERY_S, lambda: self._notify.status(self._line()))

    def _line(self) -> str:
        children = [child for child in self._tree.children.values() if not child.held_back]
        wanted = [child for child in children if not child.retiring]
        phase = f"{self.phase} ({self.why})" if self.why else self.phase
        retiring = [f"{len(children) - len(wanted)} retiring"] if len(children) > len(wanted) else []
        details = [f"{child.name}: {child.status}" for child in children if child.status and child.running]
        ready = sum(child.ready for child in wanted)
        return "; ".join([f"{phase}, {ready} of {len(wanted)} actors ready", *retiring, *details])

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
        limit_s = self._clock.monotonic_s() - self.settings.core_down_limit_s
        return any(
            child.down_since_s is not None and child.down_since_s < limit_s
            for child in self._tree.children.values()
            if child.spec.critical and child.spec.ping
        )
