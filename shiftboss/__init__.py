"""Shiftboss: a team's background work as one well-behaved service, on SQLite or PostgreSQL.

What is in `__all__` is public; everything else may change between releases. Importing this loads no actor and no driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shiftboss.bound import BoundTask, Prepared
    from shiftboss.catalog import registry
    from shiftboss.client import Client
    from shiftboss.context import Attempt, Cancel, EndAttempt, Retry, Snooze, current_attempt
    from shiftboss.decorator import task
    from shiftboss.default import configure, default_client
    from shiftboss.errors import (
        ArgumentsError,
        BlockingCall,
        ConfigError,
        OptionError,
        ResultError,
        ResultExpired,
        SchemaError,
        ShiftbossError,
        StoreCorrupt,
        StoreError,
        StoreUnavailable,
        TaskDefinitionError,
        TaskFailed,
        TaskNotFinished,
        TaskNotFound,
        TaskNotKept,
        TransactionError,
        UnknownTaskType,
    )
    from shiftboss.handle import Handle
    from shiftboss.handler import Task
    from shiftboss.model import TaskState, TaskView
    from shiftboss.retry import Constant, Exponential

__version__: Final = "0.1.0"

__all__ = [
    "ArgumentsError",
    "Attempt",
    "BlockingCall",
    "BoundTask",
    "Cancel",
    "Client",
    "ConfigError",
    "Constant",
    "EndAttempt",
    "Exponential",
    "Handle",
    "OptionError",
    "Prepared",
    "ResultError",
    "ResultExpired",
    "Retry",
    "SchemaError",
    "ShiftbossError",
    "Snooze",
    "StoreCorrupt",
    "StoreError",
    "StoreUnavailable",
    "Task",
    "TaskDefinitionError",
    "TaskFailed",
    "TaskNotFinished",
    "TaskNotFound",
    "TaskNotKept",
    "TaskState",
    "TaskView",
    "TransactionError",
    "UnknownTaskType",
    "configure",
    "current_attempt",
    "default_client",
    "registry",
    "task",
]

# Loaded when first used: the service's own processes import this package too, and most of them need none of these names.
_HOMES: Final = {
    name: home
    for home, names in {
        "bound": (
            "BoundTask",
            "Prepared",
        ),
        "catalog": ("registry",),
        "client": ("Client",),
        "context": (
            "Attempt",
            "Cancel",
            "EndAttempt",
            "Retry",
            "Snooze",
            "current_attempt",
        ),
        "decorator": ("task",),
        "default": (
            "configure",
            "default_client",
        ),
        "errors": (
            "ArgumentsError",
            "BlockingCall",
            "ConfigError",
            "OptionError",
            "ResultError",
            "ResultExpired",
            "SchemaError",
            "ShiftbossError",
            "StoreCorrupt",
            "StoreError",
            "StoreUnavailable",
            "TaskDefinitionError",
            "TaskFailed",
            "TaskNotFinished",
            "TaskNotFound",
            "TaskNotKept",
            "TransactionError",
            "UnknownTaskType",
        ),
        "handle": ("Handle",),
        "handler": ("Task",),
        "model": (
            "TaskState",
            "TaskView",
        ),
        "retry": (
            "Constant",
            "Exponential",
        ),
    }.items()
    for name in names
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """A public name, from the module it lives in."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"shiftboss.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
