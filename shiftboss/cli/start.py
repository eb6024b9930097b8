"""`shiftboss start` and `shiftboss dev`."""

from __future__ import annotations

from typing import Annotated

import typer

from shiftboss.cli import options
from shiftboss.config import LoadedSettings

Only = Annotated[list[str] | None, typer.Option("--only", metavar="QUEUE", help="Claim from this queue only. May be repeated.")]
Imports = Annotated[
    list[str] | None, typer.Option("--import", "-i", metavar="MODULE", help="Import this module's handlers. May be repeated.")
]


def start(
    only: Only = None,
    imports: Imports = None,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
) -> int:
    """Run the service in the foreground until it is asked to stop."""
    loaded = _loaded(only, imports, env, config, set_)
    from shiftboss.service import start as become_service  # knows every part of the service

    become_service(loaded)


def dev(
    only: Only = None,
    imports: Imports = None,
    env: options.Env = None,
    config: options.Config = None,
    set_: options.Set = None,
) -> int:
    """Run the service for a developer: SQLite unless told otherwise, text logs, a restart whenever code changes."""
    loaded = _loaded(only, imports, env, config, set_)
    from shiftboss.cli.reload import run_and_reload

    return run_and_reload(_as_arguments(only, imports, env, config, ["log_format=text", *(set_ or ())]), loaded.settings)


def _loaded(
    only: list[str] | None, imports: list[str] | None, env: options.Env, config: options.Config, set_: options.Set
) -> LoadedSettings:
    overrides = {"only_queues": ",".join(only or ()), "imports": ",".join(imports or ())}
    return options.load(env, config, set_, **{name: text for name, text in overrides.items() if text})


def _as_arguments(
    only: list[str] | None, imports: list[str] | None, env: options.Env, config: options.Config, set_: options.Set
) -> list[str]:
    """The same command line for `start`."""
    pairs: list[tuple[str, str]] = [("--only", queue) for queue in only or ()]
    pairs += [("--import", module) for module in imports or ()]
    pairs += [("--set", assignment) for assignment in set_ or ()]
    pairs += [("--env", env)] if env else []
    pairs += [("--config", str(config))] if config else []
    return [word for pair in pairs for word in pair]
