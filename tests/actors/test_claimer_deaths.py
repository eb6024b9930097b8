"""What a claimer does when executors die, when it is the new one itself, and when it has to stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from actor_harness import eventually
from claimer_harness import WORKER, Scene, info
from fake_peers import ended

from shiftboss import control
from shiftboss.actors.messages import CancelAll, Execute, Finished, Held, Recall, Stopping
from shiftboss.model import Claim, Outcome, TaskState
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path) as made:
        yield made


def claim_for_worker(scene: Scene, running: int = 100) -> dict[str, Claim]:
    """Claim all there is for the worker, as a claimer that has died since."""
    ask = ClaimAsk(lanes=[LaneAsk(queue="default", priority=0, limit=100)], limit=100, running=running, types=[info()])
    claims = scene.store.exchange(Exchange(worker_id=WORKER, claim=ask)).claims
    return {claim.task_id: claim for claim in claims}


def buried(peer: str = "executor-1", incarnation: int = 1) -> control.PeerBuried:
    return control.PeerBuried(peer=peer, incarnation=incarnation)


# ---- an executor dies


def test_what_a_dead_executor_had_started_has_crashed_and_the_rest_goes_back_uncharged(scene: Scene) -> None:
    started, unstarted = scene.put_many(2)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=2)
    executor.start(started)
    executor.wait_for(unstarted)
    executor.die(signal="SIGSEGV", peak_rss_kib=3 * 1024)
    view = scene.wait_status(started, TaskState.PENDING)
    assert view.attempts == 1 and view.next_retry_at is not None
    assert scene.outcomes(started) == [Outcome.CRASHED]
    assert "SIGSEGV" in str(view.last_error) and "3 MiB" in str(view.last_error)
    spared = scene.wait_status(unstarted, TaskState.PENDING)
    assert (spared.attempts, spared.last_error, scene.outcomes(unstarted)) == (0, None, [])
    assert claimer.said.wait_type(control.PeerBuried) == buried()
    claimer.wait_log("task.crashed", task_id=started)


def test_a_task_that_kills_its_process_again_and_again_ends_as_a_dead_letter(scene: Scene) -> None:
    task_id = scene.put(max_attempts=2)
    claimer = scene.claimer()
    for incarnation in (1, 2):
        executor = scene.executor(claimer, incarnation=incarnation)
        scene.sql("UPDATE tasks SET next_retry_at = NULL")
        executor.hello()
        executor.start(task_id)
        executor.die()
        claimer.said.wait_type(control.PeerBuried, count=incarnation)
    assert scene.wait_status(task_id, TaskState.DEAD_LETTER).attempts == 2
    assert scene.outcomes(task_id) == [Outcome.CRASHED, Outcome.CRASHED]


def test_the_last_words_of_a_dead_executor_count(scene: Scene) -> None:
    """It was killed right after it had sent an outcome; the news of its death must not overtake that."""
    task_id = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.start(task_id)
    executor.tell_death()
    claimer.ping()
    executor.finish(task_id)
    executor.hang_up()
    scene.wait_status(task_id, TaskState.COMPLETED)
    claimer.said.wait_type(control.PeerBuried)
    assert scene.outcomes(task_id) == []


def test_a_link_that_a_grandchild_keeps_open_delays_a_burial_only_so_long(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.start(task_id)
    executor.tell_death()
    claimer.said.wait_type(control.PeerBuried, timeout_s=10.0)
    assert scene.outcomes(task_id) == [Outcome.CRASHED]


def test_an_attempt_whose_process_the_supervisor_ended_is_interrupted_and_not_charged(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.start(task_id)
    claimer.tell(control.Drain())
    executor.die(reason="stop")
    view = scene.wait_status(task_id, TaskState.PENDING)
    assert (view.attempts, scene.outcomes(task_id)) == (0, [Outcome.INTERRUPTED])


def test_a_new_incarnation_takes_up_what_the_dead_one_left(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    dead = scene.executor(claimer)
    dead.hello()
    dead.wait_for(task_id)
    dead.die()
    eventually(lambda: claimer.said.of(control.PeerBuried), "buried")
    alive = scene.executor(claimer, incarnation=2)
    alive.hello()
    _cell, claim = alive.wait_for(task_id)
    assert claim.fence == 2
    assert claimer.board.get("capacity") == 1


def test_words_of_a_former_incarnation_are_not_taken_for_the_present_ones(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    former = scene.executor(claimer)
    former.hello()
    former.wait_for(task_id)
    former.die()
    claimer.said.wait_type(control.PeerBuried)
    present = scene.executor(claimer, incarnation=2)
    present.hello()
    present.wait_for(task_id)
    former.tell_death()  # told again, as to a claimer that had not buried it
    claimer.said.wait(lambda said: said == buried(), "buried again", count=2)
    present.start(task_id)
    present.finish(task_id)
    scene.wait_status(task_id, TaskState.COMPLETED)


# ---- a new claimer


def test_outcomes_held_for_a_dead_claimer_are_stored_once(scene: Scene) -> None:
    stored_before, new = scene.put_many(2)
    claims = claim_for_worker(scene)
    scene.store.exchange(Exchange(worker_id=WORKER, ended=[ended(claims[stored_before])]))
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    held = tuple(Held(cell, claims[task_id], ended(claims[task_id])) for cell, task_id in enumerate((stored_before, new)))
    executor.hello(slots=2, held=held)
    scene.wait_status(new, TaskState.COMPLETED)
    another = scene.put()
    executor.wait_for(another)
    assert sorted(executor.stored()) == [0, 1]
    assert scene.counter("tasks_completed_total") == 2, "an outcome was counted twice"
    claimer.wait_log("task.already_applied", task_id=stored_before, fence=claims[stored_before].fence, outcome="success")
    assert not [line for line in claimer.log.of(dict) if line.get("event") == "task.already_applied" and new in str(line)]
    assert not [line for line in claimer.log.things if line.get("event") == "task.fenced"]


def test_attempts_that_run_on_are_finished_by_the_new_claimer(scene: Scene) -> None:
    running, prefetched = scene.put_many(2)
    claims = claim_for_worker(scene, running=1)
    (running, prefetched) = sorted(claims, key=lambda task_id: not claims[task_id].running)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    for cell, task_id in enumerate((running, prefetched)):
        executor.table.start(cell, task_id, claims[task_id].fence)
    executor.hello(slots=2, held=(Held(0, claims[running], None), Held(1, claims[prefetched], None)))
    assert scene.wait_status(prefetched, TaskState.RUNNING).attempts == 1
    for cell, task_id in enumerate((running, prefetched)):
        executor.ref.tell(Finished([cell], [ended(claims[task_id])]))
        scene.wait_status(task_id, TaskState.COMPLETED)


def test_what_died_while_no_claimer_lived_is_read_from_its_table(scene: Scene) -> None:
    crashed, over, unstarted = scene.put_many(3)
    claims = claim_for_worker(scene)
    scene.store.exchange(Exchange(worker_id=WORKER, ended=[ended(claims[over])]))
    claimer = scene.claimer(worker_id="")
    stranger = scene.executor(claimer, linked=False)
    stranger.table.start(0, over, claims[over].fence)
    stranger.table.end(0)
    stranger.table.start(1, crashed, claims[crashed].fence)
    stranger.tell_death()
    claimer.board.worker_id = WORKER
    assert claimer.said.wait_type(control.PeerBuried) == buried()
    assert scene.outcomes(crashed) == [Outcome.CRASHED]
    assert scene.view(over).status is TaskState.COMPLETED
    assert scene.wait_status(unstarted, TaskState.PENDING).attempts == 0


def test_what_the_database_says_is_ours_but_nobody_holds_is_given_back(scene: Scene) -> None:
    lost, held = scene.put_many(2)
    claims = claim_for_worker(scene)
    claimer = scene.claimer(worker_id="")
    executor = scene.executor(claimer)
    executor.hello(slots=1, held=(Held(0, claims[held], None),))
    executor.table.start(0, held, claims[held].fence)
    claimer.ping()
    claimer.board.worker_id = WORKER
    view = scene.wait_status(lost, TaskState.PENDING)
    assert (view.attempts, view.worker_id) == (0, None)
    assert scene.view(held).status is TaskState.RUNNING
    assert claimer.wait_log("task.released")["fields"]["count"] == 1


def test_a_sweep_that_had_to_wait_for_an_executor_comes_as_soon_as_it_has_spoken(scene: Scene) -> None:
    lost = scene.put()
    claim_for_worker(scene)
    claimer = scene.claimer(worker_id="")
    executor = scene.executor(claimer)
    claimer.ping()
    claimer.board.worker_id = WORKER
    claimer.wait_ready()
    ready_s = time.monotonic()
    eventually(lambda: time.monotonic() - ready_s > 0.2, "a sweep, which shows nowhere when it is left out")
    executor.hello(slots=1)
    _cell, claim = executor.wait_for(lost)  # given back, and claimed again at once
    assert (claim.fence, claim.attempt) == (2, 1), "for its first life it was not charged"
    assert time.monotonic() - ready_s < 20, "it came with the next interval, of 30 seconds"


def test_nothing_is_given_back_before_every_executor_has_said_what_it_holds(tmp_path: Path) -> None:
    with Scene(tmp_path, heartbeat_interval_s=0.1) as scene:
        task_id = scene.put()
        claims = claim_for_worker(scene)
        claimer = scene.claimer(worker_id="")
        executor = scene.executor(claimer)
        claimer.ping()
        claimer.board.worker_id = WORKER
        claimer.wait_ready()
        ready_s = time.monotonic()
        eventually(lambda: time.monotonic() - ready_s > 0.4, "four sweeps, which show nowhere when they give nothing back")
        claimer.ping()
        assert scene.view(task_id).status is TaskState.RUNNING
        executor.table.start(5, task_id, claims[task_id].fence)
        executor.hello(held=(Held(5, claims[task_id], None),))
        executor.ref.tell(Finished([5], [ended(claims[task_id])]))
        scene.wait_status(task_id, TaskState.COMPLETED)


# ---- stop


def test_stop_waits_for_what_runs_gives_back_the_rest_and_ends_with_zero(scene: Scene) -> None:
    running, unstarted = scene.put_many(2)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=2)
    executor.start(running)
    executor.wait_for(unstarted)
    claimer.tell(control.Stop(drain_s=20.0, grace_s=5.0))
    assert executor.heard.wait_type(Stopping) == Stopping()
    executor.give_back()
    assert scene.wait_status(unstarted, TaskState.PENDING).attempts == 0
    late = scene.put()
    claimer.ping()
    assert claimer.process.poll() is None and not executor.heard.of(CancelAll)
    executor.finish(running)
    assert claimer.wait_exit() == 0
    assert scene.view(running).status is TaskState.COMPLETED
    assert scene.view(late).status is TaskState.PENDING
    assert claimer.said.of(control.Report), "nobody is told how far the drain is"


def test_at_the_deadline_attempts_are_cancelled_and_after_the_grace_handed_back_uncharged(scene: Scene) -> None:
    obeys, stuck = scene.put_many(2)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=2)
    for task_id in (obeys, stuck):
        executor.start(task_id)
    stopped_s = time.monotonic()
    claimer.tell(control.Stop(drain_s=0.4, grace_s=0.5))
    assert executor.heard.wait_type(CancelAll) == CancelAll("stop")
    assert time.monotonic() - stopped_s >= 0.4
    executor.finish(obeys, Outcome.INTERRUPTED, error="interrupted")
    assert claimer.wait_exit() == 0
    assert 0.9 <= time.monotonic() - stopped_s < 15.0
    for task_id in (obeys, stuck):
        view = scene.view(task_id)
        assert (view.status, view.attempts) == (TaskState.PENDING, 0)
        assert scene.outcomes(task_id) == [Outcome.INTERRUPTED]
    assert set(claimer.wait_log("drain.timeout")["fields"]["task_ids"].strip("[]").replace("'", "").split(", ")) == {obeys, stuck}


def test_a_second_stop_with_less_time_cuts_the_first_short(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.start(task_id)
    claimer.tell(control.Stop(drain_s=60.0, grace_s=60.0))
    executor.heard.wait_type(Stopping)
    claimer.tell(control.Stop(drain_s=0.0, grace_s=0.2))
    assert executor.heard.wait_type(CancelAll) == CancelAll("stop")
    assert claimer.wait_exit() == 0
    assert scene.view(task_id).status is TaskState.PENDING
    assert len(executor.heard.of(Stopping)) == 1


def test_an_idle_claimer_stops_at_once(scene: Scene) -> None:
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=4)
    claimer.wait_ready()
    stopped_s = time.monotonic()
    claimer.tell(control.Stop(drain_s=60.0, grace_s=60.0))
    assert claimer.wait_exit() == 0
    assert time.monotonic() - stopped_s < 15.0


def test_an_executor_that_dies_during_a_stop_does_not_hold_it_up(scene: Scene) -> None:
    task_id = scene.put()
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello()
    executor.start(task_id)
    claimer.tell(control.Stop(drain_s=60.0, grace_s=60.0))
    executor.heard.wait_type(Stopping)
    executor.die()
    assert claimer.wait_exit() == 0
    assert scene.outcomes(task_id) == [Outcome.CRASHED]


def test_an_executor_that_comes_during_a_stop_gets_no_work(scene: Scene) -> None:
    scene.put_many(2)
    claimer = scene.claimer()
    executor = scene.executor(claimer)
    executor.hello(slots=1)
    (running,) = eventually(lambda: list(executor.claims()), "one")
    executor.start(running)
    claimer.tell(control.Stop(drain_s=60.0, grace_s=60.0))
    executor.heard.wait_type(Stopping)
    late = scene.executor(claimer, "executor-2")
    late.hello(slots=1)
    late.heard.wait_type(Stopping)
    assert late.heard.wait_type(Recall) == Recall(None)
    executor.finish(running)
    assert claimer.wait_exit() == 0
    assert not late.heard.of(Execute)
