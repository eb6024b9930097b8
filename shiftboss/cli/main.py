"""The command line: puts the commands together, and turns every end into a stable exit code and at most one clear message."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from typing import Final

import typer

from shiftboss.cli import config, db, enqueue, queues, start, status, tasks
from shiftboss.cli.exits import BUG, INTERRUPTED, USAGE, exit_code_of
from shiftboss.errors import ShiftbossError

# BadParameter is what typer exports of click's errors; its bases have lived in two places.
_UsageError: Final = typer.BadParameter.__mro__[1]
_ClickError: Final = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="shiftboss",
    help="Background tasks on SQLite or PostgreSQL, run by a supervised tree of processes.",
    epilog="Exit codes: 0 done, 1 not found or nothing changed, 64 wrong command line, 75 no database, 78 bad configuration.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("start")(start.start)
app.command("dev")(start.dev)
app.command("enqueue")(enqueue.enqueue)
app.command("status")(status.status)
app.command("version")(status.version)
app.add_typer(tasks.app, name="tasks")
app.add_typer(queues.app, name="queues")
app.add_typer(status.workers_app, name="workers")
app.add_typer(db.app, name="db")
app.add_typer(config.app, name="config")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line, by default this process's. Returns the exit code; prints errors to standard error."""
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="shiftboss", standalone_mode=False)
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
    if os.environ.get("DEBUG", "").lower() in ("1", "true", "yes", "on"):
        traceback.print_exception(error)
    if isinstance(error, ShiftbossError):
        for line in str(error).splitlines():
            typer.echo(f"shiftboss: {line}", err=True)
        return exit_code_of(error)
    typer.echo(f"shiftboss: a bug: {type(error).__name__}: {error}; DEBUG=1 shows where", err=True)
    return BUG
