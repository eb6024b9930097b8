"""`shiftboss queues`."""

from __future__ import annotations

from typing import Annotated

import typer

from shiftboss.cli import options
from shiftboss.cli.exits import DONE
from shiftboss.cli.output import cell, counted, print_json, print_table

app = typer.Typer(help="See, pause, resume and set queues.", no_args_is_help=True)

Names = Annotated[list[str], typer.Argument(metavar="NAME", help="Queues.")]


@app.command("list")
def list_(env: options.Env = None, config: options.Config = None, set_: options.Set = None, json: options.Json = False) -> int:
    """List the queues: settings, and how many tasks are in each state."""
    with options.opened(options.load(env, config, set_)) as store:
        queues = store.queues()
    if json:
        print_json(queues)
    else:
        rows = [
            (q.name, q.paused, q.concurrency or "no limit", q.weight, q.pending, q.due, q.claimed, q.running, q.dead_letter)
            for q in queues
        ]
        columns = ("queue", "paused", "concurrency", "weight", "pending", "due", "claimed", "running", "dead letter")
        print_table(columns, rows, empty="no queues yet: the first task makes one")
    return DONE


@app.command()
def pause(names: Names, env: options.Env = None, config: options.Config = None, set_: options.Set = None) -> int:
    """Claim nothing more from these queues; what runs, runs on."""
    return _set_paused(names, True, env, config, set_)


@app.command()
def resume(names: Names, env: options.Env = None, config: options.Config = None, set_: options.Set = None) -> int:
    """Claim from these queues again."""
    return _set_paused(names, False, env, config, set_)


@app.command("set")
def set_queue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Queue.")],
    concurrency: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=0, help="Running attempts per worker; 0: no limit.")
    ] = None,
    weight: Annotated[int | None, typer.Option(metavar="NUMBER", min=1, help="Share under weighted_random.")] = None,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
) -> int:
    """Change a queue's settings. [queues.NAME] in the configuration sets them again at the next start."""
    if concurrency is None and weight is None:
        raise typer.BadParameter("give --concurrency, --weight or both")
    with options.opened(options.load(env, config, set_)) as store:
        store.set_queue(name, concurrency=concurrency, weight=weight)
    typer.echo(f"queue {cell(name)}: set")
    return DONE


def _set_paused(names: list[str], paused: bool, env: str | None, config: options.Config, set_: options.Set) -> int:
    with options.opened(options.load(env, config, set_)) as store:
        for name in names:
            store.set_queue(name, paused=paused)
    typer.echo(f"{counted(len(names), 'queue')} {'paused' if paused else 'resumed'}")
    return DONE
