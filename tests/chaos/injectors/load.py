"""Producers and operators at their worst: floods, and hands that cancel and retry whatever is there."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from shiftboss.errors import StoreUnavailable
from shiftboss.model import TaskState
from shiftboss.store.base import Store, TaskFilter
from tests.chaos.injectors.base import NoTarget
from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.world import World

BATCH: Final = 2_500


class Flood:
    """Thousands of tasks in a moment."""

    exclusive = ""
    kind, weight = "flood", 0.3

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return 0.0, "", {"share": round(rng.uniform(0.02, 0.1), 3)}

    def start(self, world: World, fault: Fault) -> None:
        left = min(10_000, int(world.producer.count * fault.params["share"]))
        with world.store() as store:
            while left > 0:
                size = min(BATCH, left)
                world.producer.send(store, size)
                left -= size

    def stop(self, world: World, fault: Fault) -> None:
        pass


class Operator:
    """A person, or a script, at the tasks that were enqueued lately."""

    exclusive = ""

    def __init__(self, kind: str, weight: float) -> None:
        self.kind, self.weight = kind, weight

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return 0.0, "", {"seed": rng.randrange(1 << 30), "count": rng.randint(1, 60)}

    def start(self, world: World, fault: Fault) -> None:
        with world.store() as store:
            try:
                self._act(world, store, random.Random(fault.params["seed"]), fault.params["count"])
            except StoreUnavailable as error:
                raise NoTarget(f"the database is away: {error}") from error

    def _act(self, world: World, store: Store, rng: random.Random, count: int) -> None:
        raise NotImplementedError

    def stop(self, world: World, fault: Fault) -> None:
        pass


class Cancel(Operator):
    """Cancel recent tasks, waiting or running."""

    def _act(self, world: World, store: Store, rng: random.Random, count: int) -> None:
        recent = list(world.producer.recent)
        if not recent:
            raise NoTarget("nothing is enqueued yet")
        running = [one.id for one in store.list_tasks(TaskFilter(status=TaskState.RUNNING), count)]
        store.cancel(TaskFilter(ids=[*rng.sample(recent, min(count, len(recent))), *running[: rng.randint(0, 3)]]))


class Retry(Operator):
    """Retry dead letters and cancelled tasks."""

    def _act(self, world: World, store: Store, rng: random.Random, count: int) -> None:
        status = rng.choice([TaskState.DEAD_LETTER, TaskState.CANCELLED])
        found = [one.id for one in store.list_tasks(TaskFilter(status=status), count)]
        if not found:
            raise NoTarget(f"no task is {status}")
        world.operators.write("".join(f"R {one}\n" for one in found))
        store.retry(TaskFilter(ids=found))


INJECTORS: Final[tuple[Injector, ...]] = (Flood(), Cancel("operator:cancel", 5.0), Retry("operator:retry", 5.0))
