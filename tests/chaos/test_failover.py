"""The primary dies and a standby is promoted: workers with both hosts in their address go on there, and nothing is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from shiftboss.store.open import open_store
from tests.acceptance.worker import until
from tests.chaos.stage import Stage, stage, takes_long
from tests.pg_cluster import PgCluster, PostgresMissing

WRITES_WITHIN_S = 10.0  # after the promotion


@pytest.fixture
def primary(pg_cluster: PgCluster) -> Iterator[PgCluster]:
    """Confirms a commit only when the standby has it, too, so that nothing acknowledged is lost with it."""
    assert pg_cluster
    with PgCluster() as cluster:
        yield cluster


@pytest.fixture
def standby(primary: PgCluster) -> Iterator[PgCluster]:
    try:
        follower = primary.standby("second")
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    with follower as cluster:
        yield cluster


def _both(primary: PgCluster, standby: PgCluster) -> str:
    here = f"127.0.0.1:{primary.port}"
    return primary.dsn("failover", tcp=True).replace(here, f"{here},127.0.0.1:{standby.port}")


@pytest.fixture
def play(primary: PgCluster, standby: PgCluster, tmp_path: Path) -> Iterator[Stage]:
    dsn = primary.create_database("failover")
    store = open_store(dsn)
    store.migrate()
    store.close()
    with psycopg.connect(primary.dsn(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'second'")
        connection.execute("SELECT pg_reload_conf()")
        until("replicates", lambda: _is_synchronous(connection))
    with stage(tmp_path, _both(primary, standby), standby.dsn("failover", tcp=True), tasks=1_500) as made:
        yield made


def _is_synchronous(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    return connection.execute("SELECT sync_state FROM pg_stat_replication").fetchall() == [("sync",)]


@takes_long
@pytest.mark.timeout(180)
def test_workers_go_on_at_the_promoted_standby(primary: PgCluster, standby: PgCluster, play: Stage) -> None:
    for _ in range(2):
        play.worker()
    play.producer.start(over_s=6.0)
    until("working", lambda: play.ends() > 200)
    primary.stop(signal.SIGQUIT)
    standby.promote()
    play.flows(WRITES_WITHIN_S, "work goes on at the new primary")
    play.over()
    assert not play.actors_lost()


@takes_long
@pytest.mark.timeout(180)
def test_a_server_that_comes_back_as_a_standby_is_not_written_to(primary: PgCluster, standby: PgCluster, play: Stage) -> None:
    """The old primary is there again at its old address, which stands first, and is read-only now."""
    play.worker()
    play.producer.start(over_s=4.0)
    until("working", lambda: play.ends() > 100)
    primary.stop(signal.SIGINT)
    standby.promote()
    primary.demote()
    play.flows(WRITES_WITHIN_S, "work goes on at the new primary")
    play.over()
    assert not play.actors_lost()
    with psycopg.connect(primary.dsn()) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
