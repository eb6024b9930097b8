"""Names of everything that is logged, and the one function that logs it.

An event's name never changes its spelling: dashboards and `journalctl` queries lean on it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Event(StrEnum):
    """`noun.verb`, one a line of log; each has its line in docs/reference/events.md."""

    SERVICE_STARTING = "service.starting"
    SERVICE_WRAPPED = "service.wrapped"
    SERVICE_READY = "service.ready"
    SERVICE_STOPPING = "service.stopping"
    SERVICE_STOPPED = "service.stopped"
    SERVICE_QUIET = "service.quiet"
    SERVICE_RESUMED = "service.resumed"
    SERVICE_RELOAD_STARTED = "service.reload_started"
    SERVICE_RELOAD_FINISHED = "service.reload_finished"
    SERVICE_RELOAD_FAILED = "service.reload_failed"
    SERVICE_SCALED = "service.scaled"
    OPERATION_FAILED = "operation.failed"
    COMMAND_RECEIVED = "command.received"
    COMMAND_REFUSED = "command.refused"
    CONTROL_UNAVAILABLE = "control.unavailable"
    SIGNAL_RECEIVED = "signal.received"
    SIGNAL_IGNORED = "signal.ignored"
    DRAIN_PROGRESS = "drain.progress"
    DRAIN_TIMEOUT = "drain.timeout"

    ACTOR_STARTING = "actor.starting"
    ACTOR_READY = "actor.ready"
    ACTOR_STOPPED = "actor.stopped"
    ACTOR_CRASHED = "actor.crashed"
    ACTOR_BOOT_FAILED = "actor.boot_failed"
    ACTOR_HUNG = "actor.hung"
    ACTOR_KILLED = "actor.killed"
    ACTOR_RESTART_SCHEDULED = "actor.restart_scheduled"
    ACTOR_STATE = "actor.state"
    ACTOR_UNLINKED = "actor.unlinked"
    ACTOR_RETIRING = "actor.retiring"
    ACTOR_REPLACED = "actor.replaced"
    ACTOR_STACKS = "actor.stacks"
    ACTOR_RELOADED = "actor.reloaded"
    EXECUTOR_SHORT_OF_THREADS = "executor.short_of_threads"
    ATTEMPTS_LOST = "attempts.lost"
    POOL_PROBED = "pool.probed"
    POOL_RESUMED = "pool.resumed"
    SUPERVISOR_INTENSITY_EXCEEDED = "supervisor.intensity_exceeded"
    ORPHAN_REAPED = "orphan.reaped"

    WORKER_REGISTERED = "worker.registered"
    WORKER_FENCED = "worker.fenced"
    WORKER_REMOVED = "worker.removed"
    HEARTBEAT_MISSED = "heartbeat.missed"

    TASK_STARTED = "task.started"
    TASK_COMPLETED = "task.completed"
    TASK_FAILED = "task.failed"
    TASK_DEAD_LETTER = "task.dead_letter"
    TASK_TIMEOUT = "task.timeout"
    TASK_CRASHED = "task.crashed"
    TASK_INTERRUPTED = "task.interrupted"
    TASK_CANCELLED = "task.cancelled"
    TASK_SNOOZED = "task.snoozed"
    TASK_FENCED = "task.fenced"
    TASK_ALREADY_APPLIED = "task.already_applied"
    TASK_RELEASED = "task.released"
    TASK_RECOVERED = "task.recovered"
    TASK_UNKNOWN_TYPE = "task.unknown_type"
    TASK_LOG = "task.log"
    TASKS_CLAIMED = "tasks.claimed"
    TASKS_PRUNED = "tasks.pruned"
    SAMPLES_ENQUEUED = "samples.enqueued"

    LEADER_ELECTED = "leader.elected"
    LEADER_RESIGNED = "leader.resigned"
    LEADER_LOST = "leader.lost"

    DATABASE_UNREACHABLE = "database.unreachable"
    DATABASE_RECOVERED = "database.recovered"
    DATABASE_MIGRATED = "database.migrated"

    JOURNAL_DROPPED = "journal.dropped"
    OUTPUT_LINE = "output.line"

    GATEWAY_LISTENING = "gateway.listening"
    HEALTH_LOST = "health.lost"
    HEALTH_REGAINED = "health.regained"


# What the journal knows these lines by (MESSAGE_ID in journald's fields), for alerts and message catalogs: never another number.
MESSAGE_IDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        Event.SERVICE_READY: "3d64eb62b4f646858b8d9e74af379122",
        Event.SERVICE_RELOAD_FAILED: "52783b2c27ff4e25a12eb4e0fee81d9e",
        Event.ACTOR_CRASHED: "4d6a21af3c554cd285e2818797dbaa4a",
        Event.SUPERVISOR_INTENSITY_EXCEEDED: "c3f0c45afe64428d87143c9e1637e391",
        Event.DRAIN_TIMEOUT: "aa81dbd811ec4967b749060a300768fb",
    }
)


def emit(
    log: logging.Logger, level: int, event: Event, message: str = "", stacks: str | None = None, /, **fields: object
) -> None:
    """Log one event with its fields; the formatters (`shiftboss.logs`) turn them into text, JSON or journal lines.

    Args:
        message: for people; the event's name and the fields are enough for programs.
        stacks: text of many lines that stands where a traceback would, in the same entry.
        fields: values are written as they are when str, int, float, bool or None, else by `str()`.
    """
    if not log.isEnabledFor(level):
        return
    extra, text = {"event": event.value, "fields": fields}, message or event.value
    if stacks is None:
        log.log(level, text, extra=extra, stacklevel=2)
    else:  # Logger.log would put the caller's own stack there
        file, number, function, _ = log.findCaller(stacklevel=2)
        log.handle(log.makeRecord(log.name, level, file, number, text, (), None, function, extra, stacks))
