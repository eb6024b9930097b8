"""A leader that takes other settings, or makes room for its successor."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from actor_harness import eventually
from claimer_harness import WORKER, Scene, info
from msgspec.structs import replace
from process_harness import ActorProcess

from shiftboss import control
from shiftboss.config import settings_to_json
from shiftboss.model import Ended, Outcome, TaskState
from shiftboss.store.base import TRACE_S, ClaimAsk, Exchange, LaneAsk, TaskFilter


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path, leader_term_s=600.0, cleanup_interval_s=600.0) as made:
        yield made


@pytest.fixture
def leader(scene: Scene) -> Iterator[ActorProcess]:
    with ActorProcess("leader", scene.settings) as process:
        process.board.worker_id = WORKER
        process.tell(control.Reload(settings=settings_to_json(replace(scene.settings, leader_term_s=500.0))))  # looks at once
        process.wait_log("leader.elected")
        yield process


def test_a_new_term_is_taken_at_once(scene: Scene, leader: ActorProcess) -> None:
    leader.tell(control.Reload(settings=settings_to_json(replace(scene.settings, leader_term_s=3.0))))

    def retry_s() -> bool:
        return scene.store.elect("somebody-else", 30.0).retry_in_s <= 3.0

    eventually(retry_s, "others need not wait longer than the new term")


def test_new_retentions_and_a_new_cleanup_interval_are_kept_from_now_on(scene: Scene, leader: ActorProcess) -> None:
    task_id = scene.put()
    scene.store.cancel(TaskFilter(ids=[task_id]))
    new = replace(scene.settings, cleanup_interval_s=1.0, cancelled_retention_s=0.0)
    leader.tell(control.Reload(settings=settings_to_json(new)))
    eventually(lambda: scene.store.get(task_id) is None, "pruned")


def test_what_was_completed_while_a_history_was_kept_is_known_for_as_long_as_a_trace(scene: Scene, leader: ActorProcess) -> None:
    """Or an end that is sent again just after such a reload would be told that somebody else has the task."""
    completed, cancelled = scene.put(), scene.put()
    lane = LaneAsk(queue="default", priority=0, limit=1)
    ask = ClaimAsk(lanes=[lane], limit=1, running=1, types=[info()])
    (claim,) = scene.store.exchange(Exchange(worker_id=WORKER, claim=ask)).claims
    end = Ended(task_id=claim.task_id, fence=claim.fence, outcome=Outcome.SUCCESS)
    assert claim.task_id == completed
    scene.store.exchange(Exchange(worker_id=WORKER, ended=[end]))
    scene.store.cancel(TaskFilter(ids=[cancelled]))
    new = replace(scene.settings, cleanup_interval_s=1.0, completed_retention_s=0.0, cancelled_retention_s=0.0)
    leader.tell(control.Reload(settings=settings_to_json(new)))
    eventually(lambda: scene.store.get(cancelled) is None, "pruned")
    assert scene.view(completed).status is TaskState.COMPLETED
    long_ago = f"{datetime.now(UTC) - timedelta(seconds=TRACE_S + 60):%Y-%m-%d %H:%M:%S.%f}"
    scene.sql("UPDATE task_history SET finished_at = ?", long_ago)
    eventually(lambda: scene.store.get(completed) is None, "pruned when its time has come")


def test_one_that_leaves_lets_its_successor_lead_at_once(scene: Scene, leader: ActorProcess) -> None:
    leader.tell(control.Leave())
    assert leader.wait_exit() == 0
    leader.wait_log("leader.resigned")
    assert scene.store.elect("somebody-else", 30.0).lease is not None
