"""A claimer that is to claim nothing for a while, or that takes other settings, or leaves for its successor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from actor_harness import eventually
from claimer_harness import Scene, info
from msgspec.structs import replace
from process_harness import ActorProcess

from shiftboss import control
from shiftboss.actors.messages import CancelAll, CancelAttempt, Execute, Recall, Stopping
from shiftboss.config import Settings, settings_to_json
from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import TaskFilter


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path) as made:
        yield made


def reload(claimer: ActorProcess, settings: Settings) -> None:
    claimer.tell(control.Reload(settings=settings_to_json(settings)))
    claimer.ping()


# ---- drain


def test_a_drain_of_an_idle_claimer_is_answered_at_once_and_each_is_answered_once(scene: Scene) -> None:
    claimer = scene.claimer()
    scene.executor(claimer).hello()
    claimer.wait_ready()
    for count in (1, 2):
        claimer.tell(control.Drain(why="test"))
        claimer.said.wait_type(control.Drained, count=count)
    scene.put()
    claimer.ping()
    assert len(claimer.said.of(control.Drained)) == 2


def test_a_drain_gives_back_what_has_not_started_and_is_answered_when_the_rest_is_stored(scene: Scene) -> None:
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    running, (waiting,) = scene.busy(executor)
    claimer.tell(control.Drain(why="test"))
    executor.give_back()
    assert scene.wait_status(waiting, TaskState.PENDING).attempts == 0
    claimer.ping()
    assert not claimer.said.of(control.Drained)
    assert control.Report(status="draining, 1 running") in claimer.said.of(control.Report)
    executor.finish(running)
    claimer.said.wait_type(control.Drained)
    assert scene.view(running).status is TaskState.COMPLETED
    assert not executor.heard.of(Stopping) and not executor.heard.of(CancelAll)
    assert scene.view(waiting).status is TaskState.PENDING
    claimer.tell(control.Resume())
    executor.wait_for(waiting)
    eventually(lambda: claimer.said.of(control.Report)[-1].status == "", "nothing to report")


def test_a_drain_waits_for_an_executor_that_has_not_said_what_it_holds_but_not_for_long(scene: Scene) -> None:
    claimer = scene.claimer()
    scene.executor(claimer)
    claimer.tell(control.Drain())
    claimer.ping()
    assert not claimer.said.of(control.Drained)
    claimer.said.wait_type(control.Drained, timeout_s=10.0)


def test_an_executor_that_comes_during_a_drain_gets_no_work(scene: Scene) -> None:
    claimer = scene.claimer()
    claimer.tell(control.Drain())
    scene.put()
    executor = scene.executor(claimer)
    executor.hello()
    executor.heard.wait_type(Recall)
    claimer.ping()
    assert not executor.heard.of(Execute)


@pytest.mark.parametrize("order", [control.Drain(), control.Stop(drain_s=60.0, grace_s=60.0)], ids=["drain", "stop"])
def test_a_cancel_during_a_drain_ends_the_attempt_and_the_drain_early(scene: Scene, order: control.ToChild) -> None:
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    running, _ = scene.busy(executor, waiting=0)
    claimer.tell(order)
    claimer.ping()
    scene.store.cancel(TaskFilter(ids=[running]))
    cancel = executor.heard.wait_type(CancelAttempt)
    assert cancel.reason == "cancel"
    executor.finish(running, Outcome.CANCELLED, error="cancelled")
    if isinstance(order, control.Stop):
        assert claimer.wait_exit() == 0
    else:
        claimer.said.wait_type(control.Drained)
    assert scene.view(running).status is TaskState.CANCELLED


@pytest.mark.parametrize("order", [control.Drain(), control.Stop(drain_s=60.0, grace_s=60.0)], ids=["drain", "stop"])
def test_a_timeout_during_a_drain_is_enforced(scene: Scene, order: control.ToChild) -> None:
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    task_id = scene.put(timeout_s=0.6)
    executor.hello()
    executor.start(task_id)
    claimer.tell(order)
    assert executor.heard.wait_type(CancelAttempt).reason == "timeout"
    claimer.said.wait_type(control.Replace)


# ---- other settings


def test_other_queues_are_claimed_from_after_a_reload(scene: Scene) -> None:
    with_settings = replace(scene.settings, only_queues=("mail",))
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=4)
    claimer.wait_ready()
    reload(claimer, with_settings)
    other, mail = scene.put(queue="other"), scene.put(queue="mail")
    executor.wait_for(mail)
    assert scene.view(other).status is TaskState.PENDING
    reload(claimer, scene.settings)
    executor.wait_for(other)


def test_a_history_is_kept_or_not_from_the_reload_on(scene: Scene) -> None:
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=1)
    claimer.wait_ready()
    before, after, again = scene.put(), scene.put(), scene.put()
    executor.start(before)
    executor.finish(before)
    scene.wait_status(before, TaskState.COMPLETED)
    reload(claimer, replace(scene.settings, completed_retention_s=0.0))
    executor.start(after)
    executor.finish(after)
    eventually(lambda: scene.store.has_trace(after), "completed without a history")
    assert scene.store.get(after) is None
    reload(claimer, scene.settings)
    executor.start(again)
    executor.finish(again)
    scene.wait_status(again, TaskState.COMPLETED)
    assert scene.counter("tasks_completed_total") == 3


def test_another_grace_holds_for_the_next_attempt_that_does_not_stop(tmp_path: Path) -> None:
    with Scene(tmp_path, cancel_grace_s=600.0) as scene:
        claimer = scene.claimer()
        executor = scene.executor(claimer)
        executor.hello()
        claimer.wait_ready()
        reload(claimer, replace(scene.settings, cancel_grace_s=0.1))
        executor.start(scene.put(timeout_s=0.1))
        claimer.said.wait_type(control.Replace)


def test_the_next_sweep_comes_after_the_new_interval(tmp_path: Path) -> None:
    with Scene(tmp_path, heartbeat_interval_s=600.0, worker_timeout_s=2_000.0) as scene:
        claimer = scene.claimer()
        claimer.wait_ready()
        scene.executor(claimer).hello()
        claimer.ping()
        reload(claimer, replace(scene.settings, heartbeat_interval_s=0.2))
        (task_id,) = [scene.put("nobody:knows")]
        scene.sql("UPDATE tasks SET status = 'claimed', worker_id = 'worker-1', fence = 1 WHERE id = ?", task_id)
        scene.wait_status(task_id, TaskState.PENDING)


# ---- leaving


def test_a_claimer_that_leaves_takes_nothing_away_from_anybody(scene: Scene) -> None:
    leaving = scene.claimer()
    executor = scene.executor(leaving)
    running, _ = scene.busy(executor, waiting=0)
    leaving.tell(control.Leave())
    assert leaving.wait_exit() == 0
    assert not executor.heard.of(Stopping) and not executor.heard.of(CancelAll)
    assert scene.view(running).worker_id == "worker-1"


# ---- what was running when an executor died


def test_a_death_is_logged_with_what_was_running(scene: Scene) -> None:
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    running, _ = scene.busy(executor)
    executor.die(signal="SIGSEGV", peak_rss_kib=3 * 1024, uptime_s=7.25)
    line = claimer.wait_log("attempts.lost")
    fields = line["fields"]
    assert line["level"] == "warning"
    assert (fields["actor"], fields["incarnation"], fields["signal"]) == ("executor-1", 1, "SIGSEGV")
    assert (fields["peak_rss_kib"], fields["uptime_s"]) == (3 * 1024, 7.2)
    assert fields["task_ids"] == str([running]), "only what had started"


def test_the_death_of_an_idle_executor_lost_nothing(scene: Scene) -> None:
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.die()
    claimer.said.wait_type(control.PeerBuried)
    assert not [line for line in claimer.log.things if line["event"] == "attempts.lost"]


def test_what_a_stranger_was_running_is_logged_too(scene: Scene) -> None:
    claimer = scene.claimer()
    stranger = scene.executor(claimer, linked=False)
    for cell in range(25):
        stranger.table.start(cell, f"{cell:036d}", 1)
    stranger.table.end(0)
    stranger.tell_death(signal=None, exit_code=3)
    fields = claimer.wait_log("attempts.lost", exit_code=3)["fields"]
    assert f"{0:036d}" not in fields["task_ids"], "that one was over"
    assert fields["task_ids"].count("'") == 40, "the list is cut at twenty"


def test_an_executor_that_died_before_it_could_say_what_it_held_is_judged_by_its_table(scene: Scene) -> None:
    """A new claimer, and an executor that is stuck in C and then killed."""
    first = scene.claimer()
    before = scene.executor(first)
    before.hello(types=(info(),))
    running = scene.put()
    claim = before.start(running)
    first.process.kill()
    first.wait_exit()
    claimer = scene.claimer()
    stuck = scene.executor(claimer)
    stuck.table.start(0, running, claim.fence)
    stuck.die()
    claimer.said.wait_type(control.PeerBuried)
    assert scene.outcomes(running) == [Outcome.CRASHED]
