"""`shiftboss config`: what applies, whether it is right, and a file to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shiftboss.cli import options
from shiftboss.cli.exits import DONE, NOTHING
from shiftboss.cli.output import print_json, print_table
from shiftboss.config import SETTINGS, Change, LoadedSettings, changes
from shiftboss.config.check import doubts_of
from shiftboss.config.load import load_files
from shiftboss.config.show import effective_toml, plain_value
from shiftboss.config.templates import TEMPLATES
from shiftboss.errors import ConfigError

app = typer.Typer(help="Show, check and write settings.", no_args_is_help=True)


@app.command()
def show(env: options.Env = None, config: options.Config = None, set_: options.Set = None, json: options.Json = False) -> int:
    """Print the effective settings as TOML, each with where its value came from; passwords are hidden."""
    loaded = options.load(env, config, set_)
    if json:
        print_json({s.name: {"value": plain_value(loaded.settings, s), "origin": loaded.origins[s.name]} for s in SETTINGS})
    else:
        typer.echo(effective_toml(loaded.settings, loaded.origins), nl=False)
    return DONE


@app.command()
def check(env: options.Env = None, config: options.Config = None, set_: options.Set = None, json: options.Json = False) -> int:
    """Say whether the settings are right: exit 0, or 78 with every mistake. Opens no database.

    What works and is probably not meant is a warning on standard error.
    """
    loaded = options.load(env, config, set_)
    doubts = doubts_of(loaded.settings, loaded.origins)
    for doubt in doubts:
        typer.echo(f"warning: {doubt}", err=True)
    if json:
        print_json(
            {
                "valid": True,
                "environment": loaded.settings.environment,
                "file": str(loaded.file) if loaded.file else None,
                "drop_ins": list(map(str, loaded.drop_ins)),
                "warnings": doubts,
            }
        )
    else:
        typer.echo(f"the settings of {_described(loaded)} are right")
    return DONE


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="An environment's name, or a file: a path or NAME.toml.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    json: options.Json = False,
) -> int:
    """Compare what two environments' files say: exit 0 when they agree, 1 when they differ, 78 when one is wrong.

    Only files with their drop-ins and defaults count; environment variables, credentials and options do not.
    """
    a, b = load_files(first), load_files(second)
    found = changes(a.settings, b.settings)
    if json:
        print_json([{"name": one.name, "a": _side(one.was, a, one), "b": _side(one.now, b, one)} for one in found])
    else:
        rows = [(one.name, one.old, _origin(a, one), one.new, _origin(b, one)) for one in found]
        print_table(("setting", "A", "from", "B", "from"), rows, empty=f"{first} and {second} say the same")
    return NOTHING if found else DONE


@app.command()
def init(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to; default conf/ENVIRONMENT.toml.")] = None,
    env: Annotated[str, typer.Option("--env", "-e", metavar="NAME", help=f"One of {', '.join(TEMPLATES)}.")] = "development",
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> int:
    """Write a complete, commented file to begin with."""
    if env not in TEMPLATES:
        raise typer.BadParameter(f"{env!r}: must be one of {', '.join(TEMPLATES)}", param_hint="--env")
    path = file or Path("conf") / f"{env}.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if force else "x", encoding="utf-8") as written:
            written.write(TEMPLATES[env].toml())
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already; --force overwrites it") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    typer.echo(f"wrote {path}")
    return DONE


def _described(loaded: LoadedSettings) -> str:
    files = ", ".join(map(str, (loaded.file, *loaded.drop_ins))) if loaded.file else "no file"
    return f"environment {loaded.settings.environment} ({files})"


def _side(value: object, loaded: LoadedSettings, change: Change) -> dict[str, object]:
    return {"value": value, "origin": _origin(loaded, change)}


def _origin(loaded: LoadedSettings, change: Change) -> str:
    return loaded.origins.get(change.name, "default")
