"""Tasks that harm whoever runs them, among all the others: see `tests.chaos.poison_tasks` for what each does."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from shiftboss.bound import Prepared
from shiftboss.errors import StoreUnavailable
from shiftboss.store.base import TaskFilter
from tests.chaos import poison_tasks
from tests.chaos.injectors.base import NoTarget
from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.world import World

DIES_WITHIN_S: Final = 20.0
WITHDRAWN_WITHIN_S: Final = 60.0
SOONEST: Final = 100  # priority: while the fault is on, not after the backlog
_BEARABLE: Final = ("exit", "exit_zero", "segfault", "abort", "kill", "stack_overflow", "closes_descriptors")


def enqueue(world: World, task: Prepared[Any]) -> None:
    """Store it, and note in the ledger what was tried and acknowledged. `NoTarget` while the database is away."""
    world.operators.write(f"T {task.new.id}\n")
    with world.store() as store:
        try:
            store.enqueue([task.new])
        except StoreUnavailable as error:
            raise NoTarget(f"the database is away: {error}") from error
    world.operators.write(f"A {task.new.id}\n")


def withdraw(world: World, task: Prepared[Any]) -> None:
    """Cancel it, as soon as the database is there: left alone, it would do its harm when nobody expects it any more."""
    give_up_s, pause = time.monotonic() + WITHDRAWN_WITHIN_S, threading.Event()
    while True:
        try:
            with world.store() as store:
                store.cancel(TaskFilter(ids=[task.new.id]))
                return
        except StoreUnavailable:
            if time.monotonic() > give_up_s:
                raise
            pause.wait(0.2)


class Poison:
    """One such task. That it ends, and how, is for the invariants."""

    exclusive = ""

    def __init__(self, kind: str, weight: float, hows: tuple[str, ...]) -> None:
        self.kind, self.weight, self._hows = kind, weight, hows

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return 0.0, "", {"how": rng.choice(self._hows), "async": rng.random() < 0.3}

    def start(self, world: World, fault: Fault) -> None:
        enqueue(world, self._task(fault.params))

    def _task(self, params: Params) -> Prepared[Any]:
        how = params["how"]
        if how in poison_tasks.DEADLY:
            kind = poison_tasks.deadly_async if params["async"] else poison_tasks.deadly
        else:
            kind = poison_tasks.failing if how in poison_tasks.FAILING else poison_tasks.harmless
        prepared: Prepared[Any] = kind.using(priority=SOONEST).prepare(how)
        return prepared

    def stop(self, world: World, fault: Fault) -> None:
        pass


class HoldsGil(Poison):
    """Longer than a lease, with a timeout that only a kill can enforce."""

    def _task(self, params: Params) -> Prepared[Any]:
        return poison_tasks.holds_gil.using(priority=SOONEST).prepare(5.0)


class Hostile(Poison):
    """Errors, results and payloads that nobody should have to read."""

    def _task(self, params: Params) -> Prepared[Any]:
        how = params["how"]
        if how in poison_tasks.TEXTS:
            return poison_tasks.hostile_error.prepare(how)
        if how in poison_tasks.RAISES:
            return poison_tasks.hostile_raise.prepare(how)
        value = how if how in poison_tasks.RESULTS else poison_tasks.PAYLOADS[how]
        kind = poison_tasks.hostile_result if how in poison_tasks.RESULTS else poison_tasks.hostile_payload
        prepared: Prepared[Any] = kind.prepare(value)
        return prepared


class KillsSupervisor:
    """A task that kills the parent of its executor: the service is gone, the task is lost once, and runs elsewhere."""

    kind, weight, exclusive = "poison:parent", 0.1, "service"

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return 0.0, rng.choice(facts.services), {}

    def start(self, world: World, fault: Fault) -> None:
        with world.ending(fault.target) as service:
            worker = service.present()
            worker.actors()
            task = poison_tasks.kills_parent.using(priority=SOONEST).prepare(worker.process.pid)
            service.expected = "poison"
            try:
                enqueue(world, task)
                give_up_s, pause = time.monotonic() + DIES_WITHIN_S, threading.Event()
                while worker.process.poll() is None:
                    if time.monotonic() > give_up_s:
                        raise NoTarget("it was not run there in time")
                    pause.wait(0.02)
                service.await_gone(sorted(worker.seen), time.monotonic())
            except NoTarget:
                service.expected = None
                withdraw(world, task)
                raise
            service.destroy()
            service.launch()

    def stop(self, world: World, fault: Fault) -> None:
        pass


_TEXTS: Final = (*poison_tasks.TEXTS, *poison_tasks.RAISES, *poison_tasks.RESULTS, *poison_tasks.PAYLOADS)
INJECTORS: Final[tuple[Injector, ...]] = (
    Poison("poison:deadly", 4.0, _BEARABLE),
    Poison("poison:fork_bomb", 0.5, ("fork_bomb",)),
    Poison("poison:memory", 1.0, ("memory_hog",)),
    Poison("poison:recursion", 2.0, ("recursion",)),
    Poison("poison:mess", 2.0, poison_tasks.HARMLESS),
    HoldsGil("poison:gil", 1.0, ("gil",)),
    Hostile("hostile:texts", 8.0, _TEXTS),
    KillsSupervisor(),
)
