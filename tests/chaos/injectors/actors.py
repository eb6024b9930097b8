"""Single actors are killed and frozen, whenever."""

from __future__ import annotations

import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

from tests.acceptance.worker import is_running
from tests.chaos.injectors.base import NoTarget
from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.service import Service
    from tests.chaos.world import World

ROLES: Final = ("executor", "claimer", "heartbeat", "leader", "gateway")
APPEARS_WITHIN_S: Final = 3.0


def _draw_actor(rng: random.Random, facts: Facts) -> tuple[str, Params]:
    return rng.choice(facts.services), {"nth": rng.randrange(8)}


class Kill:
    """SIGKILL to one actor."""

    exclusive = ""

    def __init__(self, role: str, weight: float) -> None:
        self.role, self.kind, self.weight = role, f"kill:{role}", weight

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return 0.0, *_draw_actor(rng, facts)

    def start(self, world: World, fault: Fault) -> None:
        service = world.service(fault.target)
        service.at_work()
        service.signal(service.pid_of(self.role, fault.params["nth"]), signal.SIGKILL)
        world.mark("killed", f"{service.name} {self.role}")

    def stop(self, world: World, fault: Fault) -> None:
        pass


class Freeze:
    """SIGSTOP to one actor, or to the supervisor, and SIGCONT later: often past the lease."""

    exclusive = ""

    def __init__(self, role: str, weight: float) -> None:
        self.role, self.kind, self.weight = role, f"freeze:{role}", weight
        self._frozen: dict[int, tuple[Service, int]] = {}

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        short = rng.random() < (0.4 if self.role == "heartbeat" else 0.7)  # a worker without heartbeats is declared dead
        for_s = rng.uniform(0.05, 0.5) if short else rng.uniform(0.5, 2.0 * facts.lease_s)
        return for_s, *_draw_actor(rng, facts)

    def start(self, world: World, fault: Fault) -> None:
        service = world.service(fault.target)
        service.at_work()
        pid = service.pid_of(self.role, fault.params["nth"])
        service.signal(pid, signal.SIGSTOP)
        self._frozen[fault.number] = service, pid

    def stop(self, world: World, fault: Fault) -> None:
        if fault.number in self._frozen:
            thaw(*self._frozen.pop(fault.number))


def thaw(service: Service, pid: int) -> None:
    """Wake a process that may have been killed meanwhile."""
    try:
        service.signal(pid, signal.SIGCONT)
    except NoTarget:
        return


class KillAtBoot:
    """Kill an actor, and then its successor while that starts."""

    exclusive = ""
    kind, weight = "kill:boot", 2.0

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        role = rng.choice(ROLES)
        return (
            0.0,
            rng.choice(facts.services),
            {"role": role, "nth": rng.randrange(8), "delay_s": round(rng.uniform(0.0, 0.3), 3)},
        )

    def start(self, world: World, fault: Fault) -> None:
        service, role = world.service(fault.target), fault.params["role"]
        before = set(service.at_work().actors().values())
        service.signal(service.pid_of(role, fault.params["nth"]), signal.SIGKILL)
        pid = successor(service, role, before)
        threading.Event().wait(fault.params["delay_s"])
        service.signal(pid, signal.SIGKILL)

    def stop(self, world: World, fault: Fault) -> None:
        pass


def successor(service: Service, role: str, before: set[int]) -> int:
    """The pid of an actor of this role that was not there before, as soon as there is one."""
    pause, give_up_s = threading.Event(), time.monotonic() + APPEARS_WITHIN_S
    while time.monotonic() < give_up_s:
        for name, pid in service.present().actors().items():
            if pid not in before and (name == role or name.rpartition("-")[0] == role) and is_running(pid):
                return pid
        pause.wait(0.005)
    raise NoTarget(f"{service.name}: no new {role} came within {APPEARS_WITHIN_S:g} s")


INJECTORS: Final[tuple[Injector, ...]] = (
    Kill("executor", 10.0),
    Kill("claimer", 7.0),
    Kill("heartbeat", 4.0),
    Kill("leader", 4.0),
    Kill("gateway", 1.0),
    Freeze("executor", 18.0),
    Freeze("claimer", 14.0),
    Freeze("heartbeat", 8.0),
    Freeze("leader", 8.0),
    Freeze("gateway", 2.0),
    Freeze("supervisor", 5.0),
    KillAtBoot(),
)
