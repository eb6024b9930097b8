"""The clock of a service is set by hours, ahead or back, and right again; its monotonic clock goes on as it does."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from tests.chaos import preload
from tests.chaos.ledger import HOUR_S
from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.preload import Dials
    from tests.chaos.world import World

ALL: Final = ""  # the target that stands for all services: the machine's clock


class Jump:
    """On PostgreSQL nobody may so much as notice. On SQLite a worker's clock is the database's: one that is ahead takes all
    others for dead, and puts off for hours what it is to try again."""

    exclusive = ""
    kind, weight = "clock:worker", 1.0

    def fits(self, facts: Facts) -> bool:
        return preload.compiler() is not None

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        target = rng.choice([*facts.services, ALL])
        return rng.uniform(0.5, 4.0), target, {"offset_s": rng.choice([-3, -1, 1, 3]) * HOUR_S}

    def start(self, world: World, fault: Fault) -> None:
        for dials in self._dials(world, fault):
            dials.move(fault.params["offset_s"])

    def stop(self, world: World, fault: Fault) -> None:
        for dials in self._dials(world, fault):
            dials.move(-fault.params["offset_s"])

    @staticmethod
    def _dials(world: World, fault: Fault) -> list[Dials]:
        return [world.dials[fault.target]] if fault.target != ALL else list(world.dials.values())


INJECTORS: Final[tuple[Injector, ...]] = (Jump(),)
