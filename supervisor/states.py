"""The states of a child as a table: one thing to read, and every change of state goes through it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class ChildState(StrEnum):
    """Where a child is in its life; the process exists in STARTING, READY, STOPPING and KILLING only."""

    IDLE = "idle"  # not started yet
    STARTING = "starting"  # has a process that has not said Ready
    READY = "ready"
    STOPPING = "stopping"  # was told Stop
    KILLING = "killing"  # was sent SIGABRT or SIGKILL by us
    BACKOFF = "backoff"  # has ended, will be started again
    ENDED = "ended"  # has ended, or was never started, and will not be


class ChildEvent(StrEnum):
    """What happens to a child."""

    SPAWN = "spawn"
    READY = "ready"
    STOP = "stop"
    KILL = "kill"
    DELAY = "delay"  # it ended, and is to be started again
    END = "end"  # it ended for good


CHILD_TRANSITIONS: Final[Mapping[tuple[ChildState, ChildEvent], ChildState]] = {
    (ChildState.IDLE, ChildEvent.SPAWN): ChildState.STARTING,
    (ChildState.IDLE, ChildEvent.END): ChildState.ENDED,  # the stop came before its start
    (ChildState.STARTING, ChildEvent.READY): ChildState.READY,
    (ChildState.STARTING, ChildEvent.STOP): ChildState.STOPPING,
    (ChildState.STARTING, ChildEvent.KILL): ChildState.KILLING,
    (ChildState.STARTING, ChildEvent.DELAY): ChildState.BACKOFF,
    (ChildState.STARTING, ChildEvent.END): ChildState.ENDED,
    (ChildState.READY, ChildEvent.STOP): ChildState.STOPPING,
    (ChildState.READY, ChildEvent.KILL): ChildState.KILLING,
    (ChildState.READY, ChildEvent.DELAY): ChildState.BACKOFF,
    (ChildState.READY, ChildEvent.END): ChildState.ENDED,
    (ChildState.STOPPING, ChildEvent.READY): ChildState.STOPPING,  # its Ready crossed our Stop
    (ChildState.STOPPING, ChildEvent.STOP): ChildState.STOPPING,  # a later Stop leaves less time
    (ChildState.STOPPING, ChildEvent.KILL): ChildState.KILLING,
    (ChildState.STOPPING, ChildEvent.DELAY): ChildState.BACKOFF,  # only the draining child
    (ChildState.STOPPING, ChildEvent.END): ChildState.ENDED,
    (ChildState.KILLING, ChildEvent.READY): ChildState.KILLING,
    (ChildState.KILLING, ChildEvent.STOP): ChildState.KILLING,
    (ChildState.KILLING, ChildEvent.KILL): ChildState.KILLING,  # SIGABRT first, SIGKILL then
    (ChildState.KILLING, ChildEvent.DELAY): ChildState.BACKOFF,
    (ChildState.KILLING, ChildEvent.END): ChildState.ENDED,
    (ChildState.BACKOFF, ChildEvent.SPAWN): ChildState.STARTING,
    (ChildState.BACKOFF, ChildEvent.END): ChildState.ENDED,
}

WITH_PROCESS: Final = frozenset({ChildState.STARTING, ChildState.READY, ChildState.STOPPING, ChildState.KILLING})


def after(state: ChildState, event: ChildEvent) -> ChildState:
    """The state that follows.

    Raises:
        RuntimeError: the table has no such transition; a bug in the supervisor.
    """
    following = CHILD_TRANSITIONS.get((state, event))
    if following is None:
        raise RuntimeError(f"a child in state {state} cannot take the event {event}; please report this")
    return following
