"""Every kind of fault there is, a module a family."""

from __future__ import annotations

from typing import Final

from tests.chaos.injectors import actors, clocks, files, load, network, poison, postgres, postgres_more, services, sqlite
from tests.chaos.injectors.base import Injector, NoTarget
from tests.chaos.schedule import Facts

__all__ = ["ALL", "Injector", "NoTarget", "fitting"]

ALL: Final[tuple[Injector, ...]] = (
    *actors.INJECTORS,
    *services.INJECTORS,
    *load.INJECTORS,
    *postgres.INJECTORS,
    *postgres_more.INJECTORS,
    *network.INJECTORS,
    *sqlite.INJECTORS,
    *poison.INJECTORS,
    *files.INJECTORS,
    *clocks.INJECTORS,
)


def fitting(facts: Facts) -> list[Injector]:
    """Those that can be done in such a world."""
    kinds = [injector.kind for injector in ALL]
    assert len(kinds) == len(set(kinds)), "two injectors of one kind"
    return [injector for injector in ALL if injector.fits(facts)]
