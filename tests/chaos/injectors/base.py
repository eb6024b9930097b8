"""What an injector is, and what those that act on services share."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.world import World


class NoTarget(Exception):
    """What the fault is for is not there right now (an actor is just restarting): it is skipped, and not counted as done."""


class Injector(Protocol):
    """One kind of fault. `start` and `stop` run in a thread of the fault's own and may wait; anything they raise but
    `NoTarget` fails the run."""

    @property
    def kind(self) -> str: ...

    @property
    def weight(self) -> float:
        """How often it is drawn beyond the minimum, compared with the others."""
        ...

    @property
    def exclusive(self) -> str:
        """What it takes away as a whole: "database", "service", or nothing (empty)."""
        ...

    def fits(self, facts: Facts) -> bool:
        """Whether this kind can be done in such a world, on this machine."""
        ...

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        """(for_s, target, params) of one fault."""
        ...

    def start(self, world: World, fault: Fault) -> None: ...

    def stop(self, world: World, fault: Fault) -> None:
        """After `for_s`, also when `start` had no target; must leave nothing behind."""
        ...
