"""TOML files on disk: what stands in one, and which drop-ins it has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shiftboss.config.locate import lines_of_keys
from shiftboss.config.redact import redact
from shiftboss.errors import ConfigError


def read_toml(path: Path) -> tuple[Mapping[str, Any], Mapping[tuple[str, ...], int]]:
    """Its tables, and the line of each key.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    import tomllib  # not in child processes, which get their settings as JSON

    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), lines_of_keys(text)
    except OSError as error:
        # A URL that was meant for another option is not repeated; neither is it by the error below this one.
        raise ConfigError(
            f"{redact(str(path))}: cannot be read: {error.strerror}; mend that, or give another file with --config"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error


def drop_ins_of(path: Path) -> tuple[Path, ...]:
    """`conf/production.d/*.toml` of `conf/production.toml`, in the order of their names; hidden files are left alone.

    Raises:
        ConfigError: the folder cannot be read.
    """
    folder = path.with_name(f"{path.name.removesuffix('.toml')}.d")
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}; it is for drop-ins of {path.name}") from error
    return tuple(one for one in found if one.suffix == ".toml" and not one.name.startswith("."))
