"""Options that many commands share, and what they lead to: settings and an open store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shiftboss.config import LoadedSettings, load_settings, redact

if TYPE_CHECKING:
    from shiftboss.store.base import Store

Env = Annotated[
    str | None,
    typer.Option(
        "--env", "-e", metavar="NAME", help="Environment: reads conf/NAME.toml or /etc/shiftboss/NAME.toml. [SHIFTBOSS_ENV]"
    ),
]
Config = Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help="Read this TOML file instead.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NAME=VALUE", help="Override one setting, like claim_interval=500ms. May be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def load(env: str | None, config: Path | None, assignments: Sequence[str] | None = None, **overrides: str) -> LoadedSettings:
    """The settings that these options ask for. Raises `ConfigError`."""
    for assignment in assignments or ():
        name, separator, value = assignment.partition("=")
        if not separator:
            raise typer.BadParameter(f"{redact(assignment)!r} is not NAME=VALUE, like claim_interval=500ms", param_hint="--set")
        overrides[name.strip()] = value
    return load_settings(env, config, overrides=overrides)


@contextmanager
def opened(loaded: LoadedSettings) -> Iterator[Store]:
    """The store of these settings, with its schema checked.

    Raises:
        StoreUnavailable: it cannot be reached.
        SchemaError: its schema is not the one this version works with.
    """
    with unchecked(loaded) as store:
        store.check_schema()
        yield store


@contextmanager
def unchecked(loaded: LoadedSettings) -> Iterator[Store]:
    """The store as it is, for commands that check or make its schema."""
    from shiftboss.store.open import open_store  # brings a database library

    with closing(open_store(loaded.settings.database_url, application_name="shiftboss cli")) as store:
        yield store
