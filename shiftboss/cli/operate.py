"""Asking the running service for something and waiting for the effect. Loads neither typer nor a database."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from shiftboss import commands
from shiftboss.cli.control import Connection, connect, find_places
from shiftboss.cli.exits import DONE, NOTHING, NoAnswer, complain, json_text, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One command line. `timeout_s`: how long to wait for the effect; None: until it is there."""

    command: commands.AnyCommand
    env: str | None = None
    config: Path | None = None
    socket: Path | None = None
    timeout_s: float | None = None
    as_json: bool = False


def operate(request: Request) -> int:
    """Carry the request out, with its progress on standard error and its end on standard output.

    Returns:
        0 when the effect is there; else 1, or the exit code that the service gives: 64 or 78.

    Raises:
        NoAnswer: no service runs, it ended before it answered, or it took longer than the time-out.
        ConfigError: no service was found, and the settings that would say where it is are wrong.
    """
    with connect(find_places(request.env, request.config, request.socket)) as connection:
        try:
            done = carry_out(connection, request.command, request.timeout_s)
        except KeyboardInterrupt:
            name = commands.name_of(request.command)
            complain(f"interrupted; the service (pid {connection.pid}) goes on with {name}")
            raise
    return _report(done, request.as_json)


def carry_out(connection: Connection, command: commands.AnyCommand, timeout_s: float | None) -> commands.Done:
    """Ask, show the progress, wait for the effect; of a `stop` for the end of the process, too.

    Raises:
        NoAnswer: the service ended before the effect was there, or it took longer than `timeout_s`.
    """
    began_s = time.monotonic()
    done = connection.ask(command, complain, timeout_s)
    if isinstance(command, commands.Stop) and done.ok:
        left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - began_s))
        if not connection.wait_end(left_s):
            raise NoAnswer(f"the service (pid {connection.pid}) has not ended within {timeout_s:g} s; it goes on stopping")
    return done


def _report(done: commands.Done, as_json: bool) -> int:
    code = DONE if done.ok else done.code or NOTHING
    if as_json:
        sys.stdout.write(json_text({"ok": done.ok, "text": done.text, "code": code}) + "\n")
    elif done.ok:
        sys.stdout.write("".join(f"{visible(line)}\n" for line in done.text.splitlines() or [""]))
    else:
        complain(done.text)
    return code
