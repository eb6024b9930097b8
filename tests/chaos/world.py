"""One round's world: a fresh database, services on it, producers, the ledger; all of it ended and removed by whoever made it."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

from shiftboss import commands
from shiftboss.errors import StoreUnavailable
from shiftboss.store.base import Store
from shiftboss.store.open import open_store
from tests.chaos import leftovers, preload
from tests.chaos.injectors.base import NoTarget
from tests.chaos.ledger import HOUR_S, Book
from tests.chaos.preload import Dials
from tests.chaos.producer import BATCHES, Producer
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Facts
from tests.chaos.service import Service
from tests.pg_cluster import PgCluster

LOOK_EVERY_S: Final = 0.1
ALL_READY_WITHIN_S: Final = 20.0
MAPPED_WITHIN_S: Final = 10.0
SETTINGS: Final[dict[str, Any]] = {
    "imports": ("tests.chaos.workload", "tests.chaos.poison_tasks"),
    "distributed_mode": True,
    "worker_pool_size": 64,
    "executors": 2,
    "heartbeat_interval_s": 0.5,
    "claim_interval_s": 0.2,
    "shutdown_timeout_s": 2.0,
    "cancel_grace_s": 0.5,
    "ping_interval_s": 1.0,
    "ping_timeout_s": 6.0,
    "restart_backoff_s": 0.02,
    "restart_backoff_max_s": 0.2,
    "max_restarts": 100_000,
    "log_level": "info",
}


class Mark:
    """Something that happened to the world, for the recovery times; by both clocks, in seconds."""

    __slots__ = ("at_s", "name", "note", "wall_s")

    def __init__(self, name: str, note: str, at_s: float | None = None) -> None:
        self.name, self.note = name, note
        self.at_s = time.monotonic() if at_s is None else at_s
        self.wall_s = time.time() - (time.monotonic() - self.at_s)


class World:
    """A database and services that work on it.

    Attributes:
        direct_url: of the database as the harness uses it, past any proxy.
        proxies: between PostgreSQL and each service, and the producer; none on SQLite.
        dials: of the disk and the clock of each service; none without a compiler.
        database_gate: held by a fault that takes the whole database away.
        findings: what broke a promise while it ran, each a sentence.
    """

    def __init__(self, facts: Facts, folder: Path, *, tasks: int, seed: int, batches: Sequence[int] = BATCHES) -> None:
        self.facts = facts
        self.folder = folder
        self.ledger_folder = folder / "ledger"
        self.direct_url = ""
        self.proxies: dict[str, Proxy] = {}
        self.dials: dict[str, Dials] = {}
        self.canary = f"canary{secrets.token_hex(6)}"
        self.cluster: PgCluster | None = None
        self.database_gate = threading.RLock()
        self.services: dict[str, Service] = {}
        self.findings: list[str] = []
        self.marks: list[Mark] = []
        self._turn = threading.Lock()
        self._ending = set[str]()  # services that are being ended, until they have been started again
        self._all_wanted = False
        self._quiet = threading.Lock()
        self._server_thread = ThreadPoolExecutor(1, thread_name_prefix="server")
        self.database_rests_until_s = 0.0
        self.began_s = 0.0
        self._seed, self._tasks, self._batches = seed, tasks, batches
        self._exits = contextlib.ExitStack()
        self._over = threading.Event()

    # ---- life

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True)
            self.ledger_folder.mkdir()
            self._make_database()
            self.operators = Book(self.ledger_folder, "operator")
            self.producer = Producer(self._url_for("producer"), self.ledger_folder, self._tasks, self._seed, self._batches)
            if preload.compiler():
                library = preload.build(self.folder)
                self.dials = {name: Dials(library, self.folder / f"{name}.dials") for name in self.facts.services}
            for name in self.facts.services:
                service = Service(name, self.folder, self._url_for(name), self._settings(), self._surroundings(name))
                self.services[name] = service
                self._exits.callback(service.destroy)
                service.launch()
            for service in self.services.values():
                assert service.wait_ready(), f"{service.name} ended at its start: {service.logs[-1].read_text()[-3000:]}"
                self._can_be_disturbed(service)
        except BaseException:
            self.__exit__()
            raise
        self.began_s = time.monotonic()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._exits.close()

    def _surroundings(self, name: str) -> Mapping[str, str]:
        return self.dials[name].surroundings if name in self.dials else {}

    def _can_be_disturbed(self, service: Service) -> None:
        """A fault that a process cannot feel would prove nothing."""
        give_up_s = time.monotonic() + MAPPED_WITHIN_S
        while deaf := self._deaf(service):
            assert time.monotonic() < give_up_s, f"{', '.join(deaf)} of {service.name} do not go by the dials of disk and clock"
            self._over.wait(0.05)  # a process that has just begun has mapped nothing yet

    def _deaf(self, service: Service) -> list[str]:
        dials = self.dials.get(service.name)
        return [actor for actor, pid in service.present().actors().items() if dials and not dials.is_seen_by(pid)]

    def _settings(self) -> dict[str, Any]:
        return {**SETTINGS, "worker_timeout_s": self.facts.lease_s, "leader_term_s": self.facts.term_s}

    def _make_database(self) -> None:
        if self.facts.database == "sqlite":
            self.direct_url = f"sqlite:///{self.folder}/chaos.db"
        else:
            self._exits.enter_context(self._server_thread)
            self.cluster = self._server_thread.submit(PgCluster(max_connections="60").__enter__).result(60.0)
            self._exits.callback(lambda: self.with_server(lambda cluster: cluster.__exit__(None, None, None)))
            self.cluster.create_database("chaos")
            self.direct_url = self.cluster.dsn("chaos", tcp=True)
        with contextlib.closing(open_store(self.direct_url)) as store:
            store.migrate()

    def _url_for(self, name: str) -> str:
        """The database as this one uses it: through a proxy of its own, with a password, which must show nowhere."""
        cluster = self.cluster
        if cluster is None:
            return self.direct_url
        proxy = self.proxies[name] = Proxy(("127.0.0.1", cluster.port))
        self._exits.callback(proxy.close)
        return cluster.dsn("chaos", port=proxy.port).replace("@", f":{self.canary}@", 1)

    def with_server(self, do: Callable[[PgCluster], None]) -> None:
        """Stop or start the server, in the one thread that lives as long as this world: the server ends with its thread."""
        cluster = self.cluster
        assert cluster is not None
        self._server_thread.submit(do, cluster).result(60.0)

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """A store of the harness's own, for this block; makes no SQLite file where one has been moved away."""
        store = open_store(self.direct_url, application_name="chaos harness", create=False)
        try:
            yield store
        finally:
            store.close()

    # ---- services

    def service(self, name: str) -> Service:
        return self.services[name]

    @contextlib.contextmanager
    def ending(self, name: str) -> Iterator[Service]:
        """The gate of a service that is about to be ended; `NoTarget` unless it is ready, and another one that stays.

        So that mostly somebody works: a world of services that are always starting shows nothing.
        """
        with self._turn:
            self.refuse_in_quiet()
            if self._all_wanted:
                raise NoTarget("all services are about to be taken")
            ready = {service.name for service in self.services.values() if service.is_ready} - self._ending
            if name not in ready or len(ready) < 2:
                raise NoTarget(f"only {', '.join(sorted(ready)) or 'nobody'} is ready and stays")
            self._ending.add(name)
        try:
            with self.services[name].held() as service:
                yield service
        finally:
            with self._turn:
                self._ending.discard(name)

    @contextlib.contextmanager
    def all_services(self) -> Iterator[list[Service]]:
        """The gates of all services, once they are ready: nobody ends or starts one meanwhile. `NoTarget` if that takes long."""
        with self._turn:
            self.refuse_in_quiet()
            if self._all_wanted:
                raise NoTarget("another fault waits for all services")
            self._all_wanted = True
        try:
            give_up_s = time.monotonic() + ALL_READY_WITHIN_S
            while self._ending or not all(service.is_ready for service in self.services.values()):
                if time.monotonic() > give_up_s or self._over.wait(LOOK_EVERY_S):
                    raise NoTarget("some services are not ready")
            with contextlib.ExitStack() as gates:
                yield [gates.enter_context(service.held()) for service in self.services.values()]
        finally:
            self._all_wanted = False

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Nobody takes away a service or the database meanwhile: for what needs seconds. `NoTarget` when that is under way."""
        if self._ending or self._all_wanted or not self._quiet.acquire(blocking=False):
            raise NoTarget("it is not quiet")
        try:
            yield
        finally:
            self._quiet.release()

    def refuse_in_quiet(self) -> None:
        if self._quiet.locked():
            raise NoTarget("another fault needs quiet")

    def leading(self) -> Service:
        """The service whose worker leads now; `NoTarget` when that is nobody, or not to be found out."""
        try:
            with self.store() as store:
                leader = store.counts().leader or ""
        except StoreUnavailable as error:
            raise NoTarget(f"the database is away: {error}") from error
        for service in self.services.values():
            worker = service.worker
            if worker is not None and f"-{worker.process.pid}-" in leader:
                return service
        raise NoTarget("nobody leads")

    def find(self, finding: str) -> None:
        """Note that a promise was broken."""
        self.findings.append(f"{time.monotonic() - self.began_s:.1f} s: {finding}")

    def mark(self, name: str, note: str = "", at_s: float | None = None) -> None:
        """Note a moment: now, or `at_s` of the monotonic clock."""
        self.marks.append(Mark(name, note, at_s))

    def _watch(self) -> None:
        """As systemd does with Restart=always: a service that has ended is started again."""
        while not self._over.wait(LOOK_EVERY_S):
            for service in self.services.values():
                if service.is_up or not service.gate.acquire(blocking=False):
                    continue
                try:
                    if not service.is_up and not self._over.is_set():
                        self._revive(service)
                finally:
                    service.gate.release()

    def _revive(self, service: Service) -> None:
        worker = service.worker
        if worker is not None and service.has_said("supervisor.intensity_exceeded"):
            self.mark("gave up", service.name)  # by design: too many of its actors were killed while they started
        elif worker is not None and service.expected is None:
            self.find(f"{service.name} ended by itself with {worker.process.returncode}; see {worker.log_file}")
        service.destroy()
        service.launch()

    # ---- the end of a round

    def settle(self) -> None:
        """All faults are over: everybody is awake and works."""
        for proxy in self.proxies.values():
            proxy.heal()
        for service in self.services.values():
            with service.held(60.0):
                if not service.is_up:
                    self._revive(service)
                service.wait_ready()
            with contextlib.suppress(NoTarget):
                service.ask(commands.Resume())
        if self.facts.database == "sqlite":
            self._make_due()
        self.mark("settled")

    def _make_due(self) -> None:
        """What was put off by a clock that was ahead is not due for hours: so the machine's clock ends where all of it is."""
        if any(one.moved for one in self.dials.values()):
            ahead_s = max(one.ahead_s for one in self.dials.values()) + HOUR_S
            for one in self.dials.values():
                one.move(ahead_s)

    def stop_services(self) -> None:
        """End every service as an operator would: exit code 0, in time, nothing left."""
        self._over.set()
        self._watcher.join(90)
        limit_s = SETTINGS["shutdown_timeout_s"] + SETTINGS["cancel_grace_s"] + 5.0
        for service in self.services.values():
            with service.held(60.0):
                worker, began_s = service.present(), time.monotonic()
                self.findings += leftovers.of_supervisor(service, service.descriptors)
                service.expected = "stopped"
                code = worker.stop(timeout_s=limit_s + 30.0)
                took_s = time.monotonic() - began_s
                if code:
                    self.find(f"{service.name} ended with {code} when it was asked to stop; see {worker.log_file}")
                if took_s > limit_s:
                    self.find(f"{service.name} took {took_s:.1f} s to stop, more than {limit_s:g} s; see {worker.log_file}")
                self.mark("stopped", f"{took_s:.3f}")
