"""`shiftboss systemd`: write, show and check what systemd needs to run one environment."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shiftboss.cli.exits import DONE, NOTHING
from shiftboss.config import Settings, load_settings
from shiftboss.errors import ConfigError

if TYPE_CHECKING:
    from shiftboss.units.place import Comparison
    from shiftboss.units.plan import Installation

app = typer.Typer(help="Run it as a systemd service: write its units, show them, check them.", no_args_is_help=True)

Env = Annotated[str, typer.Option("--env", "-e", metavar="NAME", help="Environment; the service is shiftboss@NAME.")]
Root = Annotated[Path, typer.Option("--root", metavar="DIR", help="Work below this folder: an image, a chroot.")]
Bin = Annotated[Path | None, typer.Option("--bin", metavar="FILE", help="The shiftboss to start; default: this one.")]
User = Annotated[str, typer.Option("--user", metavar="NAME", help="Who it runs as; another user than the default must exist.")]
Folder = Annotated[
    Path, typer.Option("--working-directory", metavar="DIR", help="Where it runs; modules to import are found there, too.")
]
WithSocket = Annotated[bool, typer.Option("--socket", help="Let systemd open the address of /metrics and /health.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Overwrite what differs without asking.")]

_ROOT = Path("/")
_USER = "shiftboss"
_FOLDER = Path("/opt/shiftboss")


@app.command("print")
def print_(
    env: Env,
    root: Root = _ROOT,
    bin_: Bin = None,
    user: User = _USER,
    working_directory: Folder = _FOLDER,
    socket: WithSocket = False,
) -> int:
    """Print every file that install would write, each under its name."""
    from shiftboss.units.plan import planned_files

    for file in planned_files(_installation(env, root, bin_, user, working_directory, socket)):
        typer.echo(f"# ==== {file.path}\n{file.text}")
    return DONE


@app.command()
def install(
    env: Env,
    root: Root = _ROOT,
    bin_: Bin = None,
    user: User = _USER,
    working_directory: Folder = _FOLDER,
    socket: WithSocket = False,
    yes: Yes = False,
) -> int:
    """Write units, hardening, user and folders, and a configuration if there is none; shows a diff before it overwrites."""
    from shiftboss.units.place import Difference, compare, write
    from shiftboss.units.plan import planned_files

    installation = _installation(env, root, bin_, user, working_directory, socket)
    comparisons = [compare(file, root) for file in planned_files(installation)]
    if not _may_overwrite([one for one in comparisons if one.difference is Difference.CHANGED], yes):
        typer.echo("nothing was written", err=True)
        return NOTHING
    for comparison in comparisons:
        if comparison.difference in (Difference.MISSING, Difference.CHANGED):
            write(comparison)
            typer.echo(f"{'wrote' if comparison.difference is Difference.MISSING else 'changed'}: {comparison.place}")
        else:
            typer.echo(f"{comparison.difference}: {comparison.place}")
    typer.echo("\n".join(["", "Next:", *(f"  {command}" for command in _next_commands(installation, root))]))
    return DONE


@app.command()
def check(
    env: Env,
    root: Root = _ROOT,
    bin_: Bin = None,
    user: User = _USER,
    working_directory: Folder = _FOLDER,
    socket: WithSocket = False,
) -> int:
    """Compare what is installed with what install would write, and look for what will go wrong: exit 0, or 1 with the reasons."""
    from shiftboss.units.analyze import MOST_EXPOSURE, exposure, verify
    from shiftboss.units.place import Difference, compare
    from shiftboss.units.plan import planned_files

    installation = _installation(env, root, bin_, user, working_directory, socket)
    comparisons = [compare(file, root) for file in planned_files(installation)]
    found = [f"{one.place} is missing" for one in comparisons if one.difference is Difference.MISSING]
    for one in comparisons:
        if one.difference is Difference.CHANGED:
            typer.echo(one.diff(), nl=False)
            found.append(f"{one.place} is not what install would write (above)")
    found += [*_problems(installation, root), *verify(installation, root)]
    score = exposure(installation, root)
    if score is not None and score > MOST_EXPOSURE:
        found.append(
            f"systemd-analyze security says {score}, more than {MOST_EXPOSURE}: the hardening is not in force or relaxed"
        )
    for problem in found:
        typer.echo(f"shiftboss: {problem}", err=True)
    if not found:
        typer.echo(f"{installation.instance} is installed as it should be" + (f", exposure {score}" if score is not None else ""))
    return NOTHING if found else DONE


def _problems(installation: Installation, root: Path) -> list[str]:
    from shiftboss.units.access import find_account
    from shiftboss.units.check import Installed, problems
    from shiftboss.units.effective import read_unit
    from shiftboss.units.plan import SERVICE

    unit = read_unit(SERVICE, installation.environment, root)
    if unit is None:
        return []  # it has been said that it is missing
    account = find_account(unit.last("User", "root")) if root == _ROOT else None
    config = _config_file(installation.environment, root, installation.working_directory)
    return problems(Installed(installation, unit, root, config, account))


# ---- what is asked for


def _installation(env: str, root: Path, bin_: Path | None, user: str, working_directory: Path, socket: bool) -> Installation:
    from shiftboss.units.plan import Installation

    if not root.is_dir():
        raise ConfigError(f"--root {root} is not a folder")
    return Installation(
        environment=env,
        settings=_settings(env, _config_file(env, root, working_directory)),
        program=bin_ or _this_program(),
        user=user,
        working_directory=working_directory,
        socket=socket,
    )


def _config_file(env: str, root: Path, working_directory: Path) -> Path | None:
    """The file that the service will read: it looks in its working directory first."""
    from shiftboss.units.place import below
    from shiftboss.units.plan import config_path

    places = (working_directory / "conf" / f"{env}.toml", config_path(env))
    return next((place for place in (below(root, path) for path in places if path.is_absolute()) if place.is_file()), None)


def _settings(env: str, file: Path | None) -> Settings:
    """The service's settings; variables of this shell are not the service's. Without a file those of the one to be written."""
    if file is not None:
        return load_settings(env, file, environ={}).settings
    from shiftboss.units.plan import settings_to_begin_with

    return settings_to_begin_with(env)


def _this_program() -> Path:
    """The command that runs now, by the folder's name that was used: a folder that is a link may lead to another release later.

    Raises:
        ConfigError: it was not started as `shiftboss`, and there is none beside this interpreter.
    """
    started = Path.cwd() / sys.argv[0]
    if started.name == "shiftboss" and started.is_symlink():  # /usr/local/bin/shiftboss, for convenience
        started = started.parent / started.readlink()
    beside = Path(sys.executable).parent / "shiftboss"
    for program in (started, beside):
        if program.name == "shiftboss" and program.is_file():
            return program
    raise ConfigError(f"there is no {beside}: name the command that systemd is to start with --bin")


def _may_overwrite(changed: list[Comparison], yes: bool) -> bool:
    for comparison in changed:
        typer.echo(comparison.diff(), nl=False)
    if not changed or yes:
        return True
    if not sys.stdin.isatty():
        typer.echo("shiftboss: these files differ (above); --yes overwrites them", err=True)
        return False
    return typer.confirm(f"Overwrite {len(changed)} {'file' if len(changed) == 1 else 'files'}?")


def _next_commands(installation: Installation, root: Path) -> list[str]:
    from shiftboss.units.plan import DEFAULT_USER

    below = [] if root == _ROOT else [f"--root={root}"]
    units = [f"{installation.instance}.service", *([f"{installation.instance}.socket"] if installation.socket else [])]
    commands = [["systemd-sysusers", *below, "shiftboss.conf"], ["systemd-tmpfiles", *below, "--create", "shiftboss.conf"]]
    if installation.user != DEFAULT_USER:
        commands = []
    commands += [["systemctl", "daemon-reload"]] if not below else []
    commands += [["systemctl", *below, "enable", *([] if below else ["--now"]), *units]]
    return [shlex.join(command) for command in commands]
