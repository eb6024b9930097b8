"""Behind pgbouncer in transaction mode, where no session belongs to anybody."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from shiftboss.store.open import open_store
from tests.acceptance.worker import until
from tests.chaos.stage import Stage, stage, takes_long
from tests.pg_cluster import PgCluster

_CONFIG = """
[databases]
* = host=127.0.0.1 port={server} user=shiftboss
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file =
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
ignore_startup_parameters = extra_float_digits,options
server_reset_query =
"""


class Bouncer:
    """pgbouncer on a port of its own; runs as `nobody` when we are root, which it refuses to be."""

    def __init__(self, program: str, folder: Path, server: int) -> None:
        self._program, self._folder = program, folder
        with psycopg.connect(f"host=127.0.0.1 port={server} user=shiftboss dbname=postgres"):
            pass
        self.port = _free_port()
        self._config = folder / "pgbouncer.ini"
        self._config.write_text(_CONFIG.format(server=server, port=self.port))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with (self._folder / "pgbouncer.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(self._config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=_as_nobody
            )
        until("pgbouncer listens", self._answers, 10)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(10)

    def _answers(self) -> bool:
        try:
            psycopg.connect(f"host=127.0.0.1 port={self.port} user=shiftboss dbname=postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            assert self._process is not None
            assert self._process.poll() is None, (self._folder / "pgbouncer.log").read_text()
            return False
        return True


def _as_nobody() -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def bouncer(pg_cluster: PgCluster, tmp_path: Path) -> Iterator[Bouncer]:
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed; on Debian: apt-get install pgbouncer")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == tmp_path.owner() and folder != Path("/tmp"):
            folder.chmod(0o755)
    made = Bouncer(program, tmp_path, pg_cluster.port)
    yield made
    made.stop()


@pytest.fixture
def play(pg_cluster: PgCluster, bouncer: Bouncer, tmp_path: Path) -> Iterator[Stage]:
    store = open_store(pg_cluster.create_database("pooled"))
    store.migrate()
    store.close()
    with stage(tmp_path, pg_cluster.dsn("pooled", port=bouncer.port), pg_cluster.dsn("pooled"), tasks=2_000) as made:
        yield made
    pg_cluster.drop_database("pooled")


@takes_long
@pytest.mark.timeout(180)
def test_all_is_as_ever_behind_a_transaction_pooler(play: Stage, bouncer: Bouncer, pg_cluster: PgCluster) -> None:
    for _ in range(2):
        play.worker()
    play.producer.start(over_s=8.0)
    until("working", lambda: play.ends() > 200)
    with psycopg.connect(pg_cluster.dsn("pooled"), autocommit=True) as operator:
        for _ in range(10):  # the pooler's own connections end, and those of its clients stay
            operator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            play.flows(10.0)
    bouncer.stop()
    bouncer.start()
    play.flows(10.0, "work goes on when the pooler is back")
    play.over()
    assert not play.actors_lost()
