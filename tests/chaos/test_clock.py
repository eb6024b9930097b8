"""Clocks jump by hours, ahead and back: the database's, and tasks may run twice, but nothing is lost or ends twice; a worker's,
and nobody so much as notices. On SQLite the machine's clock is the database's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from shiftboss import commands
from shiftboss.store.open import open_store
from tests.acceptance.worker import Worker, until
from tests.chaos import ledger
from tests.chaos.ledger import HOUR_S
from tests.chaos.preload import Dials
from tests.chaos.stage import Stage, stage, takes_long
from tests.pg_cluster import PgCluster

LONG_LEASES = {"worker_timeout_s": 60.0, "leader_term_s": 60.0}  # no busy machine ends one, and every jump would


@pytest.fixture
def cluster(pg_cluster: PgCluster, dials: Dials) -> Iterator[PgCluster]:
    assert pg_cluster
    with PgCluster(environment=dials.surroundings) as made:
        yield made


@pytest.fixture
def play(cluster: PgCluster, tmp_path: Path) -> Iterator[Stage]:
    dsn = cluster.create_database("clock")
    store = open_store(dsn)
    store.migrate()
    store.close()
    with stage(tmp_path, dsn, tasks=1_500) as made:
        yield made


def _server_ahead_s(play: Stage) -> float:
    with psycopg.connect(play.direct_url) as connection:
        found = connection.execute("SELECT extract(epoch FROM clock_timestamp() - %s)", (datetime.now(UTC),)).fetchone()
    assert found is not None
    return float(found[0])


def _is(ahead_s: float, hours: int) -> bool:
    return abs(ahead_s - hours * HOUR_S) < 10.0


@takes_long
@pytest.mark.timeout(180)
def test_a_clock_that_jumps_loses_nothing(play: Stage, dials: Dials) -> None:
    for _ in range(2):
        play.worker()
    play.producer.start(over_s=10.0)
    until("working", lambda: play.ends() > 100)
    for jump, hours in ((+1, 1), (-2, -1), (+3, 2)):  # the last one makes due whatever was stored at any of them
        dials.move(jump * HOUR_S)
        assert _is(_server_ahead_s(play), hours)
        play.flows(15.0, f"work goes on at {hours} h")
        assert all(worker.process.poll() is None for worker in play.workers)
    play.over()
    assert not play.actors_lost()


def _ahead_s(worker: Worker) -> float:
    """By the last line of its log."""
    return (datetime.fromisoformat(worker.lines()[-1]["ts"]) - datetime.now(UTC)).total_seconds()


def _shows(worker: Worker, hours: int) -> None:
    worker.ask(commands.Dump())
    until(f"its clock is {hours} h ahead", lambda: _is(_ahead_s(worker), hours))


def _ends_of(play: Stage, worker: Worker) -> int:
    mark = f"-{worker.process.pid}-"
    found = ledger.read(play.ledger)
    return sum(mark in some[0].worker for key, some in found.starts.items() if key in found.ends)


@takes_long
@pytest.mark.timeout(180)
def test_a_worker_whose_clock_jumps_is_as_good_as_any(pg_cluster: PgCluster, dials: Dials, tmp_path: Path) -> None:
    dsn = pg_cluster.create_database("worker_clock")
    store = open_store(dsn)
    store.migrate()
    store.close()
    try:
        with stage(tmp_path, dsn, tasks=3_000) as play:
            wrong = play.worker(surroundings=dials.surroundings, **LONG_LEASES)
            play.worker(**LONG_LEASES)
            play.producer.start(over_s=20.0)
            for jump, hours in ((+2, 2), (-4, -2), (+26, 24), (-24, 0)):
                dials.move(jump * HOUR_S)
                before = _ends_of(play, wrong)
                until(f"it works at {hours} h", lambda before=before: _ends_of(play, wrong) > before + 20, 20)
                _shows(wrong, hours)
            play.over()
            assert not play.actors_lost()
            for worker in play.workers:
                for event in ("worker.fenced", "task.fenced", "task.recovered", "worker.removed"):
                    assert not worker.lines(event), "a clock has decided something"
    finally:
        pg_cluster.drop_database("worker_clock")


@takes_long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("whose", ["machine", "worker"])
def test_a_clock_that_jumps_on_sqlite_loses_nothing(whose: str, make_dials: Callable[[str], Dials], tmp_path: Path) -> None:
    """The machine's, for its workers and its producer; or, though no machine has two, one worker's alone."""
    one, other = make_dials("one"), make_dials("other")
    url = f"sqlite:///{tmp_path}/tasks.db"
    with stage(tmp_path, url, tasks=1_500, clock=other) as play:
        for dials in (one, other):
            play.worker(surroundings=dials.surroundings)
        play.producer.start(over_s=10.0)
        until("working", lambda: play.ends() > 100)
        for jump, hours in ((+1, 1), (-2, -1)):
            for dials in (one, other) if whose == "machine" else (one,):
                dials.move(jump * HOUR_S)
            _shows(play.workers[0], hours)
            play.flows(15.0, f"work goes on at {hours} h")
            assert all(worker.process.poll() is None for worker in play.workers)
        one.move(+3 * HOUR_S)  # what a clock has put off, that was ahead, is due when it is there again
        other.move((+3 if whose == "machine" else +2) * HOUR_S)
        play.over()
        assert not play.actors_lost()


@pytest.fixture(params=["sqlite", "postgres"])
def one_clock(request: pytest.FixtureRequest, dials: Dials) -> Iterator[Stage]:
    """Two workers on a database whose clock it is; on SQLite theirs, too."""
    if request.param == "postgres":
        play: Stage = request.getfixturevalue("play")
        surroundings = {}
    else:
        play = request.getfixturevalue("sqlite_play")
        surroundings = dials.surroundings
    for _ in range(2):
        play.worker(surroundings=surroundings)
    yield play


@pytest.fixture
def sqlite_play(dials: Dials, tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path, f"sqlite:///{tmp_path}/tasks.db", tasks=1_500, clock=dials) as made:
        yield made


def _leading(play: Stage, dials: Dials) -> Worker | None:
    """By the clock as it is now."""
    with contextlib.closing(open_store(play.direct_url, clock=dials)) as store:
        leader = next((one.id for one in store.workers() if one.is_leader), "")
    return next((one for one in play.workers if f"-{one.process.pid}-" in leader), None)


@takes_long
@pytest.mark.timeout(180)
def test_who_dies_before_a_clock_is_set_back_is_followed_as_soon_as_ever(one_clock: Stage, dials: Dials) -> None:
    play = one_clock
    play.producer.start(over_s=10.0)
    until("working", lambda: play.ends() > 100)
    dials.move(+HOUR_S)
    dead = until("somebody leads by the new clock", lambda: _leading(play, dials))
    play.flows(15.0)
    dead.process.kill()
    dials.move(-HOUR_S)
    (alive,) = (one for one in play.workers if one is not dead)
    terms = len(alive.lines("leader.elected"))
    until("another leads", lambda: len(alive.lines("leader.elected")) > terms, 10.0)
    until("the dead are found", lambda: any(f"-{dead.process.pid}-" in str(line) for line in alive.lines("worker.removed")), 10.0)
    dials.move(+2 * HOUR_S)
    play.over()
