"""The disk is full, and has room again: what could not be stored was not acknowledged, and what runs still ends."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from shiftboss.store.open import open_store
from tests.acceptance.worker import Worker, until
from tests.chaos import rows
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


def _fill_and_make_room(play: Stage, disk: Disk, told: Callable[[], bool]) -> None:
    """`told`: whether the workers have said that there is no room."""
    for _ in range(2):
        play.worker()
    play.producer.start(over_s=6.0)
    until("working", lambda: play.ends() > 100)
    disk.fill()
    until("producers are told", lambda: disk.fill() or play.producer.unknown, 20)
    until("workers are told", lambda: disk.fill() or told(), 30)
    acknowledged = play.producer.acknowledged
    disk.empty()
    until("there is room again", lambda: play.producer.acknowledged > acknowledged, 20)
    play.flows(15.0)
    play.over()
    assert not play.actors_lost()


def _say_so(play: Stage) -> list[bool]:
    return [bool(worker.lines("database.unreachable")) for worker in play.workers]


@takes_long
@pytest.mark.timeout(180)
def test_sqlite_on_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    url = f"sqlite:///{disk.folder}/tasks.db"
    store = open_store(url)
    store.migrate()
    store.close()
    with stage(tmp_path, url, tasks=1_500) as play:
        _fill_and_make_room(play, disk, lambda: all(_say_so(play)))


@pytest.fixture
def small_log(pg_cluster: PgCluster, disk: Disk, tmp_path: Path) -> Iterator[PgCluster]:
    """A server whose write-ahead log is on that disk; its data is not."""
    assert pg_cluster
    place = disk.folder / "wal"
    place.mkdir()
    pg_cluster.own(place)
    for one in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        one.chmod(0o755)
    segments = {"min_wal_size": "2MB", "max_wal_size": "6MB"}
    with PgCluster(initdb=(f"--waldir={place}", "--wal-segsize=1"), **segments) as cluster:
        yield cluster


def _unwell(worker: Worker) -> str:
    code, text = worker.get("/health")
    return str(json.loads(text).get("reason", "")) if code == 503 else ""


def _write_much(dsn: str) -> None:
    """As somebody else does: our own load may have ended in the segments that were there."""
    with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True, connect_timeout=2) as stranger:
        stranger.execute("SELECT pg_logical_emit_message(false, 'much', repeat('x', 1000000))")


def _panics(cluster: PgCluster) -> int:
    return cluster.log_path.read_text(errors="replace").count("PANIC")


def _kept_up(cluster: PgCluster) -> bool:
    """As its service manager would."""
    if not cluster.is_up:
        cluster.start()
    return True


@takes_long
@pytest.mark.timeout(180)
def test_postgres_with_its_write_ahead_log_on_a_full_disk(small_log: PgCluster, disk: Disk, tmp_path: Path) -> None:
    """The server crashes, cannot come up again for want of room, and ends: workers wait, and say so."""
    dsn = small_log.create_database("full_log")
    store = open_store(dsn)
    store.migrate()
    store.close()
    with stage(tmp_path, dsn, tasks=1_500) as play:
        for _ in range(2):
            play.worker()
        play.producer.start(over_s=6.0)
        until("working", lambda: play.ends() > 100)
        disk.fill()
        until("the server panics", lambda: disk.fill() or _write_much(dsn) or _panics(small_log), 20)
        until("and gives up, or has come up in vain", lambda: disk.fill() or not small_log.is_up or _panics(small_log) > 1, 30)
        until("workers say so", lambda: disk.fill() or all(_say_so(play)), 30)
        for worker in play.workers:
            assert "the database has not been reached" in until(
                "health says so", lambda one=worker: disk.fill() or _unwell(one), 20
            )
        acknowledged = play.producer.acknowledged
        disk.empty()
        until("there is room again", lambda: _kept_up(small_log) and play.producer.acknowledged > acknowledged, 30)
        play.flows(15.0)
        play.over()
        assert not play.actors_lost()
        for worker in play.workers:
            assert worker.lines("database.recovered")


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
                # In the pages that are there is some room left: perhaps enough for all that can still be done.
                _fill_and_make_room(play, disk, lambda: any(_say_so(play)) or not rows.unfinished(dsn))
        finally:
            pg_cluster.drop_database("full_disk")
            operator.execute("DROP TABLESPACE small")
