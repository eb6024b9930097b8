"""Logs: text on a terminal, JSON for machines, entries with fields for the journal.

Every line that a handler logs or prints, with any logger, carries its task's id, type, queue and attempt. Writing never raises
and never blocks for long: where nobody reads, lines are dropped and counted.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from shiftboss.logs.context import BoundTask, bind_task, current_task

if TYPE_CHECKING:
    from shiftboss.logs.identity import bind_worker
    from shiftboss.logs.setup import capture_output, close_logging, configure_logging, flush_logging, reclaim_logging

__all__ = [
    "BoundTask",
    "bind_task",
    "bind_worker",
    "capture_output",
    "close_logging",
    "configure_logging",
    "current_task",
    "flush_logging",
    "reclaim_logging",
]

# Loaded when first used: an application that only enqueues needs the tasks of lines, and none of the rest.
_HOMES: Final = {"bind_worker": "identity"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """A name of `__all__`, from the module it lives in."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"shiftboss.logs.{_HOMES.get(name, 'setup')}"), name)
        return value
