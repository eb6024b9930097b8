"""`shiftboss enqueue`: one task by its type's name, without importing its handler."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from shiftboss.cli import options
from shiftboss.cli.exits import DONE
from shiftboss.cli.output import print_json
from shiftboss.config.units import parse_duration
from shiftboss.model import NewTask, new_task_id

_EXAMPLE = "user_id=42 or '{\"user_id\": 42}'"


def enqueue(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="The type of the task, like mail:send.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGS",
            help="key=value pairs (a value that is JSON is taken as JSON), one JSON object, or - for standard input.",
        ),
    ] = None,
    queue: Annotated[str | None, typer.Option(metavar="NAME", help="Default: default.")] = None,
    priority: Annotated[int | None, typer.Option(metavar="NUMBER", help="-100 to 100; larger runs first.")] = None,
    delay: Annotated[str | None, typer.Option(metavar="DURATION", help="Run it so much later, like 90s or 6h.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Run it then: ISO 8601 with a time zone.")] = None,
    unique: Annotated[str | None, typer.Option(metavar="KEY", help="Not while an unfinished task has this key.")] = None,
    max_attempts: Annotated[int | None, typer.Option(metavar="NUMBER", help="Runs in all; default: as the handler says.")] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="For one attempt; default: as the handler says.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="May be repeated.")] = None,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
    json: options.Json = False,
) -> int:
    """Enqueue one task and print its id. With --unique and an unfinished task of that key, the id of that one."""
    loaded = options.load(env, config, set_)
    given = {
        "queue": queue, "priority": priority, "delay": _seconds("--delay", delay), "run_at": _time(at), "unique": unique,
        "max_attempts": max_attempts, "timeout": _seconds("--timeout", timeout), "tags": tag,
    }  # fmt: skip
    task = _new_task(type_, parse_arguments(arguments or ()), given, loaded.settings.max_args_bytes)
    with options.unchecked(loaded) as store:
        if loaded.settings.database_url.startswith("sqlite"):
            store.migrate()  # the first thing anybody does may be this, and there is nobody else to make the file
        else:
            store.check_schema()
        (stored,) = store.enqueue([task])
    if json:
        print_json(stored)
    else:
        typer.echo(stored.id)
        if stored.existing:
            typer.echo(f"not enqueued: this unfinished task has the unique key {unique!r}", err=True)
    return DONE


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """The task's arguments from a command line.

    Raises:
        typer.BadParameter: neither one JSON object nor key=value pairs.
    """
    if list(arguments) == ["-"]:
        return _object(sys.stdin.read())
    if len(arguments) == 1 and arguments[0].lstrip().startswith("{"):
        return _object(arguments[0])
    pairs: dict[str, Any] = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{argument!r} is not key=value; write {_EXAMPLE}", param_hint="ARGS")
        if key in pairs:
            raise typer.BadParameter(f"{key} is given twice", param_hint="ARGS")
        pairs[key] = _value(value)
    return pairs


def _object(text: str) -> dict[str, Any]:
    try:
        parsed = jsonlib.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}; write {_EXAMPLE}", param_hint="ARGS") from None
    if not isinstance(parsed, dict):
        raise typer.BadParameter(f"a JSON {type(parsed).__name__} is no object of arguments; write {_EXAMPLE}", param_hint="ARGS")
    return parsed


def _value(text: str) -> object:
    try:
        return jsonlib.loads(text)
    except ValueError:
        return text


def _new_task(type_: str, arguments: dict[str, Any], given: dict[str, Any], max_args_bytes: int) -> NewTask:
    from shiftboss.codec import encode_untyped
    from shiftboss.options import Options, checked_name

    chosen = Options().using(**given)
    return NewTask(
        id=new_task_id(),
        type=checked_name("type", type_),
        args=encode_untyped("args", arguments, max_args_bytes),
        queue=chosen.queue,
        priority=chosen.priority,
        max_attempts=chosen.max_attempts,
        timeout_s=chosen.timeout_s,
        delay_s=chosen.delay_s,
        run_at=chosen.run_at,
        unique_key=chosen.unique_key,
        tags=chosen.tags,
    )


def _seconds(option: str, text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; write 500ms, 30s, 1m, 2h or 7d", param_hint=option) from None


def _time(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time; write 2030-12-31T23:59:00+01:00", param_hint="--at") from None
