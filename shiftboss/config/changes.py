"""What differs between two sets of settings, and what a reload has to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from shiftboss.config.settings import QUEUE_SETTINGS, SETTINGS, QueueSettings, Settings
from shiftboss.config.show import plain_value
from shiftboss.config.values import Kind, Reload

_AS_STORED: Final = "as stored"  # a queue's value that no source gives
_ANOTHER_PASSWORD: Final = " (another password)"


class Change(msgspec.Struct, frozen=True):
    """One setting with two values.

    Attributes:
        name: in TOML; of a queue `queues.NAME.weight`.
        reload: what makes the new value apply.
        was, now: as TOML and JSON have them, passwords hidden; `None`: a queue's value that no source gives.
    """

    name: str
    reload: Reload
    was: object
    now: object

    @property
    def old(self) -> str:
        """For people, as in TOML."""
        return _text(self.was)

    @property
    def new(self) -> str:
        """For people, as in TOML."""
        return _text(self.now) + (_ANOTHER_PASSWORD if self.was == self.now else "")

    def __str__(self) -> str:
        """`claim_interval: "1s" -> "2s"`."""
        return f"{self.name}: {self.old} -> {self.new}"


def changes(old: Settings, new: Settings) -> list[Change]:
    """Every setting whose value differs, in the order of the reference; of queues each value by itself."""
    found: list[Change] = []
    for setting in SETTINGS:
        if setting.spec.kind is Kind.QUEUES:
            found += _changes_of_queues(old, new, setting.spec.reload)
        elif getattr(old, setting.field) != getattr(new, setting.field):
            found.append(Change(setting.name, setting.spec.reload, plain_value(old, setting), plain_value(new, setting)))
    return found


def described(found: list[Change]) -> str:
    """All of them in one line; `nothing` when there are none."""
    return ", ".join(map(str, found)) or "nothing"


def _changes_of_queues(old: Settings, new: Settings, reload: Reload) -> Iterator[Change]:
    nothing = QueueSettings()
    for queue in sorted({*old.queues, *new.queues}):
        before, after = old.queues.get(queue, nothing), new.queues.get(queue, nothing)
        for setting in QUEUE_SETTINGS:
            was, now = getattr(before, setting.field), getattr(after, setting.field)
            if was != now:
                yield Change(f"queues.{queue}.{setting.name}", reload, was, now)


def _text(value: object) -> str:
    # JSON writes what can stand here as TOML does, and is loaded in every process.
    return _AS_STORED if value is None else msgspec.json.encode(value).decode()
