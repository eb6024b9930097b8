"""`shiftboss status`, `workers` and `version`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from shiftboss.cli import options
from shiftboss.cli.exits import DONE
from shiftboss.cli.output import print_json, print_table
from shiftboss.config import LoadedSettings, redact

if TYPE_CHECKING:
    from shiftboss.model import WorkerView
    from shiftboss.store.base import Store

workers_app = typer.Typer(help="See workers.", no_args_is_help=True)


def status(env: options.Env = None, config: options.Config = None, set_: options.Set = None, json: options.Json = False) -> int:
    """Show workers, the leader, queues, and tasks by type and status."""
    loaded = options.load(env, config, set_)
    with options.opened(loaded) as store:
        figures = _figures(loaded, store)
    if json:
        print_json(figures)
    else:
        _print_status(figures)
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
    from importlib.metadata import version as installed

    if json:
        print_json({"version": installed("shiftboss")})
    else:
        typer.echo(f"shiftboss {installed('shiftboss')}")
    return DONE


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
    typer.echo(f"environment {figures['environment']}, database {figures['database']}, leader {figures['leader'] or 'none'}\n")
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
