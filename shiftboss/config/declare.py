"""Declaring settings: in the body of a struct, each field's default and its rules in one line."""

from __future__ import annotations

from typing import Any, Final

from shiftboss.config.values import Kind, Reload, Spec

# What a timer, a database interval and a `poll` timeout all take.
_MAX_DURATION_S: Final = 3650 * 86_400.0


class Declared:
    """What one struct declares: each method returns the default, for the struct, and keeps the rules.

    Attributes:
        specs: in the order of the struct's fields.
    """

    def __init__(self) -> None:
        self.specs: list[Spec] = []

    def _setting(self, default: object, spec: Spec) -> Any:
        self.specs.append(spec)
        return default

    def duration(
        self, default_s: float, doc: str, *, low: float = 0.0, variable: str | None = None, reload: Reload = Reload.LIVE
    ) -> Any:
        """Seconds."""
        return self._setting(
            default_s, Spec(kind=Kind.DURATION, doc=doc, low=low, high=_MAX_DURATION_S, variable=variable, reload=reload)
        )

    def whole(
        self,
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
        return self._setting(default, spec)

    def size(self, default_bytes: int, doc: str, *, high: int, reload: Reload = Reload.LIVE) -> Any:
        """Bytes."""
        return self._setting(default_bytes, Spec(kind=Kind.SIZE, doc=doc, low=0, high=high, reload=reload))

    def switch(self, default: bool, doc: str, *, variable: str | None = None, reload: Reload = Reload.LIVE) -> Any:
        """True or false."""
        return self._setting(default, Spec(kind=Kind.SWITCH, doc=doc, variable=variable, reload=reload))

    def choice(self, default: str, doc: str, choices: tuple[str, ...]) -> Any:
        """One of some words."""
        return self._setting(default, Spec(kind=Kind.CHOICE, doc=doc, choices=choices))

    def other(self, kind: Kind, default: object, doc: str, *, variable: str | None = None, reload: Reload = Reload.LIVE) -> Any:
        """Any other kind."""
        return self._setting(default, Spec(kind=kind, doc=doc, variable=variable, reload=reload))
