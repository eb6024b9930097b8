"""The databases under test: a fresh one for each measurement, with the durability that they have by default."""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import psycopg
from psycopg import sql

from bench import proc
from shiftboss.store.base import Store
from shiftboss.store.open import open_store
from shiftboss.store.queries import load_queries
from tests.pg_cluster import PgCluster

SQLITE: Final = load_queries("bench", "sqlite.sql")
POSTGRES: Final = load_queries("bench", "postgres.sql")

_STATEMENT: Final = re.compile(r"^\S+ \S+ \S+ \[(\d+)\] LOG:  (?:statement|execute [^\n:]+): ", re.MULTILINE)
"""Where one begins in a log with the default prefix; it may go on for many lines."""


class Counted(NamedTuple):
    """Since the server was made: bytes of write-ahead log, transactions that wrote (each is a commit with its fsync)."""

    wal_bytes: int
    commits: int


class Target(Protocol):
    """One fresh, migrated database. Belongs to one thread.

    Attributes:
        folder: of its own, for whatever runs against it.
    """

    url: str
    folder: Path

    def rows(self, query: str, **params: object) -> list[tuple[Any, ...]]:
        """What one of the bench's queries says."""
        ...

    def change(self, query: str) -> None:
        """Run one of the bench's queries that changes something, and commit."""
        ...

    def server_processes(self) -> dict[int, str]:
        """Pid -> role of the processes that are the database; none for SQLite."""
        ...

    def counted(self) -> Counted | None:
        """What the server has written so far; `None` where nobody counts it."""
        ...

    def count_statements(self) -> None:
        """From now on, for sessions that begin after this."""
        ...

    def statements(self) -> int | None:
        """That others have sent since `count_statements`, BEGIN and COMMIT included; `None` where nobody counts them."""
        ...

    def insert_bare(self, task_id: str) -> None:
        """The least that stores a task: one INSERT with its commit."""
        ...

    def insert_bare_many(self, task_ids: Iterable[str]) -> None:
        """The fastest way that the database has to store many, in one transaction."""
        ...

    def transact(self, work: Callable[[Any], object]) -> None:
        """Do something on a caller's open connection, inside one transaction of its own, and commit."""
        ...

    def close(self) -> None: ...


NewTarget = Callable[[], Target]


class SqliteTarget:
    """A file in WAL mode, synchronous = FULL."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "bench.db"
        self.url = f"sqlite:///{self.path}"
        with store_of(self) as store:
            store.migrate()
        self._connection = self.connect()

    def connect(self) -> sqlite3.Connection:
        """A connection in autocommit mode, as durable as the service's own."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute(SQLITE["synchronous_full"])
        return connection

    def rows(self, query: str, **params: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(SQLITE[query], params).fetchall()

    def change(self, query: str) -> None:
        self._connection.execute(SQLITE[query])

    def insert_bare(self, task_id: str) -> None:
        self._connection.execute(SQLITE["bare_insert"], {"id": task_id, "now": _now_text()})

    def insert_bare_many(self, task_ids: Iterable[str]) -> None:
        now = _now_text()
        rows = [{"id": task_id, "now": now} for task_id in task_ids]
        self.transact(lambda connection: connection.executemany(SQLITE["bare_insert"], rows))

    def transact(self, work: Callable[[Any], object]) -> None:
        self._connection.execute(SQLITE["begin"])
        work(self._connection)
        self._connection.execute(SQLITE["commit"])

    def server_processes(self) -> dict[int, str]:
        return {}

    def counted(self) -> Counted | None:
        return None

    def count_statements(self) -> None:
        pass

    def statements(self) -> int | None:
        return None

    def close(self) -> None:
        self._connection.close()


class PostgresTarget:
    """A database of a private server with default settings."""

    def __init__(self, cluster: PgCluster, name: str, folder: Path) -> None:
        self.folder = folder
        self.url = cluster.create_database(name)
        self._cluster, self._name = cluster, name
        with store_of(self) as store:
            store.migrate()
        self._connection = self.connect()

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection in autocommit mode that prepares its statements at once."""
        connection = psycopg.connect(self.url, autocommit=True)
        connection.prepare_threshold = 0
        return connection

    def rows(self, query: str, **params: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(POSTGRES[query].encode(), params).fetchall()

    def change(self, query: str) -> None:
        self._connection.execute(POSTGRES[query].encode())

    def insert_bare(self, task_id: str) -> None:
        self._connection.execute(POSTGRES["bare_insert"].encode(), {"id": task_id})

    def insert_bare_many(self, task_ids: Iterable[str]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(POSTGRES["bare_copy"].encode()) as copy:
            for task_id in task_ids:
                copy.write_row((task_id, "bench:bare"))

    def transact(self, work: Callable[[Any], object]) -> None:
        with self._connection.transaction():
            work(self._connection)

    def server_processes(self) -> dict[int, str]:
        """The service's sessions by what they are called, and the server's own processes."""
        named = {pid: f"{proc.SESSION}{name}" for pid, name in self.rows("clients")}
        ours = self._connection.info.backend_pid
        others = {pid: proc.SERVER for pid in proc.children(self._cluster.pid) if pid not in named and pid != ours}
        return {self._cluster.pid: proc.POSTMASTER, **others, **named}

    def counted(self) -> Counted | None:
        ((wal_bytes, commits),) = self.rows("counted")
        return Counted(int(wal_bytes), int(commits))

    def count_statements(self) -> None:
        name = sql.Identifier(self._name)
        self._connection.execute(sql.SQL("ALTER DATABASE {} SET log_statement = 'all'").format(name))

    def statements(self) -> int | None:
        """By the server's log: its statistics are late, and count what autovacuum does in the same database."""
        log = self._cluster.log_path.read_text(encoding="utf-8", errors="replace")
        return logged_statements(log, but_of=self._connection.info.backend_pid)

    def close(self) -> None:
        """Remove the database too: with many of them the server's autovacuum would never rest."""
        self._connection.close()
        self._cluster.drop_database(self._name)


@contextlib.contextmanager
def sqlite_targets() -> Iterator[NewTarget]:
    """Files in a temporary folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="shiftboss-bench-") as folder:
        numbers = itertools.count(1)
        yield lambda: SqliteTarget(_subfolder(folder, next(numbers)))


@contextlib.contextmanager
def postgres_targets(settings: Mapping[str, str] | None = None) -> Iterator[NewTarget]:
    """Databases of a private server that is stopped and removed at the end; `settings` as in postgresql.conf.

    Raises:
        PostgresMissing: no server programs on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="shiftboss-bench-") as folder, PgCluster(None, **(settings or {})) as cluster:
        numbers = itertools.count(1)

        def new() -> PostgresTarget:
            number = next(numbers)
            return PostgresTarget(cluster, f"bench_{number}", _subfolder(folder, number))

        yield new


TARGETS: Final[Mapping[str, Callable[[], contextlib.AbstractContextManager[NewTarget]]]] = {
    "sqlite": sqlite_targets,
    "postgres": postgres_targets,
}


@contextlib.contextmanager
def tuned_targets(database: str, settings: Mapping[str, str]) -> Iterator[NewTarget]:
    """As `TARGETS`, with these settings of the server where there is one."""
    with postgres_targets(settings) if database == "postgres" else sqlite_targets() as new_target:
        yield new_target


@contextlib.contextmanager
def store_of(target: Target) -> Iterator[Store]:
    """An open store on the target's database."""
    store = open_store(target.url, application_name="bench")
    try:
        yield store
    finally:
        store.close()


def logged_statements(log: str, but_of: int) -> int:
    """How many statements a server's log has, without those of one session. Pure."""
    return sum(int(pid) != but_of for pid in _STATEMENT.findall(log))


def unix_s(moment: str | datetime) -> float:
    """Unix seconds of a time as either database returns it (SQLite: text in UTC)."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(f"{moment}+00:00")
    return moment.timestamp()


def _now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _subfolder(folder: str, number: int) -> Path:
    path = Path(folder, str(number))
    path.mkdir()
    return path
