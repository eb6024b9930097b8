"""Actors are killed for real, and then the database is looked at."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from shiftboss.model import Outcome, TaskState, TaskView
from shiftboss.store.base import Store, TaskFilter
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, until

pytestmark = pytest.mark.long("sqlite")  # on the other one every day
TASKS = 10_000 if os.environ.get("CI") else 4_000
KILL_EVERY_S = 0.2
ACTORS = ("executor-1", "executor-2", "claimer", "heartbeat", "leader")


def all_tasks(store: Store, count: int) -> list[TaskView]:
    found: list[TaskView] = []
    while page := store.list_tasks(TaskFilter(), 5_000, before=found[-1].id if found else None):
        found.extend(page)
    assert len(found) == count
    return found


def unfinished(store: Store) -> int:
    return sum(n for (_type, status), n in store.status_counts().items() if status in ("pending", "claimed", "running"))


@pytest.mark.timeout(180)
def test_every_task_ends_once_while_actors_are_killed_every_200_ms(database_url: str, store: Store, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    prepared = [
        handlers.short.prepare(rng.uniform(5, 20)) if index % 2 else handlers.short_async.prepare(rng.uniform(5, 20))
        for index in range(TASKS)
    ]
    enqueue(store, prepared)
    kills = 0
    with Worker(database_url, tmp_path, executors=2) as worker:
        worker.ready()
        pause, give_up_s = threading.Event(), time.monotonic() + 150
        while unfinished(store):
            assert time.monotonic() < give_up_s, store.status_counts()
            kills += worker.kill(rng.choice(ACTORS))
            # On a machine that needs longer to start a process just now, nobody would be there long enough to do anything.
            lately = [line["fields"]["duration_s"] / 2 for line in worker.lines("actor.ready")[-len(ACTORS) :]]
            pause.wait(max(KILL_EVERY_S, *lately))
        assert worker.stop() == 0
        assert not worker.left_over()
        assert len(worker.lines("actor.crashed")) + len(worker.lines("actor.boot_failed")) >= kills > 10
        assert max(worker.starts().values()) == 1, "one claim started twice"

    ended = all_tasks(store, TASKS)
    assert {one.status for one in ended} <= {TaskState.COMPLETED, TaskState.DEAD_LETTER}
    assert all(1 <= one.attempts <= 5 for one in ended)
    ends = worker.ends()
    for one in ended:
        if one.status is TaskState.COMPLETED:
            assert ends[one.id, str(one.fence)] == 1, "completed by a claim that did not reach its end"
    crashed = [attempt for one in ended if one.attempts > 1 for attempt in store.attempts(one.id)]
    assert all(attempt.outcome in (Outcome.CRASHED, Outcome.LOST, Outcome.INTERRUPTED) for attempt in crashed)


def test_a_killed_executor_costs_its_started_tasks_an_attempt_and_the_others_nothing(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    with Worker(database_url, tmp_path, executors=1, worker_pool_size=2) as worker:
        worker.ready()
        enqueue(store, [handlers.long.prepare(1.0) for _ in range(2)])
        until("two started", lambda: len(worker.starts()) == 2)
        enqueue(store, [handlers.short.prepare(1) for _ in range(20)])
        worker.kill("executor-1")
        until("all over", lambda: not unfinished(store))
    for one in all_tasks(store, 22):
        attempts = store.attempts(one.id)
        assert one.status is TaskState.COMPLETED
        if one.type == "long":
            assert one.attempts == 2
            assert [attempt.outcome for attempt in attempts] == [Outcome.CRASHED]
            assert attempts[0].error is not None
            assert "SIGKILL" in attempts[0].error
        else:
            assert (one.attempts, attempts) == (1, [])


def test_a_killed_claimer_costs_nothing(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        enqueue(store, [handlers.short.prepare(30) for _ in range(400)])
        for done in (50, 120, 200):
            until(f"{done} ended", lambda done=done: len(worker.ends()) >= done)
            worker.kill("claimer")
        until("all over", lambda: not unfinished(store))
        starts = worker.starts()
    assert len(starts) == 400, "a claim that was made before the kill was run again"
    assert all(one.attempts == 1 for one in all_tasks(store, 400))


@pytest.mark.parametrize("how", ["exit", "kill", "segfault", "abort", "sys_exit"])
def test_a_poison_task_ends_as_a_dead_letter_with_its_cause(how: str, store: Store, database_url: str, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, executors=1) as worker:
        worker.ready()
        (poison,) = enqueue(store, [handlers.die.prepare(how)])
        until("dead letter", lambda: (store.get(poison) or worker).status is TaskState.DEAD_LETTER)
        enqueue(store, [handlers.short.prepare(1) for _ in range(100)])
        until("innocents over", lambda: not unfinished(store))
    view = store.get(poison)
    assert view is not None
    assert view.attempts == 2
    cause = {"exit": "code 3", "kill": "SIGKILL", "segfault": "SIGSEGV", "abort": "SIGABRT", "sys_exit": "SystemExit"}[how]
    assert cause in (view.last_error or "")
    assert all(one.attempts == 1 for one in all_tasks(store, 101) if one.type == "short")
