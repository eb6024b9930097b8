"""What lies between a service and PostgreSQL: answers that never come, dead and slow links, partitions.

Every service, and the producers, have a proxy of their own (`World.proxies`), so one can be cut off while the others work on.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Final

import psycopg

from tests.chaos.injectors.base import NoTarget
from tests.chaos.injectors.postgres import connect
from tests.chaos.proxy import Cut, Proxy, Rule, Valve
from tests.chaos.rows import SQL
from tests.chaos.schedule import Facts, Fault, Params

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.world import World

PRODUCER: Final = "producer"
ENQUEUES: Final = ("enqueue", "enqueue_one", "copy_tasks")
_CUTS: Final = {Cut.REPLY: 4, Cut.TORN: 2, Cut.LATE: 3, Cut.ORPHAN: 2, Cut.MIDDLE: 1, Cut.REQUEST: 1}
_COMES_WITHIN_S: Final = 4.0


class _Between:
    """What all of them share."""

    exclusive = ""
    kind, weight = "", 1.0

    def fits(self, facts: Facts) -> bool:
        return facts.database == "postgres"

    def stop(self, world: World, fault: Fault) -> None:
        pass


class Unknown(_Between):
    """The transaction with one of these statements is cut: the outcome of its commit is not known to who sent it."""

    def __init__(self, kind: str, weight: float, *statements: str) -> None:
        self.kind, self.weight, self._statements = kind, weight, statements

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        cut = rng.choices(list(_CUTS), weights=list(_CUTS.values()))[0]
        target = PRODUCER if self._statements == ENQUEUES else rng.choice(facts.services)
        return 0.0, target, {"cut": cut.value, "times": rng.choice([1, 1, 1, 2, 3]), "late_s": round(rng.uniform(0.0, 1.0), 3)}

    def start(self, world: World, fault: Fault) -> None:
        proxy, params = world.proxies[fault.target], fault.params
        rule = proxy.arm(Rule(self._statements, Cut(params["cut"]), params["times"], params["late_s"]))
        try:
            rule.wait(params["times"], _COMES_WITHIN_S)
        finally:
            proxy.disarm(rule)
        if not rule.fired:
            raise NoTarget(f"{fault.target} has sent nothing of the kind: {', '.join(self._statements)}")


class OldBackend(_Between):
    """The client goes away while its statement waits for a lock; the old backend still works when it has come back."""

    kind, weight = "net:old-backend", 4.0

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        cut = rng.choice([Cut.ORPHAN, Cut.ORPHAN, Cut.LATE])
        return 0.0, rng.choice(facts.services), {"cut": cut.value, "held_s": round(rng.uniform(0.2, 2.0), 3)}

    def start(self, world: World, fault: Fault) -> None:
        proxy, params = world.proxies[fault.target], fault.params
        rule = Rule(("complete_tasks", "end_attempts"), Cut(params["cut"]))
        try:
            with contextlib.closing(connect(world)) as stranger:
                stranger.execute("BEGIN")
                if not stranger.execute(SQL["lock_held"].encode()).fetchall():
                    raise NoTarget("nothing is running")
                proxy.arm(rule)
                rule.wait(1, params["held_s"])
        except psycopg.OperationalError as error:
            raise NoTarget(f"got no lock: {error}") from error
        finally:
            proxy.disarm(rule)
        if not rule.wait(1, _COMES_WITHIN_S):
            raise NoTarget(f"{fault.target} has ended no task meanwhile")


class Stalled(_Between):
    """The link of one service is dead: no byte passes, no socket ends. Then it works again, or all its connections end."""

    def __init__(self, kind: str, weight: float, *ways: str, leases: tuple[float, float]) -> None:
        self.kind, self.weight, self._ways, self._leases = kind, weight, ways, leases

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return facts.lease_s * rng.uniform(*self._leases), rng.choice(facts.services), {"ends": rng.random() < 0.5}

    def start(self, world: World, fault: Fault) -> None:
        for valve in self._valves(world.proxies[fault.target]):
            valve.close()

    def stop(self, world: World, fault: Fault) -> None:
        proxy = world.proxies[fault.target]
        if fault.params["ends"]:
            proxy.cut_all()
        for valve in self._valves(proxy):
            valve.open()

    def _valves(self, proxy: Proxy) -> list[Valve]:
        return [getattr(proxy, way) for way in self._ways]


class Refused(_Between):
    """Every connection of one service ends, and new ones are refused for a while."""

    kind, weight = "net:refused", 4.0

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.choice([0.0, 0.1, rng.uniform(0.2, 1.5)]), rng.choice([*facts.services, PRODUCER]), {}

    def start(self, world: World, fault: Fault) -> None:
        proxy = world.proxies[fault.target]
        proxy.door.close()
        proxy.cut_all()

    def stop(self, world: World, fault: Fault) -> None:
        world.proxies[fault.target].door.open()


class Slow(_Between):
    """Everything takes longer on its way."""

    kind, weight = "net:slow", 3.0

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(0.5, 3.0), rng.choice(facts.services), {"delay_s": round(rng.uniform(0.005, 0.1), 3)}

    def start(self, world: World, fault: Fault) -> None:
        world.proxies[fault.target].slow_down(fault.params["delay_s"])

    def stop(self, world: World, fault: Fault) -> None:
        world.proxies[fault.target].slow_down(-fault.params["delay_s"])


INJECTORS: Final[tuple[Injector, ...]] = (
    Unknown("unknown:claim", 5.0, "claim"),
    Unknown("unknown:finish", 6.0, "complete_tasks"),
    Unknown("unknown:end", 6.0, "end_attempts"),
    Unknown("unknown:start", 3.0, "start_tasks"),
    Unknown("unknown:beat", 3.0, "beat"),
    Unknown("unknown:lead", 3.0, "elect", "renew", "hold_term"),
    Unknown("unknown:look", 3.0, "owned", "lanes", "cancel_requests"),
    Unknown("unknown:connect", 2.0, "connect", "listen"),
    Unknown("unknown:enqueue", 5.0, *ENQUEUES),
    OldBackend(),
    Stalled("net:dead", 3.0, "upward", "downward", leases=(0.1, 0.9)),
    Stalled("net:deaf", 2.0, "downward", leases=(0.1, 0.9)),
    Stalled("net:mute", 2.0, "upward", leases=(0.1, 0.9)),
    Stalled("net:partition", 2.0, "upward", "downward", leases=(1.2, 2.0)),
    Refused(),
    Slow(),
)
