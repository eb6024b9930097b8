"""The server is frozen, as a virtual machine is for a snapshot: every packet is acknowledged, no answer comes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shiftboss.config import Settings
from shiftboss.store.open import open_store
from tests.acceptance.worker import until
from tests.chaos.stage import stage, takes_long
from tests.pg_cluster import PgCluster

FROZEN_S = Settings().ping_timeout_s + 5.0


@pytest.fixture
def cluster(pg_cluster: PgCluster) -> Iterator[PgCluster]:
    assert pg_cluster
    with PgCluster() as made:
        yield made


def _signal_all(cluster: PgCluster, number: signal.Signals) -> None:
    children = Path(f"/proc/{cluster.pid}/task/{cluster.pid}/children").read_text().split()
    for pid in (cluster.pid, *map(int, children)):
        os.kill(pid, number)


@takes_long
@pytest.mark.timeout(240)
def test_a_frozen_server_restarts_no_actor(cluster: PgCluster, tmp_path: Path) -> None:
    """Each waits for an answer only so long, and that is less than the supervisor's patience with it."""
    dsn = cluster.create_database("frozen")
    store = open_store(dsn)
    store.migrate()
    store.close()
    with stage(tmp_path, dsn, tasks=1_000) as play:
        worker = play.worker(ping_timeout_s=Settings().ping_timeout_s, ping_interval_s=Settings().ping_interval_s)
        play.producer.start(over_s=4.0)
        until("working", lambda: play.ends() > 100)
        _signal_all(cluster, signal.SIGSTOP)
        try:
            until("unhealthy", lambda: worker.get("/health")[0] == 503, FROZEN_S)
            threading.Event().wait(FROZEN_S)
        finally:
            _signal_all(cluster, signal.SIGCONT)
        play.flows(15.0)
        play.over()
        assert not play.actors_lost(), play.actors_lost()
