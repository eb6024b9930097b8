"""Reads one environment's settings: defaults, a TOML file, its drop-ins, a credential, environment variables, the command line.

Every mistake is collected, so that one look is enough to mend them all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from shiftboss.config.reading import Reading
from shiftboss.config.redact import redact
from shiftboss.config.settings import Settings
from shiftboss.config.source import Source, source_from_json
from shiftboss.errors import ConfigError

ENVIRONMENT_VARIABLE: Final = "SHIFTBOSS_ENV"
SYSTEM_FOLDER: Final = Path("/etc/shiftboss")
COMMAND_LINE: Final = "command line"

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)


class LoadedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings, and where each came from.

    Attributes:
        origins: setting's name (`queues.mail.weight` for one of a queue) -> `default`, `conf/production.toml:12`,
            `conf/production.d/10-mail.toml:1`, `credential database_url`, `environment variable DATABASE_URL` or
            `command line`.
        source: what was asked for; `load_again` reads it afresh.
        file: the TOML file that was read, if any.
        drop_ins: what was read after it, in this order.
    """

    settings: Settings
    origins: Mapping[str, str]
    source: Source
    file: Path | None = None
    drop_ins: tuple[Path, ...] = ()


def load_settings(
    environment: str | None = None,
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> LoadedSettings:
    """The settings of one environment, complete and checked.

    Args:
        environment: its name; its file is `conf/NAME.toml` or `/etc/shiftboss/NAME.toml`. `None`: `$SHIFTBOSS_ENV`, and
            without that `shiftboss.toml` or `conf/development.toml`, if there is one.
        file: this file and its drop-ins.
        overrides: setting's name -> its text, from the command line.

    Raises:
        ConfigError: no such file, or mistakes; all of them stand in the message, one a line.
    """
    source = Source(environment=environment, file=file, overrides=MappingProxyType(dict(overrides)))
    named = environment or environ.get(ENVIRONMENT_VARIABLE) or None
    found = file or find_file(named)
    reading = Reading()
    drop_ins = reading.read_files(found) if found is not None else ()
    reading.read_secrets(environ)
    reading.read_variables(environ)
    if environment is not None:
        overrides = {"environment": environment, **overrides}
    for name, text in overrides.items():
        reading.take_text(name, text, COMMAND_LINE)
    settings, origins = reading.finish()
    return LoadedSettings(
        settings=settings, origins=MappingProxyType(dict(origins)), source=source, file=found, drop_ins=drop_ins
    )


def load_again(source_json: str, environ: Mapping[str, str] = os.environ) -> LoadedSettings:
    """The settings that the same call of `load_settings` gives now.

    Args:
        source_json: what `source_to_json` made of `LoadedSettings.source`.

    Raises:
        ConfigError: as `load_settings`.
    """
    source = source_from_json(source_json)
    return load_settings(source.environment, source.file, environ, source.overrides)


def load_files(name: str) -> LoadedSettings:
    """What files alone say: no environment variable, no credential and no command line.

    Args:
        name: an environment's name; or, with a slash or `.toml` in it, a file.

    Raises:
        ConfigError: as `load_settings`.
    """
    is_path = "/" in name or name.endswith(".toml")
    return load_settings(file=Path(name) if is_path else find_file(name), environ={})


def find_file(environment: str | None) -> Path | None:
    """The file to read for this environment; `None`: there is none and none is needed.

    Raises:
        ConfigError: the environment was named and has no file; says where it was looked for.
    """
    if environment is None:
        return next((path for path in (Path("shiftboss.toml"), Path("conf/development.toml")) if path.is_file()), None)
    if not _ENVIRONMENT_NAME.fullmatch(environment):
        raise ConfigError(
            f"environment {redact(environment)!r}: a name has only letters, digits, - and _; a path goes to --config"
        )
    places = (Path("conf") / f"{environment}.toml", SYSTEM_FOLDER / f"{environment}.toml")
    for path in places:
        if path.is_file():
            return path
    looked = " or ".join(str(path.absolute()) for path in places)
    raise ConfigError(
        f"environment {environment!r} has no file: there is no {looked}; write one with `shiftboss config init {places[0]}`"
    )
