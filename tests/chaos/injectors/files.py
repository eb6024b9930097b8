"""Files: no descriptors left in a process, and SQLite's file away from its place."""

from __future__ import annotations

import contextlib
import os
import random
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.chaos.injectors.actors import ROLES
from tests.chaos.injectors.base import NoTarget
from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.world import World

Limits = tuple[int, int]


class NoDescriptors:
    """A living process may open nothing more."""

    exclusive = ""

    def __init__(self, kind: str, weight: float, roles: tuple[str, ...]) -> None:
        self.kind, self.weight, self._roles = kind, weight, roles
        self._before: dict[int, tuple[int, Limits]] = {}

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        params = {"role": rng.choice(self._roles), "nth": rng.randrange(8), "spare": rng.choice((0, 0, 1, 3))}
        return rng.uniform(0.1, 1.5), rng.choice(facts.services), params

    def start(self, world: World, fault: Fault) -> None:
        service = world.service(fault.target)
        if not service.has_said("service.ready"):
            raise NoTarget(f"{service.name} is not ready yet")  # who cannot open what it needs to begin with ends, rightly
        pid = service.pid_of(fault.params["role"], fault.params["nth"])
        if any(pid == limited for limited, _limits in self._before.values()):
            raise NoTarget(f"{pid} has none left already")
        try:
            now = len(os.listdir(f"/proc/{pid}/fd"))
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (now + fault.params["spare"], limits[1]))
        except OSError as error:
            raise NoTarget(f"{pid} has just ended: {error}") from error
        self._before[fault.number] = pid, limits

    def stop(self, world: World, fault: Fault) -> None:
        if fault.number in self._before:
            pid, limits = self._before.pop(fault.number)
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


class MovedAway:
    """The database file is not where it was, and comes back; no service starts meanwhile, which would be told to go."""

    kind, weight, exclusive = "sqlite:moved", 0.2, "database"

    def __init__(self) -> None:
        self._held: dict[int, contextlib.ExitStack] = {}

    def fits(self, facts: Facts) -> bool:
        return facts.database == "sqlite"

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(0.1, 1.5), "", {}

    def start(self, world: World, fault: Fault) -> None:
        path = Path(world.direct_url.removeprefix("sqlite:///"))
        with contextlib.ExitStack() as held:
            held.enter_context(world.all_services())
            aside = path.with_suffix(".aside")
            path.rename(aside)
            held.callback(self._put_back, world, aside, path)
            self._held[fault.number] = held.pop_all()

    @staticmethod
    def _put_back(world: World, aside: Path, path: Path) -> None:
        if path.exists():
            world.find(f"somebody made a database of {path.stat().st_size} bytes in the place of one that was moved away")
        aside.rename(path)
        world.mark("database up")

    def stop(self, world: World, fault: Fault) -> None:
        held = self._held.pop(fault.number, None)
        if held is not None:
            held.close()


INJECTORS: Final[tuple[Injector, ...]] = (
    NoDescriptors("fd:actor", 6.0, ROLES),
    NoDescriptors("fd:supervisor", 2.0, ("supervisor",)),
    MovedAway(),
)
