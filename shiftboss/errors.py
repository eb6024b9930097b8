"""Every error of Shiftboss, in one tree: catch at the level you mean.

A message says what happened and what to do about it.
"""

from __future__ import annotations


class ShiftbossError(Exception):
    """The root: `except ShiftbossError` catches everything that this package raises on purpose."""


class ConfigError(ShiftbossError):
    """Settings are wrong; every mistake found stands in the message, one a line."""


class TaskDefinitionError(ShiftbossError):
    """A `@task` cannot be registered: its type is taken, its options or its annotations are impossible."""


class ArgumentsError(ShiftbossError):
    """The arguments of a task cannot be stored as JSON, or do not fit its handler; names the argument."""


class OptionError(ShiftbossError, ValueError):
    """An option of `@task`, `using()`, `Retry` or `Snooze` has an impossible value; names the option."""


class BlockingCall(ShiftbossError, RuntimeError):
    """A sync call that waits for the network was made where it would stop an event loop; names the async twin."""


class ResultError(ShiftbossError):
    """The handler finished, but what it returned cannot be stored as JSON or does not fit its return annotation."""


class ResultExpired(ShiftbossError):
    """The task completed, but its result is older than the result retention and was removed."""


class UnknownTaskType(ShiftbossError):
    """No handler is registered for the type in this process."""


class TaskNotFound(ShiftbossError):
    """No task has this id: never enqueued, rolled back, pruned after its retention, or completed where no history is kept."""


class TaskNotKept(TaskNotFound):
    """The task has completed in a worker that keeps no history of completed tasks (`completed_retention = "0s"`).

    Neither its result nor anything else can be read, and an hour after its end this is an ordinary `TaskNotFound`.
    """


class TaskNotFinished(ShiftbossError, TimeoutError):
    """The task had not ended when `result(timeout=…)` ran out."""


class TaskFailed(ShiftbossError):
    """The task ended without a result: dead letter or cancelled.

    Attributes:
        task_id: the task's id.
        status: `dead_letter` or `cancelled`.
        error: the last error, one line.
        remote_traceback: the traceback text of the last attempt, as the executor saw it; `None` if there is none.
    """

    def __init__(self, task_id: str, status: str, error: str | None, remote_traceback: str | None = None) -> None:
        message = f"task {task_id} ended as {status}: {error or 'no error recorded'}"
        super().__init__(f"{message}\n\n{remote_traceback}" if remote_traceback else message)
        self.task_id, self.status, self.error, self.remote_traceback = task_id, status, error, remote_traceback


class TransactionError(ShiftbossError):
    """`tx=` is not a connection that Shiftboss can join, or belongs to another kind of database."""


class StoreError(ShiftbossError):
    """The database refused or failed."""


class StoreUnavailable(StoreError):
    """The database cannot be reached or is not writable now; trying again later may work.

    The outcome of the statement under way is unknown: it may have been stored.
    """


class StoreCorrupt(StoreUnavailable):
    """The database file is damaged, or was deleted or replaced while open; nothing is written to it.

    Waiting alone cures none of that, but whoever holds results keeps them until a person has put the file right.
    """


class SchemaError(StoreError):
    """The schema is missing, too old or too new for this version; the message names the command to run."""
