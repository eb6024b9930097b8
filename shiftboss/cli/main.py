"""The command line: puts the commands together, and turns every end into a stable exit code and at most one clear message."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Final

import typer

from shiftboss.cli.exits import INTERRUPTED, USAGE, explain

# BadParameter is what typer exports of click's errors; its bases have lived in two places.
_UsageError: Final = typer.BadParameter.__mro__[1]
_ClickError: Final = typer.BadParameter.__mro__[2]

# Command -> where it is. Only the module that a command line names is imported: a command has to be quick.
_COMMANDS: Final = {
    "start": "start:start",
    "dev": "start:dev",
    "status": "status:status",
    "stop": "service:stop",
    "drain": "service:drain",
    "resume": "service:resume",
    "reload": "service:reload",
    "restart": "service:restart",
    "scale": "service:scale",
    "dump": "service:dump",
    "enqueue": "enqueue:enqueue",
    "tasks": "tasks:app",
    "queues": "queues:app",
    "workers": "status:workers_app",
    "db": "db:app",
    "config": "config:app",
    "systemd": "systemd:app",
    "version": "status:version",
}


def make_app(names: Iterable[str] = _COMMANDS) -> typer.Typer:
    """The command line with these of its commands, by default all."""
    app = typer.Typer(
        name="shiftboss",
        help="Background tasks on SQLite or PostgreSQL, run by a supervised tree of processes.",
        epilog="Exit codes: 0 done, 1 not found, not running or nothing changed, 64 wrong command line, 75 no database, "
        "78 bad configuration.",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=names is _COMMANDS,  # its options are for the whole, and slow
        callback=_nothing,  # or a single command would take the place of the whole
    )
    for name in names:
        module, _, attribute = _COMMANDS[name].partition(":")
        command = getattr(import_module(f"shiftboss.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _nothing() -> None:
    """No option belongs to all commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, by default this process's. Returns the exit code; prints errors to standard error."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app = make_app(words[:1]) if words and words[0] in _COMMANDS else make_app()
        code = app(args=words, prog_name="shiftboss", standalone_mode=False)
    except SystemExit as end:  # shell completion has answered, or nobody reads what is printed (`| head`)
        return end.code if isinstance(end.code, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the one place that turns any error into a message and a code
        return _explain(error)
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    if isinstance(error, _ClickError):
        error.show()  # type: ignore[attr-defined]
        return USAGE
    return explain(error)
