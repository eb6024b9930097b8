"""Words of the task protocol as types: states, events, the table of transitions, and the records that cross walls.

Stores, tests and docs read `TASK_TRANSITIONS`; nothing else decides what a task may become.
Ids are UUIDs (version 7) in canonical lower-case text, times are timezone-aware UTC, durations are seconds as float.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec


class TaskState(StrEnum):
    """Where a task stands. The first four live in `tasks`, the last two in `task_history`."""

    PENDING = "pending"
    CLAIMED = "claimed"
    RUNNING = "running"
    DEAD_LETTER = "dead_letter"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class TaskEvent(StrEnum):
    """What can happen to a task."""

    ENQUEUE = "enqueue"
    CLAIM = "claim"
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    RELEASE = "release"
    INTERRUPT = "interrupt"
    SNOOZE = "snooze"
    RECOVER = "recover"
    CANCEL = "cancel"
    RETRY = "retry"
    PRUNE = "prune"


class Outcome(StrEnum):
    """How one attempt ended."""

    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    LOST = "lost"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    SNOOZED = "snoozed"


_P, _C, _R = TaskState.PENDING, TaskState.CLAIMED, TaskState.RUNNING
_DONE, _DEAD, _CANCELLED = TaskState.COMPLETED, TaskState.DEAD_LETTER, TaskState.CANCELLED

# (state, event) -> the states it may lead to; None as a state is "no such row". What is not here is refused.
# A cancel of a leased task only asks: the row stays until its executor has stopped it.
TASK_TRANSITIONS: Final[Mapping[tuple[TaskState | None, TaskEvent], frozenset[TaskState | None]]] = MappingProxyType(
    {
        (None, TaskEvent.ENQUEUE): frozenset({_P}),
        (_P, TaskEvent.CLAIM): frozenset({_C, _R}),
        (_C, TaskEvent.START): frozenset({_R}),
        (_C, TaskEvent.SUCCEED): frozenset({_DONE}),
        (_R, TaskEvent.SUCCEED): frozenset({_DONE}),
        (_C, TaskEvent.FAIL): frozenset({_P, _DEAD}),
        (_R, TaskEvent.FAIL): frozenset({_P, _DEAD}),
        (_C, TaskEvent.RELEASE): frozenset({_P}),
        (_R, TaskEvent.RELEASE): frozenset({_P, _DEAD}),
        (_C, TaskEvent.INTERRUPT): frozenset({_P, _DEAD}),
        (_R, TaskEvent.INTERRUPT): frozenset({_P, _DEAD}),
        (_C, TaskEvent.SNOOZE): frozenset({_P, _DEAD}),
        (_R, TaskEvent.SNOOZE): frozenset({_P, _DEAD}),
        (_C, TaskEvent.RECOVER): frozenset({_P, _DEAD}),
        (_R, TaskEvent.RECOVER): frozenset({_P, _DEAD}),
        (_P, TaskEvent.CANCEL): frozenset({_CANCELLED}),
        (_C, TaskEvent.CANCEL): frozenset({_C, _CANCELLED}),
        (_R, TaskEvent.CANCEL): frozenset({_R, _CANCELLED}),
        (_DEAD, TaskEvent.RETRY): frozenset({_P}),
        (_CANCELLED, TaskEvent.RETRY): frozenset({_P}),
        (_DONE, TaskEvent.PRUNE): frozenset({None}),
        (_CANCELLED, TaskEvent.PRUNE): frozenset({None}),
        (_DEAD, TaskEvent.PRUNE): frozenset({None}),
    }
)

LEASED_STATES: Final = frozenset({_C, _R})
ENDED_STATES: Final = frozenset({_DONE, _CANCELLED, _DEAD})

NULL: Final = msgspec.Raw(b"null")  # JSON for "none"; a Raw that may also be None cannot be decoded by msgspec
MIN_PRIORITY: Final = -100
MAX_PRIORITY: Final = 100
DEFAULT_MAX_ATTEMPTS: Final = 5
# Attempts given back (interrupted, snoozed, unstarted at a crash) per task; past it every run is charged:
# nothing runs for ever.
MAX_REFUNDS: Final = 100
MAX_ERROR_CHARS: Final = 2_000
MAX_TRACEBACK_CHARS: Final = 32_000


def new_task_id() -> str:
    """A UUID version 7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, 12 of their fraction (§6.2, method 3), then random.

    New rows sit together in an index, and ids made one after the other in a process sort in that order (to 0.25 µs).
    """
    milliseconds, rest_ns = divmod(time.time_ns(), 1_000_000)
    fraction = rest_ns * 4096 // 1_000_000
    random = os.urandom(8).hex()
    variant = "89ab"[int(random[0], 16) & 3]
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:]}-7{fraction:03x}-{variant}{random[1:4]}-{random[4:]}"


class NewTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A task to be stored.

    `None` for `max_attempts` or `timeout_s` means "as the handler says": the first claim fills it in.
    """

    id: str
    type: str
    args: msgspec.Raw  # a JSON object: parameter name -> value
    queue: str = "default"
    priority: int = 0
    max_attempts: int | None = None
    timeout_s: float | None = None
    delay_s: float | None = None  # from the database's now; wins over run_at
    run_at: datetime | None = None
    unique_key: str | None = None
    tags: tuple[str, ...] = ()
    meta: msgspec.Raw | None = None  # a JSON object


class Enqueued(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of one `NewTask`: stored under its own id, or an unfinished task had its unique key before."""

    id: str
    existing: bool = False


# By the thousand and made of plain values, so nothing for the garbage collector to follow (`gc=False`).
class Claim(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One task that this worker holds, as the claimer and the executor need it."""

    task_id: str
    fence: int  # fencing token: +1 at every claim, never reset
    attempt: int  # the number this run has or will have once it starts, from 1
    type: str
    queue: str
    priority: int
    args: msgspec.Raw
    max_attempts: int
    timeout_s: float | None
    running: bool  # stored as running (the attempt is charged) or as claimed (prefetched)
    enqueued_at: float  # Unix seconds, the database's clock
    due_at: float  # Unix seconds, the database's clock
    tags: tuple[str, ...] = ()
    meta: msgspec.Raw = NULL


class Lease(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A right to a task: every write by its holder names both."""

    task_id: str
    fence: int


class Ended(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The end of one attempt, as its owner reports it to the store."""

    task_id: str
    fence: int
    outcome: Outcome
    result: msgspec.Raw = NULL  # JSON; only for success
    error: str | None = None  # one line
    traceback: str | None = None
    retry_in_s: float | None = None  # failed, timeout, crashed: None = do not retry; snoozed: the delay
    started_at: float | None = None  # Unix seconds by the worker's clock, for people only
    duration_s: float = 0.0


class Verdict(StrEnum):
    """What a store says to each `Ended`."""

    APPLIED = "applied"
    ALREADY_APPLIED = "already_applied"  # this fence had stored this outcome before: an unknown COMMIT was in fact done
    FENCED = "fenced"  # someone else holds or ended the task, or this fence ended it with another outcome; this one was dropped
    LATER = "later"  # somebody has locked the row: nothing was stored and nothing is lost; send it again after a pause


class Progress(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The latest word of a running attempt on how far it is."""

    task_id: str
    fence: int
    percent: float
    note: str = ""


class TypeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker knows of a type it has a handler for."""

    type: str
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timeout_s: float | None = None
    is_async: bool = False
    backoff_base_s: float = 1.0  # for outcomes that no executor is left to decide (crashed)
    backoff_max_s: float = 3600.0


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as people and scripts see it: one row of `tasks` or `task_history`."""

    id: str
    type: str
    queue: str
    status: TaskState
    priority: int
    args: msgspec.Raw
    attempts: int
    max_attempts: int | None
    fence: int
    enqueued_at: datetime
    run_at: datetime
    updated_at: datetime
    worker_id: str | None = None
    last_error: str | None = None
    next_retry_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_s: float | None = None
    result: msgspec.Raw | None = None
    unique_key: str | None = None
    timeout_s: float | None = None
    cancel_requested: bool = False
    progress: msgspec.Raw | None = None
    tags: tuple[str, ...] = ()
    meta: msgspec.Raw | None = None


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One unsuccessful attempt: a row of `task_attempts`."""

    task_id: str
    fence: int
    attempt: int
    outcome: Outcome
    ended_at: datetime
    worker_id: str | None = None
    started_at: datetime | None = None
    duration_s: float | None = None
    error: str | None = None
    traceback: str | None = None


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One running service: a row of `workers`."""

    id: str
    hostname: str
    pid: int
    version: str
    started_at: datetime
    last_heartbeat: datetime
    pool_size: int
    active: int
    is_leader: bool = False
    alive: bool = True  # its heartbeat is younger than the timeout it announced


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """One queue: its settings and what is in it now."""

    name: str
    paused: bool = False
    concurrency: int | None = None  # running attempts per worker; None = no limit
    weight: int = 1
    pending: int = 0
    due: int = 0
    claimed: int = 0
    running: int = 0
    dead_letter: int = 0
