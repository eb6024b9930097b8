"""`shiftboss status`, `workers` and `version`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shiftboss import __version__
from shiftboss.cli import options
from shiftboss.cli.exits import DONE, NoAnswer
from shiftboss.cli.local import ask_status, print_local, why_not
from shiftboss.cli.output import cell, print_json, print_table
from shiftboss.cli.service import Socket
from shiftboss.commands import ServiceStatus
from shiftboss.config import LoadedSettings, redact
from shiftboss.errors import ShiftbossError

if TYPE_CHECKING:
    from shiftboss.model import WorkerView
    from shiftboss.store.base import Store

workers_app = typer.Typer(help="See workers.", no_args_is_help=True)

Local = Annotated[bool, typer.Option("--local", help="Ask the service on this machine only, not the database.")]


def status(
    local: Local = False,
    env: options.Env = None,
    config: options.Config = None,
    socket: Socket = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Show the service on this machine, then what its database knows: workers, the leader, queues, tasks.

    With the database down the service is shown all the same, and the exit code is 75. With `--local` the exit code is 1
    when no service runs.
    """
    if local:
        _show({"service": ask_status(env, config, socket)}, json)
        return DONE
    service = _local_or_why(env, config, socket)
    try:
        figures = _database_figures(options.load(env, config, set_))
    except ShiftbossError as error:
        if isinstance(service, ServiceStatus):
            _show({"service": service, "error": str(error)}, json)
        raise
    _show({"service": service, **figures}, json)
    return DONE


@workers_app.command("list")
def list_(env: options.Env = None, config: options.Config = None, set_: options.Set = None, json: options.Json = False) -> int:
    """List the workers, alive or silent."""
    with options.opened(options.load(env, config, set_)) as store:
        workers = store.workers()
    if json:
        print_json(workers)
    else:
        _print_workers(workers)
    return DONE


def version(json: options.Json = False) -> int:
    """Print the version."""
    if json:
        print_json({"version": __version__})
    else:
        typer.echo(f"shiftboss {__version__}")
    return DONE


def _local_or_why(env: str | None, config: Path | None, socket: Path | None) -> ServiceStatus | str:
    """The service here; or why it tells nothing, which is no error: tasks may be run elsewhere."""
    try:
        return ask_status(env, config, socket)
    except NoAnswer as error:
        return why_not(error)


def _database_figures(loaded: LoadedSettings) -> dict[str, Any]:
    with options.opened(loaded) as store:
        return _figures(loaded, store)


def _show(shown: dict[str, Any], as_json: bool) -> None:
    """Print the service, or the line that stands for it, and what was learned besides."""
    service = shown["service"]
    if as_json:
        running = isinstance(service, ServiceStatus)
        print_json({**shown, "service": service if running else None, "service_error": None if running else service})
        return
    if isinstance(service, ServiceStatus):
        print_local(service)
    else:
        typer.echo(f"service {cell(service)}")
    if "database" in shown:
        typer.echo()
        _print_status(shown)


def _figures(loaded: LoadedSettings, store: Store) -> dict[str, Any]:
    counts = sorted(store.status_counts().items())
    return {
        "environment": loaded.settings.environment,
        "database": redact(loaded.settings.database_url),
        "now": store.now(),
        "leader": store.counts().leader,
        "workers": store.workers(),
        "queues": store.queues(),
        "tasks": [{"type": type_, "status": status, "count": count} for (type_, status), count in counts],
    }


def _print_status(figures: dict[str, Any]) -> None:
    environment, database, leader = (cell(figures[name] or "none") for name in ("environment", "database", "leader"))
    typer.echo(f"environment {environment}, database {database}, leader {leader}\n")
    _print_workers(figures["workers"])
    typer.echo()
    rows = [(q.name, q.paused, q.pending, q.due, q.claimed + q.running, q.dead_letter) for q in figures["queues"]]
    print_table(("queue", "paused", "pending", "due", "with a worker", "dead letter"), rows, empty="no queues yet")
    typer.echo()
    print_table(("type", "status", "tasks"), [(t["type"], t["status"], t["count"]) for t in figures["tasks"]], empty="no tasks")


def _print_workers(workers: list[WorkerView]) -> None:
    rows = [
        (
            w.id,
            "alive" if w.alive else "silent",
            f"{w.active}/{w.pool_size}",
            w.is_leader,
            w.started_at,
            w.last_heartbeat,
            w.version,
        )
        for w in workers
    ]
    columns = ("worker", "state", "busy", "leader", "started", "last heartbeat", "version")
    print_table(columns, rows, empty="no workers: `shiftboss start` starts one")
