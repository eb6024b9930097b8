"""What the compared queues keep their jobs in: one PostgreSQL server for all, a file each, a Redis each."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import psycopg

from bench import proc
from bench.peers.install import PeerMissing
from bench.peers.known import Known, StoreKind
from bench.service import stop_with_parent, wait_until
from shiftboss.store.queries import load_queries
from tests.pg_cluster import PgCluster, PostgresMissing

_QUERIES: Final = load_queries("bench.peers", "peers.sql")
_PATIENCE_S: Final = 20.0


class Store(Protocol):
    """A fresh one for each run."""

    url: str
    folder: Path

    def unfinished(self, jobs: int) -> bool:
        """Whether the queue's own tables still have something to do, of so many jobs that were stored."""
        ...

    def settle(self) -> None:
        """Once jobs are stored: what autovacuum does within a minute, so that nobody's plans are made for empty tables."""
        ...

    def cpu_s(self) -> float:
        """What the server's processes have used so far, without the session that asks for `unfinished`."""
        ...

    def close(self) -> None: ...


NewStore = Callable[[Known], Store]


class SqliteFile:
    """SQLite works inside the workers: no process of its own."""

    def __init__(self, known: Known, folder: Path) -> None:
        assert isinstance(known.left, str)
        self.folder, self._query = folder, _QUERIES[known.left]
        self.url = f"sqlite:///{folder / 'bench.db'}"
        self._connection: sqlite3.Connection | None = None

    def unfinished(self, jobs: int) -> bool:
        self._connection = self._connection or sqlite3.connect(self.folder / "bench.db", isolation_level=None)
        return bool(self._connection.execute(self._query, {"jobs": jobs}).fetchone()[0])

    def settle(self) -> None:
        pass

    def cpu_s(self) -> float:
        return 0.0

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class PostgresDatabase:
    """A database of the one server, which has nothing else to do."""

    def __init__(self, known: Known, cluster: PgCluster, name: str, folder: Path) -> None:
        assert isinstance(known.left, str)
        self.folder, self._query = folder, _QUERIES[known.left]
        self._cluster, self._name = cluster, name
        self.url = cluster.create_database(name)
        self._connection = psycopg.connect(self.url, autocommit=True)

    def unfinished(self, jobs: int) -> bool:
        row = self._connection.execute(self._query.encode(), {"jobs": jobs}).fetchone()
        assert row is not None
        return bool(row[0])

    def settle(self) -> None:
        self._connection.execute(_QUERIES["settle"].encode())

    def cpu_s(self) -> float:
        ours = self._connection.info.backend_pid
        backends = [pid for pid in proc.children(self._cluster.pid) if pid != ours]
        return proc.cpu_s(self._cluster.pid, with_reaped=True) + sum(map(proc.cpu_s, backends))

    def close(self) -> None:
        self._connection.close()
        self._cluster.drop_database(self._name)


class RedisServer:
    """One of its own, as Redis is without a configuration: snapshots now and then, nothing forced to the disk for a job."""

    def __init__(self, known: Known, folder: Path) -> None:
        assert not isinstance(known.left, str)
        program = shutil.which("redis-server")
        if program is None:
            raise PeerMissing("no redis-server on this machine")
        self.folder, self._commands, self._port = folder, known.left, _free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        command = [program, "--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=stop_with_parent
        )
        deadline_s = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                self.close()
                raise PeerMissing("redis-server does not start")
            wait_until(time.monotonic() + 0.05)

    def unfinished(self, jobs: int) -> bool:  # noqa: ARG002  its queues say themselves how long they are
        return any(reply_number(self._ask(command)) for command in self._commands)

    def settle(self) -> None:
        pass

    def cpu_s(self) -> float:
        return proc.cpu_s(self._process.pid, with_reaped=True)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self._ask("PING").startswith(b"+PONG")
        return False

    def _ask(self, command: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE_S) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.makefile("rb").readline()


def reply_number(reply: bytes) -> int:
    """The number in a reply of Redis (`:42`).

    Raises:
        ValueError: it is something else, an error say.
    """
    if not reply.startswith(b":"):
        raise ValueError(f"Redis says {reply!r}")
    return int(reply[1:])


@contextlib.contextmanager
def new_stores() -> Iterator[NewStore]:
    """Makes a fresh store for each run; the PostgreSQL server is started when the first asks for it.

    What it yields raises PeerMissing where there is no such server.
    """
    numbers = itertools.count(1)
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shiftboss-peers-")))
        clusters: list[PgCluster] = []

        def cluster() -> PgCluster:
            if not clusters:
                try:
                    clusters.append(stack.enter_context(PgCluster()))
                except PostgresMissing as missing:
                    raise PeerMissing(str(missing)) from None
            return clusters[0]

        def new(known: Known) -> Store:
            number = next(numbers)
            folder = root / str(number)
            folder.mkdir()
            kind: StoreKind = known.store
            if kind == "postgres":
                return PostgresDatabase(known, cluster(), f"peer_{number}", folder)
            return SqliteFile(known, folder) if kind == "sqlite" else RedisServer(known, folder)

        yield new


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
