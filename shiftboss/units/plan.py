"""Which files one environment needs, and what is in them. Pure but for reading our own `files/`."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from shiftboss.config import Settings
from shiftboss.config.templates import TEMPLATES, Template
from shiftboss.errors import ConfigError

UNIT_FOLDER: Final = Path("/etc/systemd/system")
SERVICE: Final = "shiftboss@.service"
SOCKET: Final = "shiftboss@.socket"
HARDENING: Final = "shiftboss@.service.d/10-hardening.conf"

# What stands in the files; the drop-in of an environment says only what differs.
DEFAULT_PROGRAM: Final = Path("/opt/shiftboss/venv/bin/shiftboss")
DEFAULT_USER: Final = "shiftboss"
DEFAULT_WORKING_DIRECTORY: Final = Path("/opt/shiftboss")
TIMEOUT_START_S: Final = 150
TIMEOUT_STOP_S: Final = 60
START_LIMIT_S: Final = 300
START_LIMIT_BURST: Final = 5
RESTART_S: Final = 2
DEFAULT_LISTEN: Final = "127.0.0.1:9090"

_ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_MARGIN_S: Final = 20  # the supervisor's own work before and after what is counted below


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One environment on one machine.

    Attributes:
        program: the `shiftboss` command, absolute.
        socket: systemd opens the gateway's address.
    """

    environment: str
    settings: Settings
    program: Path = DEFAULT_PROGRAM
    user: str = DEFAULT_USER
    working_directory: Path = DEFAULT_WORKING_DIRECTORY
    socket: bool = False

    def __post_init__(self) -> None:
        if not _ENVIRONMENT.fullmatch(self.environment):
            raise ConfigError(f"environment {self.environment!r}: a name has only letters, digits, - and _")
        if not _USER.fullmatch(self.user):
            raise ConfigError(f"--user {self.user!r}: must be the name or number of a user")
        for what, path in (("--bin", self.program), ("--working-directory", self.working_directory)):
            if not path.is_absolute() or not str(path).isprintable():
                raise ConfigError(f"{what} {path}: must be an absolute path without control characters")

    @property
    def instance(self) -> str:
        return f"shiftboss@{self.environment}"


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file as it should be.

    Attributes:
        path: on the machine it is for.
        once: written when it is missing, and never changed: it is the user's.
    """

    path: Path
    text: str
    mode: int = 0o644
    once: bool = False


def planned_files(installation: Installation) -> tuple[PlannedFile, ...]:
    """Everything to be installed for the environment, in the order to read it.

    Raises:
        ConfigError: a socket is wanted, and the settings name no address that systemd could open.
    """
    drop_in = f"{installation.instance}.service.d/20-environment.conf"
    found = [
        _unit(SERVICE, packaged(SERVICE)),
        _unit(HARDENING, packaged(HARDENING)),
        _unit(drop_in, service_drop_in(installation)),
    ]
    if installation.socket:
        found += [
            _unit(SOCKET, packaged(SOCKET)),
            _unit(f"{installation.instance}.socket.d/20-environment.conf", socket_drop_in(installation)),
        ]
    if installation.user == DEFAULT_USER:  # another user, and who may read what, is the installer's business
        found += [
            PlannedFile(Path(f"/etc/{folder}/shiftboss.conf"), packaged(f"{folder}/shiftboss.conf"))
            for folder in ("sysusers.d", "tmpfiles.d")
        ]
    config = PlannedFile(config_path(installation.environment), config_text(installation.environment), 0o640, once=True)
    return (*found, config)


def packaged(name: str) -> str:
    """The text of one of `files/`."""
    return resources.files("shiftboss.units").joinpath("files", *name.split("/")).read_text(encoding="utf-8")


def config_path(environment: str) -> Path:
    """Where the service looks for its settings."""
    return Path("/etc/shiftboss") / f"{environment}.toml"


def credential_path(environment: str) -> Path:
    """Where systemd looks for the environment's database URL, if it is not in the configuration."""
    return Path("/etc/credstore") / f"shiftboss.{environment}.database_url"


def config_text(environment: str) -> str:
    """A complete configuration to begin with; of an environment without a template, production's."""
    return _template(environment).toml()


def settings_to_begin_with(environment: str) -> Settings:
    """What `config_text` says."""
    return _template(environment).settings


def _template(environment: str) -> Template:
    template = TEMPLATES.get(environment, TEMPLATES["production"])
    return replace(template, settings=replace(template.settings, environment=environment))


def _unit(name: str, text: str) -> PlannedFile:
    return PlannedFile(UNIT_FOLDER / name, text)


# ---- what an environment has different


def start_needs_s(settings: Settings) -> int:
    """The least TimeoutStartSec: it bounds a reload too, where the check and the new executors take their time in turn."""
    return math.ceil(2 * settings.start_timeout_s) + _MARGIN_S


def stop_needs_s(settings: Settings) -> int:
    """The least TimeoutStopSec."""
    return math.ceil(settings.shutdown_timeout_s + settings.cancel_grace_s) + _MARGIN_S


def outage_fits(settings: Settings, interval_s: float, burst: float, restart_s: float) -> bool:
    """Whether a database that stays away never uses up the starts: each waits `start_timeout`, so they come slowly enough."""
    return burst * (settings.start_timeout_s + restart_s) > interval_s


def service_drop_in(installation: Installation) -> str:
    """The environment's drop-in for the service."""
    unit, service = _start_limit(installation.settings), [*_command(installation), *_timeouts(installation.settings)]
    lines = [f"# What {installation.instance} has different from {SERVICE}, by its settings and how it was installed."]
    lines += ["# Written by `shiftboss systemd install`; changes of your own go into another drop-in."]
    if not unit and not service:
        lines.append("# Nothing.")
    lines += ["[Unit]", *unit] if unit else []
    lines += ["[Service]", *service] if service else []
    return "\n".join(lines) + "\n"


def _start_limit(settings: Settings) -> list[str]:
    if outage_fits(settings, START_LIMIT_S, START_LIMIT_BURST, RESTART_S):
        return []
    interval_s = max(1, int(START_LIMIT_BURST * (settings.start_timeout_s + RESTART_S)) - 1)
    return [f"# Shorter than {START_LIMIT_BURST} starts that wait for the database.", f"StartLimitIntervalSec={interval_s}"]


def _command(installation: Installation) -> list[str]:
    lines: list[str] = []
    if installation.program != DEFAULT_PROGRAM:
        program = _word(installation.program)
        lines += ["ExecStart=", f"ExecStart={program} start --env %i", "ExecReload=", f"ExecReload={program} reload --env %i"]
    if installation.user != DEFAULT_USER:
        lines += [f"User={installation.user}", "# The user's own.", "Group="]
    if installation.working_directory != DEFAULT_WORKING_DIRECTORY:
        lines.append(f"WorkingDirectory={_escaped(installation.working_directory)}")
    return lines


def _timeouts(settings: Settings) -> list[str]:
    needs = (
        ("TimeoutStartSec", start_needs_s(settings), TIMEOUT_START_S),
        ("TimeoutStopSec", stop_needs_s(settings), TIMEOUT_STOP_S),
    )
    return [f"{name}={needed_s}" for name, needed_s, given_s in needs if needed_s > given_s]


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _word(path: Path) -> str:
    """One word of a command line as systemd reads it."""
    text = _escaped(path)
    if not set(text) & set(" \"'\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def socket_drop_in(installation: Installation) -> str:
    """The environment's drop-in for the socket: its address.

    Raises:
        ConfigError: the settings name no address that systemd could open.
    """
    address = listen_address(installation.settings)
    lines = ["# The address of metrics_host and metrics_port. Written by `shiftboss systemd install`."]
    lines += ["# Nothing different."] if address == DEFAULT_LISTEN else ["[Socket]", "ListenStream=", f"ListenStream={address}"]
    return "\n".join(lines) + "\n"


def listen_address(settings: Settings) -> str:
    """`metrics_host` and `metrics_port` as ListenStream= wants them.

    Raises:
        ConfigError: a name instead of an address, or a port that is not known beforehand.
    """
    host = "127.0.0.1" if settings.metrics_host == "localhost" else settings.metrics_host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(f"metrics_host={host}: a .socket unit needs an IP address, systemd looks up no names") from None
    if settings.metrics_port == 0:
        raise ConfigError("metrics_port=0: a .socket unit needs a port that is known beforehand, like 9090")
    return f"[{address}]:{settings.metrics_port}" if address.version == 6 else f"{address}:{settings.metrics_port}"
