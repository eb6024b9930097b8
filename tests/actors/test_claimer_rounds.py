"""A claimer's ordinary day: tasks go to executors, outcomes to the database, each once."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from actor_harness import eventually
from claimer_harness import WORKER, Scene, info
from fake_peers import TYPE

from shiftboss import control
from shiftboss.actors.messages import CancelAll, CancelAttempt, Execute, ProgressMade, Recall
from shiftboss.model import Outcome, Progress, TaskState
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk, TaskFilter


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path) as made:
        yield made


# ---- claiming and storing


def test_a_task_is_claimed_for_a_free_slot_and_its_outcome_is_stored(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    claimer.wait_ready()
    executor = scene.executor(claimer)
    executor.hello(slots=1)
    claim = executor.start(task_id)
    assert (claim.type, claim.attempt, claim.running) == (TYPE, 1, True)
    view = scene.view(task_id)
    assert (view.status, view.worker_id, view.attempts) == (TaskState.RUNNING, WORKER, 1)
    executor.finish(task_id, duration_s=0.2)
    scene.wait_status(task_id, TaskState.COMPLETED)
    assert scene.counter("tasks_completed_total") == 1


def test_the_executor_is_told_with_its_next_tasks_what_is_stored(scene: Scene) -> None:
    first, second = scene.put_many(2)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=1)
    (task_id,) = eventually(lambda: list(executor.claims()), "one of them")
    executor.finish(task_id)
    other = second if task_id == first else first
    executor.wait_for(other)
    last = executor.heard.of(Execute)[-1]
    assert last.stored == [executor.claims()[task_id][0]]
    assert scene.view(task_id).status is TaskState.COMPLETED, "told before it was stored"


def test_an_enqueue_wakes_an_idle_claimer(scene: Scene) -> None:
    """Its own look would come after `claim_interval`, which is 30 s here."""
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=2)
    for _ in range(3):
        task_id = scene.put()
        executor.wait_for(task_id, timeout_s=8.0)
        executor.finish(task_id)
        scene.wait_status(task_id, TaskState.COMPLETED)


def test_nothing_is_claimed_beyond_the_slots_before_it_is_known_how_long_tasks_take(scene: Scene) -> None:
    scene.put_many(50)
    claimer = scene.claimer()
    one, two = scene.executor(claimer, "executor-1"), scene.executor(claimer, "executor-2")
    for executor in (one, two):
        executor.hello(slots=3)
    eventually(lambda: len(one.claims()) == 3 and len(two.claims()) == 3, "all slots are full")
    claimer.ping()
    assert scene.store.counts().running == {TYPE: 6}
    assert scene.store.counts().pending == {TYPE: 44}
    assert claimer.board.get("capacity") == 6


def test_short_tasks_are_prefetched_and_a_long_one_ends_that(scene: Scene) -> None:
    scene.put_many(100)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=1)
    (first,) = eventually(lambda: list(executor.claims()), "one")
    executor.start(first)
    executor.finish(first, duration_s=0.01)
    held = eventually(lambda: len(executor.claims()) > 10 and executor.claims(), "many")
    assert isinstance(held, dict)
    running = [claim for _cell, claim in held.values() if claim.running]
    assert len(running) == 2, "only what has a slot is stored as running"
    second = list(held)[1]
    executor.finish(second, duration_s=60.0)
    scene.wait_status(second, TaskState.COMPLETED)
    claimer.ping()
    before = len(executor.claims())
    executor.finish(list(held)[2], duration_s=60.0)
    scene.wait_status(list(held)[2], TaskState.COMPLETED)
    claimer.ping()
    assert len(executor.claims()) == before, "long tasks are hoarded"


def test_a_prefetched_task_that_has_started_is_written_as_running(scene: Scene) -> None:
    scene.put_many(5)
    claimer = scene.claimer()
    executor = scene.executor(claimer, cells=8)
    executor.hello(slots=1)
    (first,) = eventually(lambda: list(executor.claims()), "one")
    executor.finish(first, duration_s=0.05)
    eventually(lambda: len(executor.claims()) == 5, "all")
    waiting = [task_id for task_id, (_cell, claim) in executor.claims().items() if not claim.running]
    assert scene.view(waiting[0]).status is TaskState.CLAIMED
    executor.start(waiting[0])
    view = scene.wait_status(waiting[0], TaskState.RUNNING)
    assert view.attempts == 1


def test_only_types_with_a_handler_are_claimed_and_the_others_are_told(scene: Scene) -> None:
    unknown, known = scene.put("other:type"), scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=5)
    executor.wait_for(known)
    executor.finish(known)
    scene.wait_status(known, TaskState.COMPLETED)
    assert scene.view(unknown).status is TaskState.PENDING
    assert unknown not in executor.claims()


def test_progress_is_stored(scene: Scene) -> None:
    task_id = scene.put()
    executor = scene.executor(scene.claimer())
    executor.hello()
    claim = executor.start(task_id)
    executor.ref.tell(ProgressMade([Progress(task_id=task_id, fence=claim.fence, percent=40.0, note="going")]))
    eventually(lambda: b"going" in bytes(scene.view(task_id).progress or b""), "progress is stored")


def test_a_failure_is_stored_logged_and_tried_again(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.start(task_id)
    executor.finish(task_id, Outcome.FAILED, error="ValueError: boom", retry_in_s=3600.0)
    view = scene.wait_status(task_id, TaskState.PENDING)
    assert view.next_retry_at is not None and view.last_error == "ValueError: boom"
    line = claimer.wait_log("task.failed", task_id=task_id)
    assert line["fields"]["retry_in_s"] == 3600.0


def test_a_task_that_is_used_up_is_logged_as_a_dead_letter(scene: Scene) -> None:
    task_id = scene.put(max_attempts=1)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.start(task_id)
    executor.finish(task_id, Outcome.FAILED, error="boom")
    scene.wait_status(task_id, TaskState.DEAD_LETTER)
    assert claimer.wait_log("task.dead_letter", task_id=task_id)["level"] == "error"


def test_an_outcome_of_a_task_that_someone_else_holds_is_dropped_and_logged(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.start(task_id)
    scene.register("worker-2", exclusive=True)
    ask = ClaimAsk(lanes=[LaneAsk(queue="default", priority=0, limit=1)], limit=1, running=1, types=[info()])
    scene.sql("UPDATE tasks SET next_retry_at = NULL")
    (theirs,) = scene.store.exchange(Exchange(worker_id="worker-2", claim=ask)).claims
    executor.finish(task_id)
    claimer.wait_log("task.fenced", task_id=task_id)
    view = scene.view(task_id)
    assert (view.status, view.worker_id, view.fence) == (TaskState.RUNNING, "worker-2", theirs.fence)


# ---- calling back


def test_a_task_that_waits_behind_another_moves_to_the_executor_with_a_free_slot(scene: Scene) -> None:
    claimer = scene.claimer()
    busy = scene.executor(claimer, "executor-1")
    _running, (waits,) = scene.busy(busy)
    cell, claim = busy.claims()[waits]
    free = scene.executor(claimer, "executor-2")
    free.hello(slots=1)
    recall = busy.heard.wait_type(Recall, timeout_s=8.0)
    assert recall.cells == [cell]
    busy.give_back()
    assert free.wait_for(waits, timeout_s=8.0)[1] == claim, "the claim itself moves"
    claimer.ping()
    assert len(busy.heard.of(Recall)) == 1


def test_a_task_given_back_while_nobody_is_free_returns_to_the_database_uncharged(scene: Scene) -> None:
    tasks = scene.put_many(2)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=2)
    for task_id in tasks:
        executor.wait_for(task_id)
    claimer.tell(control.Drain())
    executor.start(tasks[0])
    executor.give_back()
    view = scene.wait_status(tasks[1], TaskState.PENDING)
    assert (view.attempts, view.worker_id) == (0, None)
    assert scene.view(tasks[0]).status is TaskState.RUNNING
    assert scene.outcomes(tasks[1]) == []


def test_quiet_claims_nothing_and_stores_what_ends_until_it_is_resumed(scene: Scene) -> None:
    first = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=2)
    executor.start(first)
    claimer.tell(control.Drain())
    assert executor.heard.wait_type(Recall) == Recall(None)
    second = scene.put()
    executor.finish(first)
    scene.wait_status(first, TaskState.COMPLETED)
    claimer.ping()
    assert second not in executor.claims()
    claimer.tell(control.Resume())
    executor.wait_for(second)


# ---- timeouts and cancels


def test_a_timeout_asks_the_attempt_to_stop_and_then_for_a_new_process(scene: Scene) -> None:
    stuck, neighbour = scene.put(timeout_s=0.3), scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=2)
    executor.start(stuck)
    executor.wait_for(neighbour)
    cell, _claim = executor.claims()[stuck]
    assert executor.heard.wait_type(CancelAttempt) == CancelAttempt(cell, "timeout")
    executor.heard.wait(lambda message: message == Recall(None), "the neighbours are called back")
    later = scene.put()
    replace = claimer.said.wait_type(control.Replace)
    assert (replace.peer, replace.incarnation) == ("executor-1", 1)
    assert stuck in replace.reason and "timeout" in replace.reason
    assert later not in executor.claims(), "more work went to a process that is to be killed"
    executor.die(reason=replace.reason)
    view = scene.wait_status(stuck, TaskState.PENDING)
    assert view.attempts == 1 and "timeout" in str(view.last_error)
    assert scene.outcomes(stuck) == [Outcome.TIMEOUT]
    assert scene.view(neighbour).attempts == 0


def test_an_attempt_that_stops_in_time_costs_its_process_nothing(scene: Scene) -> None:
    task_id = scene.put(timeout_s=0.3)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=1)
    executor.start(task_id)
    executor.heard.wait_type(CancelAttempt)
    executor.finish(task_id, Outcome.TIMEOUT, error="timeout", retry_in_s=3600.0)
    scene.wait_status(task_id, TaskState.PENDING)
    executor.wait_for(scene.put())
    assert not claimer.said.of(control.Replace)


def test_a_timeout_of_an_async_attempt_leaves_its_executor_in_use(scene: Scene) -> None:
    task_id = scene.put(timeout_s=0.3)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=2, types=(info(is_async=True),))
    executor.start(task_id)
    executor.heard.wait_type(CancelAttempt)
    executor.wait_for(scene.put())


def test_a_cancelled_task_is_asked_to_stop_and_ends_as_cancelled(scene: Scene) -> None:
    task_id = scene.put()
    executor = scene.executor(scene.claimer())
    executor.hello()
    executor.start(task_id)
    assert scene.store.cancel(TaskFilter(ids=[task_id])).requested == 1
    assert executor.heard.wait_type(CancelAttempt, timeout_s=10.0).reason == "cancel"
    executor.finish(task_id, Outcome.CANCELLED, error="cancelled")
    scene.wait_status(task_id, TaskState.CANCELLED)


def test_a_cancelled_task_that_has_not_started_never_does(scene: Scene) -> None:
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    _running, (waits,) = scene.busy(executor)
    scene.store.cancel(TaskFilter(ids=[waits]))
    executor.give_back()
    scene.wait_status(waits, TaskState.CANCELLED)
    assert not executor.heard.of(CancelAttempt)


# ---- the worker's name


def test_a_new_worker_id_means_fenced_so_everything_is_asked_to_stop(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.start(task_id)
    scene.register("worker-1b", exclusive=True)
    claimer.board.worker_id = "worker-1b"
    next_id = scene.put()  # rings, so it looks at the board now
    assert executor.heard.wait_type(CancelAll) == CancelAll("fenced")
    claimer.wait_log("worker.fenced")
    executor.finish(task_id, Outcome.INTERRUPTED)
    claimer.wait_log("task.fenced", task_id=task_id)
    assert scene.outcomes(task_id) == [Outcome.LOST], "the late outcome was stored"
    executor.wait_for(next_id)
    assert scene.view(next_id).worker_id == "worker-1b"


def test_without_a_worker_id_nothing_is_claimed(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer(worker_id="")
    executor = scene.executor(claimer)
    executor.hello()
    claimer.ping()
    assert not claimer.said.of(control.Ready) and not executor.claims()
    claimer.board.worker_id = WORKER
    executor.wait_for(task_id)
    claimer.wait_ready()


# ---- a database that is away


def test_outcomes_wait_while_the_database_is_locked(scene: Scene) -> None:
    tasks = scene.put_many(4)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=4)
    for task_id in tasks:
        executor.start(task_id)
    with open(f"{scene.path}.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for task_id in tasks:
            executor.finish(task_id)
        claimer.said.things.clear()
        eventually(lambda: "FLOCK" in waiters(lock.fileno()), "the claimer waits for the lock")
        assert {scene.view(task_id).status for task_id in tasks} == {TaskState.RUNNING}
    for task_id in tasks:
        scene.wait_status(task_id, TaskState.COMPLETED)
    assert scene.counter("tasks_completed_total") == 4


def waiters(fd: int) -> str:
    """Lines of the kernel's list of locks that wait for the file of `fd`."""
    inode = os.fstat(fd).st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return "\n".join(line for line in lines if "->" in line and f":{inode} " in line)


def test_outcomes_are_kept_while_the_disk_is_full_and_delivered_after_it(scene: Scene) -> None:
    tasks = scene.put_many(3)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=3)
    for task_id in tasks:
        executor.start(task_id)
    pid, limits = claimer.process.pid, resource.prlimit(claimer.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    for task_id in tasks:
        executor.finish(task_id)
    claimer.wait_log("database.unreachable")
    claimer.ping()
    assert {scene.view(task_id).status for task_id in tasks} == {TaskState.RUNNING}
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    for task_id in tasks:
        scene.wait_status(task_id, TaskState.COMPLETED)
    claimer.wait_log("database.recovered")
    assert scene.counter("tasks_completed_total") == 3
