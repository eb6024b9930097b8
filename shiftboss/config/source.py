"""Where settings were asked for, kept so that a reload can read the same places afresh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from shiftboss.hiding import repr_without

SOURCE_VARIABLE: Final = "SHIFTBOSS_SOURCE"  # how a service hands it down to the process that reads again


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What `load_settings` was asked for; environment variables and files are read anew each time.

    Attributes:
        environment: its name; `None`: `$SHIFTBOSS_ENV`, or the file at hand.
        file: as it was given: a relative path is one from the working directory.
        overrides: setting's name -> its text, from the command line. May hold a password.
    """

    environment: str | None = None
    file: Path | None = None
    overrides: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        return repr_without(self, "overrides")


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    environment: str | None = None
    file: str | None = None
    overrides: dict[str, str] = msgspec.field(default_factory=dict)


def source_to_json(source: Source) -> str:
    """For a child process. May hold a password: hand it over as a secret (see `shiftboss.control`)."""
    file = None if source.file is None else str(source.file)
    return msgspec.json.encode(_Written(source.environment, file, dict(source.overrides))).decode()


def source_from_json(text: str) -> Source:
    """What `source_to_json` wrote.

    Raises:
        msgspec.DecodeError: it is something else.
    """
    written = msgspec.json.decode(text, type=_Written)
    file = None if written.file is None else Path(written.file)
    return Source(environment=written.environment, file=file, overrides=MappingProxyType(written.overrides))
