"""What is wrong with an installed environment: each rule looks at one thing, and says what happens and what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shiftboss.config import Settings
from shiftboss.units.access import Account, unreadable_part
from shiftboss.units.effective import EffectiveUnit
from shiftboss.units.place import below
from shiftboss.units.plan import Installation, config_path, credential_path, outage_fits, start_needs_s, stop_needs_s

_LEAST_WATCHDOG_S: Final = 10.0
# systemd's own defaults, where a unit says nothing.
_DEFAULT_TIMEOUT_S: Final = 90.0
_DEFAULT_LIMIT_S: Final = 10.0
_DEFAULT_BURST: Final = 5.0
_DEFAULT_RESTART_S: Final = 0.1
_SHELLS: Final = frozenset({"sh", "bash", "dash", "ksh", "zsh"})
_HOMES: Final = tuple(map(Path, ("/home", "/root", "/run/user")))


@dataclass(frozen=True, slots=True)
class Installed:
    """What the rules look at.

    Attributes:
        unit: the service with all its drop-ins.
        config: the file that the service reads, below `root`.
        account: of the unit's user; `None` when this machine does not know it, or is not the one it is for.
    """

    installation: Installation
    unit: EffectiveUnit
    root: Path
    config: Path | None
    account: Account | None

    @property
    def settings(self) -> Settings:
        return self.installation.settings

    def path(self, text: str) -> Path:
        """A path of the unit, below the root."""
        return below(self.root, Path(text)) if text.startswith("/") else self.root / text


def problems(installed: Installed) -> list[str]:
    """Everything that will go wrong, one sentence each."""
    return [problem for rule in _RULES for problem in rule(installed)]


def _timeouts(installed: Installed) -> Iterator[str]:
    unit, settings = installed.unit, installed.settings
    start_s, stop_s = unit.seconds("TimeoutStartSec", _DEFAULT_TIMEOUT_S), unit.seconds("TimeoutStopSec", _DEFAULT_TIMEOUT_S)
    if not start_s >= start_needs_s(settings):
        yield (
            f"TimeoutStartSec={unit.last('TimeoutStartSec')} is too short for start_timeout={settings.start_timeout_s:g}s:"
            f" systemd would kill a start or a reload that is still within its time; it needs {start_needs_s(settings)}"
        )
    if not stop_s >= stop_needs_s(settings):
        yield (
            f"TimeoutStopSec={unit.last('TimeoutStopSec')} is too short for shutdown_timeout={settings.shutdown_timeout_s:g}s and"
            f" cancel_grace={settings.cancel_grace_s:g}s: a worker that cannot ask for more time would be killed while it drains;"
            f" it needs {stop_needs_s(settings)}"
        )


def _watchdog(installed: Installed) -> Iterator[str]:
    watchdog_s = installed.unit.seconds("WatchdogSec", 0.0)
    if 0 < watchdog_s < _LEAST_WATCHDOG_S or math.isnan(watchdog_s):
        yield (
            f"WatchdogSec={installed.unit.last('WatchdogSec')}: a busy machine can keep the supervisor waiting for seconds, and"
            f" all running attempts would be lost with it; give it {_LEAST_WATCHDOG_S:g} or more"
        )


def _start_limit(installed: Installed) -> Iterator[str]:
    unit = installed.unit
    interval_s = unit.seconds("StartLimitIntervalSec", _DEFAULT_LIMIT_S)
    burst = unit.seconds("StartLimitBurst", _DEFAULT_BURST)
    restart_s = unit.seconds("RestartSec", _DEFAULT_RESTART_S)
    if interval_s == 0:
        yield "StartLimitIntervalSec=0: a worker that cannot start would be tried for ever, and nothing would ever say failed"
    elif not outage_fits(installed.settings, interval_s, burst, restart_s):
        yield (
            f"StartLimitIntervalSec={interval_s:g} with StartLimitBurst={burst:g}: while the database is away each start ends"
            f" after start_timeout={installed.settings.start_timeout_s:g}s, so systemd would give up after"
            f" {burst * (installed.settings.start_timeout_s + restart_s):.0f} s; make the interval shorter than that"
        )


def _homes(installed: Installed) -> Iterator[str]:
    if installed.unit.last("ProtectHome") not in ("yes", "true", "on", "1", "tmpfs"):
        return
    for what, path in _needed_paths(installed):
        home = next((home for home in _HOMES if path.is_relative_to(home)), None)
        if home is not None:
            yield (
                f"{what} is {path}, and with ProtectHome= nothing below {home} is there for the service: install to /opt or /usr,"
                " or set ProtectHome=read-only in a drop-in of your own"
            )


def _needed_paths(installed: Installed) -> Iterator[tuple[str, Path]]:
    program = Path(_program(installed.unit))
    yield "the program", program
    if working_directory := installed.unit.last("WorkingDirectory"):
        yield "WorkingDirectory", Path(working_directory.lstrip("-").replace("%%", "%"))
    interpreter = interpreter_of(installed.path(str(program)))
    if interpreter is not None:
        real = installed.path(str(interpreter)).resolve()
        yield "the interpreter", Path("/") / real.relative_to(installed.root) if real.is_relative_to(installed.root) else real


def _program(unit: EffectiveUnit) -> str:
    command = unit.last("ExecStart")
    word = command[1 : command.find('"', 1)] if command.startswith('"') else command.partition(" ")[0]
    return word.replace("%%", "%")


def interpreter_of(program: Path) -> Path | None:
    """What the program's first line names, if it is a script."""
    try:
        with program.open("rb") as file:
            first = file.readline(4096)
    except OSError:
        return None
    words = first.removeprefix(b"#!").split()
    return Path(words[0].decode(errors="surrogateescape")) if first.startswith(b"#!") and words else None


def _there(installed: Installed) -> Iterator[str]:
    program = _program(installed.unit)
    if not installed.path(program).is_file():
        yield f"ExecStart names {program}, and it is not there: install shiftboss there, or say --bin"
    folder = installed.unit.last("WorkingDirectory").replace("%%", "%")
    if folder and not folder.startswith("-") and not installed.path(folder).is_dir():
        yield f"WorkingDirectory={folder} is not there, so the service would not start: make it, or say --working-directory"


def _shell(installed: Installed) -> Iterator[str]:
    command = installed.unit.last("ExecStart")
    if Path(_program(installed.unit)).name in _SHELLS and not re.search(r"\bexec\b", command):
        yield (
            f"ExecStart={command}: the shell stays between systemd and the service, so systemd never hears that it is ready and"
            " ends it after TimeoutStartSec; put exec before shiftboss"
        )


def _configuration(installed: Installed) -> Iterator[str]:
    environment = installed.installation.environment
    if installed.config is None:
        yield f"{config_path(environment)} is not there: `shiftboss systemd install --env {environment}` writes one"
    elif installed.account is not None and (part := unreadable_part(installed.config, installed.account)):
        yield (
            f"{installed.account.name} cannot read {installed.config} because of {part}:"
            f" run systemd-tmpfiles --create shiftboss.conf, or chgrp {installed.account.name} {part} && chmod g+rX {part}"
        )


def _user(installed: Installed) -> Iterator[str]:
    user = installed.unit.last("User")
    if installed.account is None and installed.root == Path("/"):
        yield (
            f"User={user} does not exist on this machine: run systemd-sysusers, or say --user"
            if user
            else "User= is not set: root"
        )


def _database_file(installed: Installed) -> Iterator[str]:
    url, unit = installed.settings.database_url, installed.unit
    environment = installed.installation.environment
    given_elsewhere = installed.path(str(credential_path(environment))).exists()
    if given_elsewhere or not url.startswith("sqlite:///") or unit.last("ProtectSystem") != "strict":
        return
    file = Path(unit.last("WorkingDirectory", "/")) / url.removeprefix("sqlite:///")
    folders = [f"/var/lib/{name}" for name in unit.last("StateDirectory").replace("%i", environment).split()]
    folders += [word.lstrip("-+") for value in unit.all("ReadWritePaths") for word in value.split()]
    if not any(file.is_relative_to(folder) for folder in folders):
        yield (
            f"the database is {file}, which the service may not write to: use"
            f" sqlite:////var/lib/shiftboss/{environment}/shiftboss.db, or set ReadWritePaths= in a drop-in of your own"
        )


_RULES: Final[tuple[Callable[[Installed], Iterator[str]], ...]] = (
    _there,
    _shell,
    _user,
    _configuration,
    _homes,
    _database_file,
    _timeouts,
    _watchdog,
    _start_limit,
)
