"""What the supervisor knows, for `shiftboss status`."""

from __future__ import annotations

import os

from shiftboss.clock import Clock
from shiftboss.commands import ActorStatus, ServiceStatus
from shiftboss.supervisor.child import Child
from shiftboss.supervisor.reloading import Reloading
from shiftboss.supervisor.status import StatusLine
from shiftboss.supervisor.tree import Tree


class Reporter:
    """Puts it together when somebody asks."""

    def __init__(self, tree: Tree, clock: Clock, status: StatusLine, reloading: Reloading) -> None:
        self._tree, self._clock, self._status, self._reloading = tree, clock, status, reloading
        self._began_s = clock.monotonic_s()

    def status(self) -> ServiceStatus:
        """The present state of the service and of every child."""
        now_s, wanted, last = self._clock.monotonic_s(), self._tree.rolling, self._reloading.last
        return ServiceStatus(
            pid=os.getpid(),
            phase=self._status.phase,
            why=self._status.why,
            uptime_s=round(now_s - self._began_s, 3),
            executors_wanted=len(wanted),
            executors_ready=sum(child.ready for child in wanted),
            actors=tuple(_actor(child, now_s) for group in self._tree.groups for child in group),
            last_reload=last.text if last else "",
            last_reload_ok=last.ok if last else None,
            last_reload_at=last.at if last else None,
        )


def _actor(child: Child, now_s: float) -> ActorStatus:
    process = child.process
    return ActorStatus(
        name=child.name,
        state="retiring" if child.retiring else str(child.state),
        pid=process.pid if process is not None else None,
        incarnation=child.incarnation,
        uptime_s=round(now_s - child.started_s, 3) if process is not None else None,
        restarts=child.restarts,
        last_end=child.last_end,
        status=child.status,
    )
