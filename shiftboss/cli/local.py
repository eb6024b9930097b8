"""What `shiftboss status` shows of the service on this machine: its phase, its reloads, its processes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer

from shiftboss import commands
from shiftboss.cli.control import NotRunning, connect, find_places
from shiftboss.cli.exits import NoAnswer
from shiftboss.cli.output import cell, print_table

# The supervisor answers from its loop: one that takes longer hangs.
_TIMEOUT_S: Final = 5.0


def ask_status(env: str | None, config: Path | None, path: Path | None) -> commands.ServiceStatus:
    """What the running service knows of itself.

    Raises:
        NotRunning: there is none.
        NoAnswer: there is one, and it does not answer.
        ConfigError: there is none, and the settings that would say where it is are wrong.
    """
    with connect(find_places(env, config, path)) as connection:
        done = connection.ask(commands.Status(), lambda _text: None, _TIMEOUT_S)
    if done.data is None:
        raise NoAnswer(done.text)
    return done.data


def why_not(error: NoAnswer) -> str:
    """One line on a service that could not be asked."""
    return "not running here" if isinstance(error, NotRunning) else str(error)


def print_local(status: commands.ServiceStatus) -> None:
    """For people."""
    phase = f"{status.phase} ({cell(status.why)})" if status.why else status.phase
    ready = f"{status.executors_ready} of {status.executors_wanted} executors ready"
    typer.echo(f"service {phase}, {ready}, up {duration(status.uptime_s)}, pid {status.pid}")
    if status.last_reload:
        typer.echo(f"last reload {_reload(status)}")
    typer.echo()
    columns = ("actor", "state", "pid", "up", "restarts", "status", "last end")
    print_table(columns, [_row(actor) for actor in status.actors], empty="no actors")


def _reload(status: commands.ServiceStatus) -> str:
    at = "" if status.last_reload_at is None else f"at {cell(datetime.fromtimestamp(status.last_reload_at, UTC))} "
    return f"{at}{'done' if status.last_reload_ok else 'FAILED'}: {cell(status.last_reload)}"


def _row(actor: commands.ActorStatus) -> tuple[object, ...]:
    up = None if actor.uptime_s is None else duration(actor.uptime_s)
    return actor.name, actor.state, actor.pid, up, actor.restarts, actor.status, actor.last_end


def duration(seconds: float) -> str:
    """`42s`, `3m 12s`, `5h 03m`, `12d 4h`: as much as people want to know."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600}h"
