"""How an end is told: to the peers, and to the log, where an expected end is not an error."""

from __future__ import annotations

import logging
from typing import Final

from shiftboss import control
from shiftboss.events import Event, emit
from shiftboss.supervisor.child import Child, Exit
from shiftboss.supervisor.spec import Restart
from shiftboss.supervisor.states import ChildState

STOP_REASON: Final = "stop"  # it ended, or was killed, because the service stops


def peer_died(child: Child, exit_: Exit, now_s: float) -> control.PeerDied:
    """What the peers of the ended incarnation are told."""
    return control.PeerDied(
        peer=child.name,
        incarnation=child.incarnation,
        exit_code=exit_.exit_code,
        signal=exit_.signal,
        reason=child.reason or (STOP_REASON if child.state is ChildState.STOPPING else None),
        peak_rss_kib=exit_.peak_rss_kib,
        uptime_s=now_s - child.started_s,
        has_table=child.process is not None and child.process.table_fd is not None,
    )


def how_it_ended(death: control.PeerDied) -> str:
    """For people: `by SIGKILL (hung) after 3.2 s, at most 81 MiB`."""
    how = f"by {death.signal}" if death.signal else f"with exit code {death.exit_code}"
    why = f" ({death.reason})" if death.reason else ""
    return f"{how}{why} after {death.uptime_s:.1f} s, at most {death.peak_rss_kib / 1024:.0f} MiB"


def log_end(log: logging.Logger, child: Child, death: control.PeerDied) -> None:
    """One line on how `child` has ended."""
    level, event = _severity(child, death)
    emit(
        log,
        level,
        event,
        f"{child.name} ended {how_it_ended(death)}",
        actor=child.name,
        incarnation=death.incarnation,
        exit_code=death.exit_code,
        signal=death.signal,
        uptime_s=round(death.uptime_s, 3),
        peak_rss_kib=death.peak_rss_kib,
        reason=death.reason,
    )


def _severity(child: Child, death: control.PeerDied) -> tuple[int, Event]:
    if child.planned or _was_expected(child, death):
        return logging.INFO, Event.ACTOR_STOPPED
    if child.ready_s is None and child.state is not ChildState.STOPPING:
        return logging.ERROR, Event.ACTOR_BOOT_FAILED
    return logging.ERROR, Event.ACTOR_CRASHED


def _was_expected(child: Child, death: control.PeerDied) -> bool:
    if death.exit_code != 0:
        return death.reason == STOP_REASON and child.state is ChildState.KILLING  # logged as killed, at its time
    return child.state is ChildState.STOPPING or child.spec.restart is not Restart.PERMANENT
