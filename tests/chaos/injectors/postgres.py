"""PostgreSQL crashes, restarts, is away, ends connections, and has others' locks and snapshots in it."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import psycopg

from tests.chaos.injectors.base import NoTarget
from tests.chaos.rows import SQL
from tests.chaos.schedule import Facts, Fault, Params
from tests.pg_cluster import PgCluster

if TYPE_CHECKING:
    from tests.chaos.injectors.base import Injector
    from tests.chaos.world import World

_GATE_WAIT_S: Final = 1.0
_REST_S: Final = 2.0  # between two outages, so that work is done and found out


@contextlib.contextmanager
def whole_database(world: World) -> Iterator[None]:
    """Alone in taking the server away, or `NoTarget`."""
    refuse_unrested(world)
    if not world.database_gate.acquire(timeout=_GATE_WAIT_S):
        raise NoTarget("another fault has taken the database away")
    try:
        refuse_unrested(world)
        yield
        has_come_back(world)
    finally:
        world.database_gate.release()


def refuse_unrested(world: World) -> None:
    """`NoTarget` when the database has only just come back: a world that is always down shows nothing."""
    world.refuse_in_quiet()
    if time.monotonic() < world.database_rests_until_s:
        raise NoTarget("the database has just come back")


def has_come_back(world: World) -> None:
    world.database_rests_until_s = time.monotonic() + _REST_S


def connect(world: World) -> psycopg.Connection[tuple[object, ...]]:
    """A connection of somebody else's; `NoTarget` while the server is away."""
    try:
        return psycopg.connect(
            world.direct_url,
            autocommit=True,
            application_name="chaos stranger",
            connect_timeout=2,
            options="-c default_transaction_read_only=off",  # another fault may have made the server read-only
        )
    except psycopg.OperationalError as error:
        raise NoTarget(f"the database is away: {error}") from error


class Away:
    """The server ends, in this way, and comes back after a while."""

    exclusive = "database"

    def __init__(self, kind: str, weight: float, how: signal.Signals, down_s: tuple[float, float]) -> None:
        self.kind, self.weight, self._how, self._down_s = kind, weight, how, down_s

    def fits(self, facts: Facts) -> bool:
        return facts.database == "postgres"

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return 0.0, "", {"down_s": round(rng.uniform(*self._down_s), 3)}

    def start(self, world: World, fault: Fault) -> None:
        with whole_database(world):
            world.mark("database down")
            world.with_server(lambda cluster: cluster.stop(self._how))
            try:
                threading.Event().wait(fault.params["down_s"])
            finally:
                world.with_server(PgCluster.start)
                world.mark("database up", f"{fault.params['down_s']}")

    def stop(self, world: World, fault: Fault) -> None:
        pass


class Terminate:
    """Backends are ended by an administrator, several a second for a while, or one connection of one actor."""

    exclusive = ""
    kind, weight = "pg:terminate", 12.0

    def fits(self, facts: Facts) -> bool:
        return facts.database == "postgres"

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return 0.0, "", {"seed": rng.randrange(1 << 30), "times": rng.choice([1, 1, 1, 2, 5]), "gap_s": 0.2}

    def start(self, world: World, fault: Fault) -> None:
        rng = random.Random(fault.params["seed"])
        with contextlib.closing(connect(world)) as stranger:
            for _ in range(fault.params["times"]):
                try:
                    self._terminate(stranger, rng)
                except psycopg.OperationalError as error:
                    raise NoTarget(f"the database went away: {error}") from error
                threading.Event().wait(fault.params["gap_s"])

    def _terminate(self, stranger: psycopg.Connection[tuple[object, ...]], rng: random.Random) -> None:
        pids = [row[0] for row in stranger.execute(SQL["backends"].encode())]
        if not pids:
            raise NoTarget("nobody is connected")
        stranger.execute(SQL["terminate"].encode(), [rng.choice(pids)])

    def stop(self, world: World, fault: Fault) -> None:
        pass


class Held:
    """A stranger's transaction holds something for a while: a snapshot, or locks."""

    exclusive = ""

    def __init__(self, kind: str, weight: float, query: str, for_s: tuple[float, float]) -> None:
        self.kind, self.weight, self._query, self._for_s = kind, weight, query, for_s
        self._held: dict[int, psycopg.Connection[tuple[object, ...]]] = {}

    def fits(self, facts: Facts) -> bool:
        return facts.database == "postgres"

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(*self._for_s), "", {}

    def start(self, world: World, fault: Fault) -> None:
        stranger = connect(world)
        try:
            stranger.execute("BEGIN")
            stranger.execute(SQL[self._query].encode())
        except psycopg.OperationalError as error:
            stranger.close()
            raise NoTarget(f"got no lock: {error}") from error
        self._held[fault.number] = stranger

    def stop(self, world: World, fault: Fault) -> None:
        stranger = self._held.pop(fault.number, None)
        if stranger is not None:
            stranger.close()


class ShortTimeouts:
    """The database is given a statement_timeout, then a lock_timeout, that nobody can work with; then none again."""

    exclusive = "database"
    kind, weight = "pg:timeouts", 0.3

    def __init__(self) -> None:
        self._begun = set[int]()

    def fits(self, facts: Facts) -> bool:
        return facts.database == "postgres"

    def draw(self, rng: random.Random, facts: Facts) -> tuple[float, str, Params]:
        return rng.uniform(0.3, 1.0), "", {"setting": rng.choice(["statement_timeout", "lock_timeout"])}

    def start(self, world: World, fault: Fault) -> None:
        refuse_unrested(world)
        self._begun.add(fault.number)
        self._set(world, f"ALTER DATABASE chaos SET {fault.params['setting']} = '5ms'")

    def stop(self, world: World, fault: Fault) -> None:
        if fault.number not in self._begun:
            return
        until_s = time.monotonic() + 30.0
        while True:
            try:
                self._set(world, f"ALTER DATABASE chaos RESET {fault.params['setting']}")
                self._begun.discard(fault.number)
                has_come_back(world)
                return
            except NoTarget:
                if time.monotonic() > until_s:
                    raise AssertionError("the database cannot be given its timeouts back") from None
                threading.Event().wait(0.2)

    def _set(self, world: World, statement: str) -> None:
        """Those who are connected keep what they have, so they are sent away."""
        with contextlib.closing(connect(world)) as stranger:
            try:
                stranger.execute("SET statement_timeout = '10s'; SET lock_timeout = '5s'")
                stranger.execute(statement.encode())
                stranger.execute(SQL["terminate_all"].encode())
            except psycopg.OperationalError as error:
                raise NoTarget(f"the database went away: {error}") from error


INJECTORS: Final[tuple[Injector, ...]] = (
    Away("pg:crash", 0.2, signal.SIGQUIT, (0.0, 0.3)),
    Away("pg:restart", 0.2, signal.SIGINT, (0.0, 0.3)),
    Away("pg:away", 0.1, signal.SIGQUIT, (1.0, 3.0)),
    Terminate(),
    Held("pg:pinned-xmin", 4.0, "pin", (1.0, 6.0)),
    Held("pg:locked-rows", 4.0, "lock_rows", (1.0, 6.0)),
    Held("pg:locked-leader", 2.0, "lock_upkeep", (1.0, 4.0)),
    Held("pg:locked-table", 1.0, "lock_table", (0.2, 1.5)),
    ShortTimeouts(),
)
