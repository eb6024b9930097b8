"""Importing the modules that define tasks: an executor's first act, and what a new configuration is tried with."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from shiftboss.catalog import registry
from shiftboss.config import Settings
from shiftboss.default import configure
from shiftboss.errors import ShiftbossError, TaskDefinitionError
from shiftboss.logs import capture_output, reclaim_logging

log = logging.getLogger("shiftboss.executor")


class CannotImport(ShiftbossError):
    """A module of the setting `imports` raised while it was imported, whatever that was.

    Attributes:
        theirs: what it raised, with the calls of somebody's code alone; `None` when the module itself is not there.
    """

    def __init__(self, module: str, error: BaseException) -> None:
        place = _place(error)
        super().__init__(f"cannot import {module!r}: {type(error).__name__}: {error}{place}")
        self.theirs = error.with_traceback(_their_calls(error.__traceback__)) if place else None


def load_handlers(settings: Settings) -> None:
    """Import what `settings` name; what the modules enqueue goes to these settings' database, and what
    they print, to the log.

    Raises:
        CannotImport: a module cannot be imported.
        TaskDefinitionError: the annotations of a handler cannot be resolved.
    """
    configure(settings.database_url, max_args_bytes=settings.max_args_bytes)
    samples = ("shiftboss.samples",) if settings.enqueue_examples else ()
    capture_output()
    import_handlers((*settings.imports, *samples))
    reclaim_logging()


def import_handlers(modules: tuple[str, ...]) -> None:
    """Import the modules that define tasks; the working directory comes first, as for `python -m`.

    Raises:
        CannotImport: a module cannot be imported.
        TaskDefinitionError: the annotations of a handler cannot be resolved.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001  sys.exit() too: whatever it is, the module is named
            raise CannotImport(module, error) from None
    registry.check()
    if not registry.types():
        log.warning("no handlers: name the modules that define tasks in the setting `imports`; pid %d", os.getpid())


def raised_by_them(error: BaseException) -> BaseException | None:
    """Whose traceback to log when `load_handlers` has raised: `None` where the message says it all and the calls are ours."""
    match error:
        case CannotImport():
            return error.theirs
        case TaskDefinitionError():
            return None
        case _:
            return error


def _place(error: BaseException) -> str:
    """` (file:line)` where it went wrong in somebody's code; empty when the module itself is not there."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    calls = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours
    theirs = [call for call in calls if not _imports(call.filename)]
    return f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""


def _their_calls(calls: TracebackType | None) -> TracebackType | None:
    """Without what goes before: ours, and Python's own that look for the module."""
    while calls is not None and (calls.tb_frame.f_code.co_filename == __file__ or _imports(calls.tb_frame.f_code.co_filename)):
        calls = calls.tb_next
    return calls


def _imports(filename: str) -> bool:
    return "importlib" in filename
