"""Fields of the dataclasses that declare settings: a default and its rules in one line."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any, Final

from shiftboss.config.values import Kind, Reload, Spec

# What a timer, a database interval and a `poll` timeout all take.
_MAX_DURATION_S: Final = 3650 * 86_400.0


def _setting(default: object, spec: Spec) -> Any:
    if default is MISSING:
        return field(default_factory=dict, metadata={"spec": spec})
    # A URL may hold a password, and the repr of settings gets into messages that nobody thought of.
    return field(default=default, repr=spec.kind is not Kind.DATABASE_URL, metadata={"spec": spec})


def duration(default_s: float, doc: str, *, low: float = 0.0, variable: str | None = None, reload: Reload = Reload.LIVE) -> Any:
    """Seconds."""
    return _setting(default_s, Spec(kind=Kind.DURATION, doc=doc, low=low, high=_MAX_DURATION_S, variable=variable, reload=reload))


def whole(
    default: int | None,
    doc: str,
    *,
    low: int,
    high: int,
    optional: bool = False,
    variable: str | None = None,
    reload: Reload = Reload.LIVE,
) -> Any:
    """A whole number; `None` is written `auto` where `optional` says so."""
    spec = Spec(kind=Kind.WHOLE, doc=doc, low=low, high=high, optional=optional, variable=variable, reload=reload)
    return _setting(default, spec)


def size(default_bytes: int, doc: str, *, high: int, reload: Reload = Reload.LIVE) -> Any:
    """Bytes."""
    return _setting(default_bytes, Spec(kind=Kind.SIZE, doc=doc, low=0, high=high, reload=reload))


def switch(default: bool, doc: str, *, variable: str | None = None, reload: Reload = Reload.LIVE) -> Any:
    """True or false."""
    return _setting(default, Spec(kind=Kind.SWITCH, doc=doc, variable=variable, reload=reload))


def choice(default: str, doc: str, choices: tuple[str, ...]) -> Any:
    """One of some words."""
    return _setting(default, Spec(kind=Kind.CHOICE, doc=doc, choices=choices))


def other(kind: Kind, default: object, doc: str, *, variable: str | None = None, reload: Reload = Reload.LIVE) -> Any:
    """Any other kind; `MISSING` stands for an empty table."""
    return _setting(default, Spec(kind=kind, doc=doc, variable=variable, reload=reload))
