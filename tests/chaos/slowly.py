"""A schedule for figures: what something has to recover from, one after the other, each with the time that this may take.

In a storm the times say how a storm feels. These can be held against the limits, on a machine that does nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from tests.chaos import injectors
from tests.chaos.injectors.actors import ROLES
from tests.chaos.schedule import Facts, Fault, Schedule

PER_S: Final = 40.0  # tasks: enough that one is always due
FIRST_AT_S: Final = 2.0
# kind -> (how often, seconds until the next fault)
_EVERYWHERE: Final[Mapping[str, tuple[int, float]]] = {
    **{f"kill:{role}": (20, 1.5) for role in ROLES},
    "kill:supervisor": (16, 6.0),
    "stop:service": (10, 4.0),
}
_DATABASE: Final[Mapping[str, Mapping[str, tuple[int, float]]]] = {
    "sqlite": {"sqlite:moved": (6, 4.0), "sqlite:locked": (6, 4.0)},
    "postgres": {"pg:restart": (5, 5.0), "pg:crash": (5, 5.0), "pg:away": (4, 8.0)},
}
_AIMED: Final = {
    "kill:supervisor": {"aimed": True, "leading": True, "down_s": 0.5},
    "stop:service": {"signals": ["TERM"], "down_s": 0.0},
}


def draw(seed: int, database: str) -> Schedule:
    """The same faults in an order of its own for each seed."""
    rng, facts = random.Random(seed), Facts(database=database)
    known = {one.kind: one for one in injectors.fitting(facts)}
    counts = {**_EVERYWHERE, **_DATABASE[database]}
    kinds = [kind for kind, (times, _gap_s) in counts.items() for _ in range(times)]
    rng.shuffle(kinds)
    faults, at_s = list[Fault](), FIRST_AT_S
    for number, kind in enumerate(kinds, 1):
        for_s, target, params = known[kind].draw(rng, facts)
        params |= _AIMED.get(kind, {})
        faults.append(Fault(number=number, kind=kind, at_s=round(at_s, 3), for_s=round(for_s, 3), target=target, params=params))
        at_s += counts[kind][1]
    return Schedule(seed=seed, facts=facts, faults=faults)


def tasks(schedule: Schedule) -> int:
    """How many to enqueue meanwhile."""
    return int(schedule.duration_s * PER_S)
