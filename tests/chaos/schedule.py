"""A schedule of faults as data: drawn from a seed, printed, saved, and replayed as it was."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector

Params: TypeAlias = dict[str, Any]
MIN_PER_KIND: Final = 3
EXCLUSIVE_PART: Final = 0.85  # they wait for each other, and the round must not wait for them at its end


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an injector may know of the world when its faults are drawn.

    Attributes:
        database: "sqlite" or "postgres".
        services: names of the services.
        lease_s: worker_timeout.
    """

    database: str
    services: tuple[str, ...] = ("one", "two", "three")
    lease_s: float = 2.0
    term_s: float = 3.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault.

    Attributes:
        kind: the injector's.
        at_s: when it begins, after the start of the round.
        for_s: how long it lasts; 0: an instant.
        target: a service's name, or whatever the kind understands; empty: none.
        params: the kind's own, fit for JSON.
    """

    number: int
    kind: str
    at_s: float
    for_s: float = 0.0
    target: str = ""
    params: Params = {}


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """All faults of one round, in the order of their beginning."""

    seed: int
    facts: Facts
    faults: list[Fault]

    @property
    def duration_s(self) -> float:
        return max((fault.at_s for fault in self.faults), default=0.0)

    def save(self, file: Path) -> None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))


def load(file: Path) -> Schedule:
    """A schedule that was saved."""
    return msgspec.json.decode(file.read_bytes(), type=Schedule)


def draw(
    seed: int, facts: Facts, injectors: Iterable[Injector], count: int, per_s: float, at_least: int = MIN_PER_KIND
) -> Schedule:
    """`count` faults at `per_s` a second: each of `injectors` at least `at_least` times, the rest by their weights."""
    rng = random.Random(seed)
    fitting = sorted(injectors, key=lambda one: one.kind)
    chosen = [injector for injector in fitting for _ in range(at_least)]
    missing = max(0, count - len(chosen))
    chosen += rng.choices(fitting, weights=[injector.weight for injector in fitting], k=missing)
    rng.shuffle(chosen)
    timed = sorted(_moments(rng, chosen, len(chosen) / per_s), key=lambda one: one[0])
    return Schedule(seed=seed, facts=facts, faults=_faults(rng, facts, timed))


def _moments(rng: random.Random, chosen: Sequence[Injector], span_s: float) -> Iterator[tuple[float, Injector]]:
    """When each begins: anywhere, but those that take the same thing away (`exclusive`) spread over most of the time.

    Otherwise the database, or every service, would be away most of the time, and a world that is down shows nothing.
    """
    groups: dict[str, list[Injector]] = {}
    for injector in chosen:
        groups.setdefault(injector.exclusive, []).append(injector)
    for what, group in groups.items():
        step_s = EXCLUSIVE_PART * span_s / len(group)
        for place, injector in enumerate(group):
            yield (rng.uniform(0.0, span_s) if not what else (place + rng.uniform(0.2, 0.8)) * step_s), injector


def _faults(rng: random.Random, facts: Facts, timed: Sequence[tuple[float, Injector]]) -> list[Fault]:
    faults = []
    for number, (at_s, injector) in enumerate(timed, 1):
        for_s, target, params = injector.draw(rng, facts)
        faults.append(
            Fault(number=number, kind=injector.kind, at_s=round(at_s, 3), for_s=round(for_s, 3), target=target, params=params)
        )
    return faults
