"""PostgreSQL that answers, but not as hoped: read-only, full of strangers, slow to make anything durable."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import psycopg

from tests.chaos.injectors.base import NoTarget
from tests.chaos.injectors.postgres import connect, has_come_back, refuse_unrested
from tests.chaos.rows import SQL
from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.world import World

_BACK_WITHIN_S: Final = 30.0


class ServerSetting:
    """The server's settings are changed while it runs, for everybody, and set back."""

    exclusive = "database"

    def __init__(self, kind: str, weight: float, for_s: tuple[float, float], settings: Mapping[str, str]) -> None:
        self.kind, self.weight, self._for_s, self._settings = kind, weight, for_s, settings
        self._begun = set[int]()

    def fits(self, facts: Facts) -> bool:
        return facts.database == "postgres"

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(*self._for_s), "", {}

    def start(self, world: World, fault: Fault) -> None:
        refuse_unrested(world)
        self._begun.add(fault.number)
        self._alter(world, [f"SET {name} = {value}" for name, value in self._settings.items()])

    def stop(self, world: World, fault: Fault) -> None:
        if fault.number not in self._begun:
            return
        until_s = time.monotonic() + _BACK_WITHIN_S
        while True:
            try:
                self._alter(world, [f"RESET {name}" for name in self._settings])
                self._begun.discard(fault.number)
                has_come_back(world)
                return
            except NoTarget:
                if time.monotonic() > until_s:
                    raise AssertionError(f"the server could not be set back: {', '.join(self._settings)}") from None
                threading.Event().wait(0.2)

    def _alter(self, world: World, changes: list[str]) -> None:
        with contextlib.closing(connect(world)) as stranger:
            try:
                for change in changes:
                    stranger.execute(f"ALTER SYSTEM {change}".encode())
                stranger.execute(SQL["reload_conf"].encode())
            except psycopg.OperationalError as error:
                raise NoTarget(f"the database went away: {error}") from error


class OutOfConnections:
    """Strangers take every connection that there is, also ours."""

    exclusive = "database"
    kind, weight = "pg:connections", 0.2

    def __init__(self) -> None:
        self._held: dict[int, list[psycopg.Connection[tuple[object, ...]]]] = {}

    def fits(self, facts: Facts) -> bool:
        return facts.database == "postgres"

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(0.3, 1.5), "", {}

    def start(self, world: World, fault: Fault) -> None:
        refuse_unrested(world)
        held = self._held[fault.number] = [connect(world)]
        try:
            with contextlib.suppress(NoTarget):
                self._fill(world, held)
            held[0].execute(SQL["terminate_all"].encode())
            with contextlib.suppress(NoTarget):
                self._fill(world, held)
        except psycopg.OperationalError as error:
            raise NoTarget(f"the database went away: {error}") from error

    def _fill(self, world: World, held: list[psycopg.Connection[tuple[object, ...]]]) -> None:
        """Until there are no more (`NoTarget`)."""
        while True:
            held.append(connect(world))

    def stop(self, world: World, fault: Fault) -> None:
        held = self._held.pop(fault.number, [])
        for stranger in held:
            stranger.close()
        if held:
            has_come_back(world)


INJECTORS: Final[tuple[Injector, ...]] = (
    ServerSetting("pg:read-only", 0.2, (0.2, 1.0), {"default_transaction_read_only": "on"}),
    # Before a commit is made durable it waits for so many microseconds: to us, a slow disk.
    ServerSetting("pg:slow-disk", 1.0, (0.5, 2.0), {"commit_delay": "100000", "commit_siblings": "0"}),
    OutOfConnections(),
)
