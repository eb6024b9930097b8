"""Clocks jump by hours, ahead and back: the database's, and tasks may run twice, but nothing is lost or ends twice; a worker's,
and nobody so much as notices.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from shiftboss import commands
from shiftboss.store.open import open_store
from tests.acceptance.worker import Worker, until
from tests.chaos import ledger
from tests.chaos.stage import Stage, stage, takes_long
from tests.pg_cluster import PgCluster

_LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1")
LONG_LEASES = {"worker_timeout_s": 60.0, "leader_term_s": 60.0}  # no busy machine ends one, and every jump would


class Clock:
    """What the server takes for the time: a file that libfaketime reads again at every look."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump("+0")

    def jump(self, offset: str) -> None:
        """To so many seconds from the real time."""
        new = self._file.with_suffix(".new")
        new.write_text(offset)
        new.chmod(0o644)
        new.replace(self._file)


@pytest.fixture
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    folder = tmp_path_factory.mktemp("clock")
    for one in (folder, folder.parent, folder.parent.parent):
        one.chmod(0o755)  # the server runs as somebody else
    return Clock(folder / "offset")


@pytest.fixture
def surroundings(clock: Clock) -> dict[str, str]:
    """In which a program sees that clock; its monotonic one is the machine's."""
    library = next((one for one in _LIBRARIES if Path(one).exists()), None)
    if library is None:
        pytest.skip("libfaketime is not installed; on Debian: apt-get install libfaketime")
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock._file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@pytest.fixture
def cluster(pg_cluster: PgCluster, surroundings: dict[str, str]) -> Iterator[PgCluster]:
    assert pg_cluster
    with PgCluster(environment=surroundings) as made:
        yield made


@pytest.fixture
def play(cluster: PgCluster, tmp_path: Path) -> Iterator[Stage]:
    dsn = cluster.create_database("clock")
    store = open_store(dsn)
    store.migrate()
    store.close()
    with stage(tmp_path, dsn, tasks=1_500) as made:
        yield made


def _offset_s(play: Stage) -> float:
    with psycopg.connect(play.direct_url) as connection:
        found = connection.execute("SELECT extract(epoch FROM clock_timestamp() - %s)", (datetime.now(UTC),)).fetchone()
    assert found is not None
    return float(found[0])


@takes_long
@pytest.mark.timeout(180)
def test_a_clock_that_jumps_loses_nothing(play: Stage, clock: Clock) -> None:
    for _ in range(2):
        play.worker()
    play.producer.start(over_s=10.0)
    until("working", lambda: play.ends() > 100)
    for offset in ("+3600", "-3600", "+7200"):  # the last one makes due whatever was stored at any of them
        clock.jump(offset)
        until(f"the server's clock is {offset}", lambda offset=offset: abs(_offset_s(play) - float(offset)) < 5.0)
        play.flows(15.0, f"work goes on at {offset}")
        assert all(worker.process.poll() is None for worker in play.workers)
    play.over()
    assert not play.actors_lost()


def _ahead_s(worker: Worker) -> float:
    """By the last line of its log."""
    return (datetime.fromisoformat(worker.lines()[-1]["ts"]) - datetime.now(UTC)).total_seconds()


def _ends_of(play: Stage, worker: Worker) -> int:
    mark = f"-{worker.process.pid}-"
    found = ledger.read(play.ledger)
    return sum(mark in some[0].worker for key, some in found.starts.items() if key in found.ends)


@takes_long
@pytest.mark.timeout(180)
def test_a_worker_whose_clock_jumps_is_as_good_as_any(
    pg_cluster: PgCluster, surroundings: dict[str, str], clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = pg_cluster.create_database("worker_clock")
    store = open_store(dsn)
    store.migrate()
    store.close()
    try:
        with stage(tmp_path, dsn, tasks=3_000) as play:
            with monkeypatch.context() as patch:
                for name, value in surroundings.items():
                    patch.setenv(name, value)
                wrong = play.worker(**LONG_LEASES)
            play.worker(**LONG_LEASES)
            play.producer.start(over_s=20.0)
            for offset in ("+7200", "-7200", "+86400", "+0"):
                clock.jump(offset)
                before = _ends_of(play, wrong)
                until(f"it works at {offset}", lambda before=before: _ends_of(play, wrong) > before + 20, 20)
                wrong.ask(commands.Dump())
                until(f"its clock is {offset}", lambda offset=offset: abs(_ahead_s(wrong) - float(offset)) < 10.0)
            play.over()
            assert not play.actors_lost()
            for worker in play.workers:
                for event in ("worker.fenced", "task.fenced", "task.recovered", "worker.removed"):
                    assert not worker.lines(event), "a clock has decided something"
    finally:
        pg_cluster.drop_database("worker_clock")
