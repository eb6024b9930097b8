"""Shiftboss: a team's background work as one well-behaved service, on SQLite or PostgreSQL.

What is in `__all__` is public; everything else may change between releases. Importing this loads no actor and no driver.
"""

from __future__ import annotations

from shiftboss.bound import BoundTask, Prepared
from shiftboss.client import Client
from shiftboss.context import Attempt, Cancel, EndAttempt, Retry, Snooze, current_attempt
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
    TransactionError,
    UnknownTaskType,
)
from shiftboss.handle import Handle
from shiftboss.handler import Task
from shiftboss.model import TaskState, TaskView
from shiftboss.registry import registry
from shiftboss.retry import Constant, Exponential
from shiftboss.task import task

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
