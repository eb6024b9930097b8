"""The disk is full, and has room again: what could not be stored was not acknowledged, and what runs still ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from shiftboss.store.open import open_store
from tests.acceptance.worker import until
from tests.chaos.stage import Stage, stage, takes_long
from tests.pg_cluster import PgCluster

SIZE_MIB = 24


class Disk:
    """A small file system of our own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """To the last byte, also what becomes free meanwhile."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                self._fill(file.fileno(), bytes(size))

    def _fill(self, file: int, data: bytes) -> None:
        try:
            while True:
                os.write(file, data)
        except OSError:
            return

    def empty(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=1777", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system of our own can be mounted here: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "-l", folder], check=True)


def _fill_and_make_room(play: Stage, disk: Disk) -> None:
    for _ in range(2):
        play.worker()
    play.producer.start(over_s=6.0)
    until("working", lambda: play.ends() > 100)
    disk.fill()
    until("producers are told", lambda: disk.fill() or play.producer.unknown, 20)
    until("workers say so", lambda: disk.fill() or all(worker.lines("database.unreachable") for worker in play.workers), 30)
    acknowledged = play.producer.acknowledged
    disk.empty()
    until("there is room again", lambda: play.producer.acknowledged > acknowledged, 20)
    play.flows(15.0)
    play.over()
    assert not play.actors_lost()


@takes_long
@pytest.mark.timeout(180)
def test_sqlite_on_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    url = f"sqlite:///{disk.folder}/tasks.db"
    store = open_store(url)
    store.migrate()
    store.close()
    with stage(tmp_path, url, tasks=1_500) as play:
        _fill_and_make_room(play, disk)


@takes_long
@pytest.mark.timeout(180)
def test_postgres_with_its_tables_on_a_full_disk(pg_cluster: PgCluster, disk: Disk, tmp_path: Path) -> None:
    place = disk.folder / "space"
    place.mkdir()
    pg_cluster.own(place)
    for one in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        one.chmod(0o755)
    with psycopg.connect(pg_cluster.dsn(), autocommit=True) as operator:
        operator.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        operator.execute("CREATE DATABASE full_disk TABLESPACE small")
        try:
            dsn = pg_cluster.dsn("full_disk")
            store = open_store(dsn)
            store.migrate()
            store.close()
            with stage(tmp_path, dsn, tasks=1_500) as play:
                _fill_and_make_room(play, disk)
        finally:
            pg_cluster.drop_database("full_disk")
            operator.execute("DROP TABLESPACE small")
