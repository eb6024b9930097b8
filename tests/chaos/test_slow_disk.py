"""A disk that takes a second for each sync: work is slow, and that is all. Nobody is taken for dead, and a stop is in time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shiftboss.store.open import open_store
from tests.acceptance.worker import Worker, until
from tests.chaos.preload import Dials
from tests.chaos.stage import Stage, stage, takes_long

SYNC_S = 1.0
SLOW_FOR_S = 10.0
FLOWS_WITHIN_S = 10.0  # a commit waits for its turn, syncs up to three times when it tidies up, and so do those before it
SETTINGS = {"heartbeat_interval_s": 2.0, "worker_timeout_s": 12.0, "leader_term_s": 12.0}


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Stage]:
    url = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(url)
    store.migrate()
    store.close()
    with stage(tmp_path, url, tasks=1_000) as made:
        yield made


def _is_well_or_says_why(worker: Worker) -> bool:
    code, text = worker.get("/health")
    return code == 200 or bool(json.loads(text)["reason"])


@takes_long
@pytest.mark.timeout(180)
def test_a_worker_on_a_slow_disk_is_slow_and_nothing_else(play: Stage, dials: Dials) -> None:
    slow = play.worker(surroundings=dials.surroundings, **SETTINGS)
    assert all(dials.is_seen_by(pid) for pid in slow.actors().values())
    play.producer.start(over_s=12.0)
    until("working", lambda: play.ends() > 100)
    dials.slow_down(SYNC_S)
    slow_until_s = time.monotonic() + SLOW_FOR_S
    while time.monotonic() < slow_until_s:
        play.flows(FLOWS_WITHIN_S)
        assert _is_well_or_says_why(slow)
    began_s = time.monotonic()
    assert slow.stop() == 0
    took_s = time.monotonic() - began_s
    (stopping,) = slow.lines("service.stopping")
    assert took_s < stopping["fields"]["deadline_s"] + 1.0
    dials.slow_down(-SYNC_S)
    play.worker(surroundings=dials.surroundings, **SETTINGS)
    play.over()
    assert not play.actors_lost()
    assert not slow.lines("worker.fenced")
