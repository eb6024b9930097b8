"""Rare orders of events that a claimer must get right: limits, deaths, cancels, stops. Real claimer, real SQLite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from actor_harness import eventually
from claimer_harness import Scene
from fake_peers import ended
from test_claimer_deaths import claim_for_worker

from shiftboss import control
from shiftboss.actors.messages import CancelAttempt, Held, Recall
from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import TaskFilter


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path) as made:
        yield made


def test_a_limited_queue_that_was_empty_for_a_while_is_still_limited(scene: Scene) -> None:
    scene.store.set_queue("default", concurrency=1)
    first = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=3)
    executor.start(first)
    other = scene.put(queue="other")
    executor.wait_for(other)
    executor.finish(other, duration_s=0.01)
    second = scene.put()
    scene.wait_status(other, TaskState.COMPLETED)
    executor.wait_for(scene.put(queue="other"))
    claimer.ping()
    assert second not in executor.claims(), "two of a queue that may run one"
    executor.finish(first)
    executor.wait_for(second, timeout_s=2.0)


def test_a_limited_queue_counts_what_still_runs_at_an_executor_that_is_to_be_replaced(tmp_path: Path) -> None:
    with Scene(tmp_path, cancel_grace_s=30.0) as scene:
        scene.store.set_queue("default", concurrency=1)
        stuck = scene.put(timeout_s=0.3)
        claimer = scene.claimer()
        one = scene.executor(claimer, "executor-1")
        one.hello(slots=1)
        one.start(stuck)
        one.heard.wait_type(CancelAttempt)
        two = scene.executor(claimer, "executor-2")
        two.hello(slots=1)
        second = scene.put()
        two.wait_for(scene.put(queue="other"))
        claimer.ping()
        assert second not in two.claims(), "the first is still running"


def test_a_limited_queue_is_not_blocked_by_a_task_of_larger_priority_that_is_not_due(scene: Scene) -> None:
    scene.store.set_queue("default", concurrency=1)
    scene.put(priority=10, delay_s=3600.0)
    due = scene.put()
    executor = scene.executor(scene.claimer())
    executor.hello(slots=1)
    executor.wait_for(due, timeout_s=3.0)


def test_a_dead_executor_is_buried_also_when_its_successor_is_quicker_than_its_last_words(scene: Scene) -> None:
    started, unstarted = scene.put_many(2)
    claimer = scene.claimer()
    dead = scene.executor(claimer)
    dead.hello(slots=2)
    dead.start(started)
    dead.wait_for(unstarted)
    dead.tell_death()  # a grandchild keeps the link open
    alive = scene.executor(claimer, incarnation=2)
    alive.hello(slots=2)
    claimer.said.wait_type(control.PeerBuried, timeout_s=4.0)
    assert scene.outcomes(started) == [Outcome.CRASHED]


def test_a_task_that_starts_while_its_cancel_calls_it_back_is_asked_to_stop(tmp_path: Path) -> None:
    with Scene(tmp_path, cancel_grace_s=2.0) as scene:
        claimer = scene.claimer()
        executor = scene.executor(claimer)
        _running, (waits,) = scene.busy(executor)
        executor.heard.wait_type(Recall)  # overdue; it stays unanswered
        scene.store.cancel(TaskFilter(ids=[waits]))
        executor.heard.wait_type(Recall, count=2)
        executor.start(waits)  # it was quicker than the recall
        executor.heard.wait_type(CancelAttempt, timeout_s=1.5)
        assert not claimer.said.of(control.Replace)


def test_a_claimer_with_all_slots_busy_still_says_that_it_lives(tmp_path: Path) -> None:
    """/health compares this figure with twice the heartbeat interval."""
    with Scene(tmp_path, heartbeat_interval_s=0.3) as scene:
        tasks = scene.put_many(3)
        claimer = scene.claimer()
        executor = scene.executor(claimer)
        executor.hello(slots=1)
        (running,) = eventually(lambda: list(executor.claims()), "one")
        assert running in tasks
        executor.start(running)
        began_s = time.monotonic()
        while time.monotonic() - began_s < 4.0:
            stale_s = time.monotonic() - claimer.board.get("claimer_s")
            assert time.monotonic() - began_s < 2.0 or stale_s < 2.0, f"silent for {stale_s:.2f} s"


def test_a_stop_waits_for_the_hello_of_an_executor_that_is_linked(scene: Scene) -> None:
    """A claimer that was just restarted: outcomes held for the dead one must not be lost to a stop that comes now."""
    task_id = scene.put()
    claim = claim_for_worker(scene)[task_id]
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    claimer.wait_ready()
    claimer.tell(control.Stop(drain_s=10.0, grace_s=1.0))
    try:
        claimer.ping()
    except (AssertionError, OSError):
        pytest.fail("it has ended without asking")
    executor.hello(held=(Held(0, claim, ended(claim)),))
    assert claimer.wait_exit() == 0
    assert scene.view(task_id).status is TaskState.COMPLETED


def test_a_claimer_whose_database_folder_has_gone_waits_for_it_and_says_so(tmp_path: Path) -> None:
    from msgspec.structs import replace
    from process_harness import ActorProcess

    with Scene(tmp_path) as scene:
        settings = replace(scene.settings, database_url=f"sqlite:///{tmp_path}/missing/tasks.db")
        with ActorProcess("claimer", settings) as claimer:
            claimer.wait_log("database.unreachable")
            assert claimer.process.poll() is None
            assert not (tmp_path / "missing").exists()
