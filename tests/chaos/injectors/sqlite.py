"""SQLite's file is held by somebody else, or stands on a slow disk."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.chaos import preload
from tests.chaos.injectors.base import NoTarget
from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.world import World


class Locked:
    """Another program, which knows nothing of our lock file, holds the database's own lock."""

    exclusive = ""

    def __init__(self, kind: str, weight: float, begin: str) -> None:
        self.kind, self.weight, self._begin = kind, weight, begin
        self._held: dict[int, sqlite3.Connection] = {}

    def fits(self, facts: Facts) -> bool:
        return facts.database == "sqlite"

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(0.1, 0.8) if rng.random() < 0.8 else rng.uniform(1.0, 3.0), "", {}

    def start(self, world: World, fault: Fault) -> None:
        file = Path(world.direct_url.removeprefix("sqlite:///"))
        address = f"{file.as_uri()}?mode=rw"  # a file that is away is not made anew
        with contextlib.ExitStack() as held:
            try:
                connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=5.0, check_same_thread=False)
                held.callback(connection.close)
                connection.execute(self._begin)
                connection.execute("SELECT count(*) FROM leader").fetchone()
            except sqlite3.OperationalError as error:
                raise NoTarget(f"could not get the lock: {error}") from error
            self._held[fault.number] = connection
            held.pop_all()

    def stop(self, world: World, fault: Fault) -> None:
        connection = self._held.pop(fault.number, None)
        if connection is not None:
            with contextlib.closing(connection):
                connection.execute("ROLLBACK")
            if self._begin != "BEGIN":
                world.mark("database up")


class SlowDisk:
    """Every sync of every service takes long, as on a disk that is shared with a backup."""

    exclusive = ""
    kind, weight = "sqlite:slow-disk", 1.0

    def fits(self, facts: Facts) -> bool:
        return facts.database == "sqlite" and preload.compiler() is not None

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(1.0, 4.0), "", {"delay_s": round(rng.uniform(0.2, 1.5), 3)}

    def start(self, world: World, fault: Fault) -> None:
        for dials in world.dials.values():
            dials.slow_down(fault.params["delay_s"])

    def stop(self, world: World, fault: Fault) -> None:
        for dials in world.dials.values():
            dials.slow_down(-fault.params["delay_s"])


INJECTORS: Final[tuple[Injector, ...]] = (
    Locked("sqlite:locked", 4.0, "BEGIN EXCLUSIVE"),
    SlowDisk(),
    Locked("sqlite:reader", 3.0, "BEGIN"),  # a snapshot that stays open: the log cannot be checkpointed past it
)
