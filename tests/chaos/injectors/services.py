"""Whole services: killed, stopped and started, suspended, two leaders at once, everything frozen in random order."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from shiftboss import commands
from shiftboss.errors import StoreUnavailable
from shiftboss.model import TaskState
from shiftboss.store.base import Store, TaskFilter
from tests.chaos import workload
from tests.chaos.injectors.actors import ROLES, successor, thaw
from tests.chaos.injectors.base import NoTarget
from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.service import Service
    from tests.chaos.world import World

T = TypeVar("T")
LONG_TASKS: Final = 8


def _draw_outage(rng: random.Random, facts: Facts) -> float:
    """How long a service stays down: mostly less than a lease, sometimes more, so that others recover its tasks."""
    return rng.uniform(0.0, 0.5) if rng.random() < 0.8 else rng.uniform(facts.lease_s, facts.lease_s + 2.0)


def _start_again(service: Service) -> None:
    service.destroy()
    service.launch()


class KillSupervisor:
    """SIGKILL to the supervisor: everything of it is gone at once, and another service runs its tasks."""

    exclusive = "service"
    kind, weight = "kill:supervisor", 0.4

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        params = {"down_s": round(_draw_outage(rng, facts), 3), "aimed": rng.random() < 0.25, "leading": rng.random() < 0.25}
        return 0.0, rng.choice(facts.services), params

    def start(self, world: World, fault: Fault) -> None:
        name = world.leading().name if fault.params["leading"] else fault.target
        with world.ending(name) as service:
            if fault.params["aimed"]:
                with _database(world) as store:
                    _give_long_tasks(world, store, service, world.facts.lease_s)
            kill_service(world, service, fault.params["down_s"])

    def stop(self, world: World, fault: Fault) -> None:
        pass


def kill_service(world: World, service: Service, down_s: float) -> None:
    """Kill it, see that nothing of it stays, and start it again; with its gate held."""
    pid = service.present().process.pid
    killed_s, left = service.kill()
    world.mark("service killed", str(pid), killed_s)
    gone_s = service.await_gone(left, killed_s)
    world.mark("descendants gone", f"{gone_s:.3f}")
    threading.Event().wait(max(0.0, down_s - gone_s))
    _start_again(service)


class KillEverything(KillSupervisor):
    """All services at once, as when the machine loses its power; the database stays."""

    kind, weight = "kill:everything", 0.05

    def start(self, world: World, fault: Fault) -> None:
        with world.all_services() as services:
            deaths = [(service, *service.kill()) for service in services]
            for service, killed_s, left in deaths:
                world.mark("descendants gone", f"{service.await_gone(left, killed_s):.3f}")
            threading.Event().wait(fault.params["down_s"])
            for service in services:
                _start_again(service)


class KillInSpawnWindow(KillSupervisor):
    """The supervisor dies while it starts a child: between fork, exec and the child's own guard against that."""

    kind, weight = "kill:spawn-window", 0.2

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        params = {
            "role": rng.choice(ROLES),
            "nth": rng.randrange(8),
            "delay_ms": round(rng.expovariate(1 / 15), 1),
            "down_s": 0.0,
        }
        return 0.0, rng.choice(facts.services), params

    def start(self, world: World, fault: Fault) -> None:
        with world.ending(fault.target) as service:
            before = set(service.present().actors().values())
            service.signal(service.pid_of(fault.params["role"], fault.params["nth"]), signal.SIGKILL)
            successor(service, fault.params["role"], before)
            threading.Event().wait(fault.params["delay_ms"] / 1000)
            kill_service(world, service, fault.params["down_s"])


class KillAtStart(KillSupervisor):
    """The supervisor dies while the service starts."""

    kind, weight = "kill:start", 0.05

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return 0.0, rng.choice(facts.services), {"delay_s": round(rng.uniform(0.0, 1.5), 3)}

    def start(self, world: World, fault: Fault) -> None:
        with world.ending(fault.target) as service:
            kill_service(world, service, 0.0)
            threading.Event().wait(fault.params["delay_s"])
            kill_service(world, service, 0.0)


class Stop:
    """SIGTERM (or INT, QUIT, or TERM twice), an exit with 0 in time, and a new start."""

    exclusive = "service"
    kind, weight = "stop:service", 0.4

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        signals = rng.choice([["TERM"], ["TERM"], ["INT"], ["QUIT"], ["TERM", "TERM"], ["INT", "INT"]])
        params = {"signals": signals, "gap_s": round(rng.uniform(0.0, 0.5), 3), "down_s": round(_draw_outage(rng, facts), 3)}
        return 0.0, rng.choice(facts.services), params

    def start(self, world: World, fault: Fault) -> None:
        with world.ending(fault.target) as service:
            self._stop(world, service, fault)
            threading.Event().wait(fault.params["down_s"])
            _start_again(service)

    def _stop(self, world: World, service: Service, fault: Fault) -> None:
        """Ends it; what must hold of an ordinary stop is held against it."""
        process, began_s = service.present().process, time.monotonic()
        service.expected = "stopped"
        for number, name in enumerate(fault.params["signals"]):
            threading.Event().wait(fault.params["gap_s"] if number else 0.0)
            process.send_signal(signal.Signals[f"SIG{name}"])
        self._meanwhile(service, fault)
        code = process.wait(60.0)
        world.mark("stopped", f"{time.monotonic() - began_s:.3f}")
        if code and (code > 0 or service.has_said("service.starting")):  # before that it is Python's, which just dies
            world.find(f"{service.name} ended with {code} when it was asked to stop; see {service.logs[-1]}")
        service.await_gone(sorted(service.worker.seen) if service.worker else [], time.monotonic())

    def _meanwhile(self, service: Service, fault: Fault) -> None:
        pass

    def stop(self, world: World, fault: Fault) -> None:
        pass


class KillWhileStopping(Stop):
    """An actor is killed in the middle of a stop."""

    kind, weight = "kill:stop", 0.2

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        params = {"role": rng.choice(ROLES), "nth": rng.randrange(8), "delay_s": round(rng.uniform(0.0, 1.0), 3)}
        return 0.0, rng.choice(facts.services), {"signals": ["TERM"], "gap_s": 0.0, "down_s": 0.0, **params}

    def _meanwhile(self, service: Service, fault: Fault) -> None:
        threading.Event().wait(fault.params["delay_s"])
        try:
            service.signal(service.pid_of(fault.params["role"], fault.params["nth"]), signal.SIGKILL)
        except NoTarget:
            return  # the stop was quicker


class Suspend:
    """The whole service is stopped, longer than its lease, and goes on, as a machine that slept."""

    exclusive = ""
    kind, weight = "suspend:service", 6.0

    def __init__(self) -> None:
        self._asleep: dict[int, tuple[Service, list[int]]] = {}

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        # Best of all it wakes while its tasks run elsewhere: a task of about one lease, started when the lease is over.
        for_s = rng.uniform(0.1, facts.lease_s) if rng.random() < 0.25 else facts.lease_s + rng.uniform(0.5, 4.0)
        return for_s, rng.choice(facts.services), {}

    def start(self, world: World, fault: Fault) -> None:
        service = world.service(fault.target)
        self._freeze(fault, service, [service.pid_of("supervisor"), *service.at_work().actors().values()])

    def _freeze(self, fault: Fault, service: Service, pids: list[int]) -> None:
        self._asleep[fault.number] = service, pids
        for pid in pids:
            freeze(service, pid)

    def stop(self, world: World, fault: Fault) -> None:
        service, pids = self._asleep.pop(fault.number, (None, []))
        for pid in pids:
            if service is not None:
                thaw(service, pid)


class WakeAsZombie(Suspend):
    """The same, aimed: a service, or its heartbeat alone, wakes in the middle of what it had begun and another has begun anew."""

    kind, weight = "suspend:zombie", 0.4  # others must hold still while it lasts

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        part = rng.choice(["", "heartbeat"])
        # Who only has no heartbeat works on, until long after others have been given its tasks.
        leases = rng.uniform(1.6, 2.6) if part else rng.uniform(0.9, 1.4)
        return 0.0, rng.choice(facts.services), {"part": part, "seconds": round(facts.lease_s * leases, 2)}

    def start(self, world: World, fault: Fault) -> None:
        if sum(one.is_ready for one in world.services.values()) < 2:
            raise NoTarget("nobody is there to take over")
        with world.quiet(), _database(world) as store:
            service, mine = _give_long_tasks(world, store, fault.target, fault.params["seconds"])
            if fault.params["part"]:
                self._freeze(fault, service, [service.pid_of(fault.params["part"])])
            else:
                super().start(world, fault)
            _await(lambda: _runs_elsewhere(store, mine), world.facts.lease_s + world.facts.term_s + 4.0, "nobody took over")


@contextlib.contextmanager
def _database(world: World) -> Iterator[Store]:
    """A store for this block; `NoTarget` while the database is away."""
    try:
        with world.store() as store:
            yield store
    except StoreUnavailable as error:
        raise NoTarget(f"the database is away: {error}") from error


def _give_long_tasks(world: World, store: Store, liked: str, seconds: float) -> tuple[Service, dict[str, int]]:
    """Until a service runs some, best of all the one that is liked: the service, and id -> fence."""
    long = workload.long.using(priority=50)  # before everything that waits
    world.producer.send_these(store, [long.prepare(seconds) for _ in range(LONG_TASKS)])
    return _await(lambda: _runs(world, store, liked), 2.0, "none of the long tasks came to anybody")


def _runs(world: World, store: Store, liked: str) -> tuple[Service, dict[str, int]] | None:
    """Who runs long tasks now, and which: id -> fence."""
    found = store.list_tasks(TaskFilter(status=TaskState.RUNNING, type=workload.long.type), 100)
    for service in sorted(world.services.values(), key=lambda one: one.name != liked):
        if service.is_ready:
            mark = f"-{service.present().process.pid}-"
            if mine := {one.id: one.fence for one in found if mark in (one.worker_id or "")}:
                return service, mine
    return None


def _runs_elsewhere(store: Store, tasks: dict[str, int]) -> bool:
    found = store.list_tasks(TaskFilter(ids=list(tasks), status=TaskState.RUNNING), len(tasks))
    return any(one.fence > tasks[one.id] for one in found)


def _await(question: Callable[[], T], timeout_s: float, otherwise: str) -> T:
    """Ask until the answer is something; `NoTarget` when the time is over."""
    give_up_s, pause = time.monotonic() + timeout_s, threading.Event()
    while not (answer := question()):
        if time.monotonic() > give_up_s:
            raise NoTarget(otherwise)
        pause.wait(0.05)
    return answer


def freeze(service: Service, pid: int) -> bool:
    """Whether it was still there to be frozen."""
    try:
        service.signal(pid, signal.SIGSTOP)
    except NoTarget:
        return False
    return True


class TwoLeaders:
    """The leader sleeps past its term, another is elected, and the first one wakes up believing that it leads."""

    exclusive = ""
    kind, weight = "freeze:two-leaders", 2.0

    def __init__(self) -> None:
        self._asleep: dict[int, tuple[Service, int]] = {}

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return facts.term_s + rng.uniform(0.1, 1.5), "", {}

    def start(self, world: World, fault: Fault) -> None:
        service = world.leading()
        pid = service.pid_of("leader")
        service.signal(pid, signal.SIGSTOP)
        self._asleep[fault.number] = service, pid

    def stop(self, world: World, fault: Fault) -> None:
        if fault.number in self._asleep:
            thaw(*self._asleep.pop(fault.number))


class Swizzle:
    """A random part of all processes is frozen one by one, and wakes one by one in another order."""

    exclusive = ""
    kind, weight = "freeze:swizzle", 2.0

    def __init__(self) -> None:
        self._asleep: dict[int, list[tuple[Service, int]]] = {}

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(0.1, 1.0), "", {"seed": rng.randrange(1 << 30), "gap_s": round(rng.uniform(0.0, 0.15), 3)}

    def start(self, world: World, fault: Fault) -> None:
        rng, gap_s = random.Random(fault.params["seed"]), fault.params["gap_s"]
        everyone = [(service, pid) for service in world.services.values() for pid in _pids(service)]
        if not everyone:
            raise NoTarget("no service is up")
        asleep = self._asleep[fault.number] = []
        for service, pid in rng.sample(everyone, rng.randint(1, len(everyone))):
            if freeze(service, pid):
                asleep.append((service, pid))
            threading.Event().wait(gap_s)

    def stop(self, world: World, fault: Fault) -> None:
        asleep = self._asleep.pop(fault.number, [])
        random.Random(fault.params["seed"] + 1).shuffle(asleep)
        for service, pid in asleep:
            thaw(service, pid)
            threading.Event().wait(fault.params["gap_s"])


def _pids(service: Service) -> list[int]:
    try:
        return [service.pid_of("supervisor"), *sorted(service.present().actors().values())]
    except NoTarget:
        return []


class Commanded:
    """A command over the control socket while everything else goes on."""

    exclusive = ""

    def __init__(self, kind: str, weight: float, *commands_: commands.Command) -> None:
        self.kind, self.weight, self._commands = kind, weight, commands_

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return 0.0, rng.choice(facts.services), {"which": rng.randrange(len(self._commands))}

    def start(self, world: World, fault: Fault) -> None:
        service = world.service(fault.target)
        done = service.ask(self._commands[fault.params["which"]], 60.0)
        world.mark(self.kind, "gone" if done is None else f"{done.ok} {done.text}")

    def stop(self, world: World, fault: Fault) -> None:
        pass


class Drain:
    """Drained for a while, then resumed."""

    exclusive = ""
    kind, weight = "drain", 3.0

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(0.1, 2.0), rng.choice(facts.services), {}

    def start(self, world: World, fault: Fault) -> None:
        world.service(fault.target).ask(commands.Drain(wait=False))

    def stop(self, world: World, fault: Fault) -> None:
        world.service(fault.target).ask(commands.Resume())


class KillWhileDraining(Drain):
    """An actor is killed in the middle of a drain."""

    kind, weight = "kill:drain", 2.0

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        params = {"role": rng.choice(ROLES), "nth": rng.randrange(8), "delay_s": round(rng.uniform(0.0, 0.5), 3)}
        return rng.uniform(0.1, 1.0), rng.choice(facts.services), params

    def start(self, world: World, fault: Fault) -> None:
        super().start(world, fault)
        service = world.service(fault.target)
        threading.Event().wait(fault.params["delay_s"])
        service.signal(service.pid_of(fault.params["role"], fault.params["nth"]), signal.SIGKILL)


class KillWhileReloading:
    """An actor, old or new, is killed in the middle of a reload."""

    exclusive = ""
    kind, weight = "kill:reload", 2.0

    def fits(self, facts: Facts) -> bool:
        return True

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        params = {"role": rng.choice(ROLES), "nth": rng.randrange(8), "delay_s": round(rng.uniform(0.0, 2.0), 3)}
        return 0.0, rng.choice(facts.services), params

    def start(self, world: World, fault: Fault) -> None:
        service = world.service(fault.target)
        service.at_work()
        killer = threading.Timer(fault.params["delay_s"], self._kill, (service, fault.params))
        killer.start()
        try:
            done = service.ask(commands.Reload(), 60.0)
            world.mark(self.kind, "gone" if done is None else f"{done.ok} {done.text}")
        finally:
            killer.join()

    def _kill(self, service: Service, params: Params) -> None:
        try:
            service.signal(service.pid_of(params["role"], params["nth"]), signal.SIGKILL)
        except NoTarget:
            return

    def stop(self, world: World, fault: Fault) -> None:
        pass


INJECTORS: Final[tuple[Injector, ...]] = (
    KillSupervisor(),
    KillEverything(),
    KillInSpawnWindow(),
    KillAtStart(),
    Stop(),
    KillWhileStopping(),
    Suspend(),
    WakeAsZombie(),
    TwoLeaders(),
    Swizzle(),
    Commanded("reload", 2.0, commands.Reload()),
    Commanded("restart", 1.5, commands.Restart()),
    Commanded("scale", 3.0, commands.Scale(executors=1), commands.Scale(executors=2), commands.Scale(executors=3)),
    Commanded("dump", 3.0, commands.Dump(), commands.Status()),
    Drain(),
    KillWhileDraining(),
    KillWhileReloading(),
)
