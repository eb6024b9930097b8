"""Which task a line belongs to: noted in every record, whatever logger made it."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Sized
from typing import Any, ClassVar, Final, NamedTuple

# Attribute of every record; not "task_id": `extra={"task_id": …}` of a handler must not be refused by logging.
TASK_ATTRIBUTE: Final = "shiftboss_task"


class BoundTask(NamedTuple):
    """Whose lines these are."""

    task_id: str
    type: str
    attempt: int
    queue: str


_bound: Final[contextvars.ContextVar[BoundTask | None]] = contextvars.ContextVar("shiftboss_current_task", default=None)

# The `Attempt` that runs here: lines that are not bound to anything else are its task's. Its home is above this one.
running: Final[contextvars.ContextVar[Any]] = contextvars.ContextVar("shiftboss_attempt", default=None)


def current_task() -> BoundTask | None:
    """Whose lines are logged here, in this thread or asyncio task; `None` when they are no task's."""
    bound, attempt = _bound.get(), running.get()
    return task_of(attempt) if bound is None and attempt is not None else bound


def task_of(attempt: Any) -> BoundTask:
    """Its task, for lines. Made when a line is logged: most attempts log none."""
    return BoundTask(attempt.task_id, attempt.type, attempt.number, attempt.queue)


class bind_task:  # noqa: N801  reads as a function: `with bind_task(id, type, attempt, queue):`
    """Marks every line logged inside the `with` block, in this thread or asyncio task, as the task's. Costs about 1 µs."""

    __slots__ = ("_task", "_token")

    at_end: ClassVar[Callable[[BoundTask], None] | None] = None  # told when a block is left; set by `capture_output`
    half_lines: ClassVar[Sized] = ()  # what was printed and has not ended yet; set likewise

    def __init__(self, task_id: str, type: str, attempt: int, queue: str) -> None:  # noqa: A002
        self._task = BoundTask(task_id, type, attempt, queue)

    def __enter__(self) -> BoundTask:
        self._token = _bound.set(self._task)
        return self._task

    def __exit__(self, *_exception: object) -> None:
        _bound.reset(self._token)
        if bind_task.at_end is not None:
            bind_task.at_end(self._task)


def attempt_over(attempt: Any) -> None:
    """The attempt has left this thread or asyncio task: lines that it has not ended, end here. Needed with `half_lines` only."""
    if bind_task.at_end is not None:
        bind_task.at_end(task_of(attempt))


class RecordFactory:
    """Notes the task when the record is made: a queue may carry it to another thread before it is written."""

    def __init__(self, inner: Callable[..., logging.LogRecord]) -> None:
        self._inner = inner

    def __call__(self, *args: object, **kwargs: object) -> logging.LogRecord:
        record = self._inner(*args, **kwargs)
        record.__dict__[TASK_ATTRIBUTE] = current_task()
        return record
