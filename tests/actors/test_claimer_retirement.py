"""What a claimer does when executors are replaced by others: by a reload, or because they are worn out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from actor_harness import eventually
from claimer_harness import Scene, info
from fake_peers import FakeExecutor, ended
from process_harness import ActorProcess

from shiftboss import control
from shiftboss.actors.messages import CancelAll, CancelAttempt, Execute, Finished, Held, Recall, Stopping
from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import TaskFilter

OLD, NEW, BOTH = "mail:old", "mail:new", "mail:send"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path) as made:
        yield made


def retire(claimer: ActorProcess, executor: FakeExecutor, drain_s: float = 30.0, grace_s: float = 5.0) -> None:
    order = control.PeerRetiring(peer=executor.name, incarnation=executor.incarnation, drain_s=drain_s, grace_s=grace_s)
    claimer.tell(order)


def released(executor: FakeExecutor) -> control.PeerReleased:
    return control.PeerReleased(peer=executor.name, incarnation=executor.incarnation)


# ---- the old one


def test_a_retiring_executor_finishes_what_runs_and_its_successor_gets_the_rest(scene: Scene) -> None:
    claimer = scene.claimer()
    old = scene.executor(claimer)
    running, (waiting,) = scene.busy(old)
    new = scene.executor(claimer, "executor-2")
    new.hello(slots=1)
    retire(claimer, old)
    old.give_back()
    assert new.wait_for(waiting)[1].fence == 1, "handed over, not claimed anew"
    later = scene.put()
    new.start(waiting)
    new.finish(waiting)
    new.wait_for(later)
    claimer.ping()
    assert not claimer.said.of(control.PeerReleased), "it still runs a task"
    old.finish(running)
    assert claimer.said.wait_type(control.PeerReleased) == released(old)
    assert scene.wait_status(running, TaskState.COMPLETED).attempts == 1
    assert later not in old.claims()
    assert not old.heard.of(CancelAll)


def test_an_idle_one_is_released_at_once_and_once(scene: Scene) -> None:
    claimer = scene.claimer()
    old, new = scene.executor(claimer), scene.executor(claimer, "executor-2")
    for executor in (old, new):
        executor.hello()
    retire(claimer, old)
    assert claimer.said.wait_type(control.PeerReleased) == released(old)
    new.start(task_id := scene.put())
    new.finish(task_id)
    scene.wait_status(task_id, TaskState.COMPLETED)
    old.die(signal=None, exit_code=0, reason="stop")
    claimer.said.wait_type(control.PeerBuried)
    assert claimer.said.of(control.PeerReleased) == [released(old)]
    assert claimer.board.get("capacity") == 1


def test_the_old_one_is_given_work_until_its_successors_can_take_it(scene: Scene) -> None:
    claimer = scene.claimer()
    old = scene.executor(claimer)
    old.hello(slots=1)  # fewer than its successor, so that the capacity tells whose they are
    new = scene.executor(claimer, "executor-2")
    claimer.ping()
    told_s = time.monotonic()
    retire(claimer, old)
    meanwhile = scene.put()
    claimer.ping()
    if time.monotonic() - told_s < 0.8:  # else the machine is too busy to tell
        assert old.wait_for(meanwhile), "claiming paused"
    new.hello(slots=2)
    eventually(lambda: claimer.board.get("capacity") == 2, "the successor's slots alone")
    new.wait_for(scene.put())


def test_a_successor_that_never_speaks_does_not_hold_it_up(scene: Scene) -> None:
    claimer = scene.claimer()
    old, _new = scene.executor(claimer), scene.executor(claimer, "executor-2")
    old.hello()
    retire(claimer, old)
    assert claimer.said.wait_type(control.PeerReleased, timeout_s=10.0) == released(old)


def test_what_runs_at_the_deadline_is_cancelled_then_handed_back_before_it_is_released(scene: Scene) -> None:
    claimer = scene.claimer()
    old, new = scene.executor(claimer), scene.executor(claimer, "executor-2")
    running, _ = scene.busy(old, waiting=0)
    new.hello(slots=1)
    told_s = time.monotonic()
    retire(claimer, old, drain_s=0.3, grace_s=0.4)
    assert old.heard.wait_type(CancelAll) == CancelAll("stop")
    assert time.monotonic() - told_s >= 0.3
    _cell, again = new.wait_for(running)
    assert time.monotonic() - told_s >= 0.7
    assert (again.fence, again.attempt) == (2, 1), "handed back fenced, and not charged"
    assert scene.outcomes(running) == [Outcome.INTERRUPTED]
    assert claimer.said.wait_type(control.PeerReleased) == released(old)
    old.finish(running)  # too late: its successor runs it
    new.start(running)
    new.finish(running)
    assert scene.wait_status(running, TaskState.COMPLETED).attempts == 1
    assert not old.heard.of(Stopping)


def test_asked_again_with_less_time_it_is_cut_short(scene: Scene) -> None:
    claimer = scene.claimer()
    old = scene.executor(claimer)
    running, _ = scene.busy(old, waiting=0)
    retire(claimer, old, drain_s=60.0, grace_s=60.0)
    claimer.ping()
    retire(claimer, old, drain_s=0.0, grace_s=0.2)
    assert claimer.said.wait_type(control.PeerReleased, timeout_s=10.0) == released(old)
    assert scene.view(running).status is TaskState.PENDING


def test_one_that_has_not_said_hello_yet_is_retired_with_what_it_then_says_it_holds(scene: Scene) -> None:
    """A new claimer is told of the retirement before the old executor has spoken."""
    first = scene.claimer()
    before = scene.executor(first)
    before.hello()
    running = scene.put()
    claim = before.start(running)
    first.process.kill()
    first.wait_exit()
    claimer = scene.claimer()
    old = scene.executor(claimer)
    old.table.start(0, running, claim.fence)
    retire(claimer, old)
    claimer.ping()
    assert not claimer.said.of(control.PeerReleased)
    old.hello(held=(Held(0, claim, None),))
    old.heard.wait_type(Recall)
    later = scene.put()
    claimer.ping()
    assert not claimer.said.of(control.PeerReleased)
    old.ref.tell(Finished([0], [ended(claim)]))
    assert claimer.said.wait_type(control.PeerReleased) == released(old)
    assert scene.view(running).status is TaskState.COMPLETED
    assert later not in old.claims()


def test_one_that_is_not_there_any_more_is_released_at_once(scene: Scene) -> None:
    claimer = scene.claimer()
    gone = scene.executor(claimer)
    gone.hello()
    gone.die()
    claimer.said.wait_type(control.PeerBuried)
    retire(claimer, gone)
    assert claimer.said.wait_type(control.PeerReleased) == released(gone)


def test_one_that_dies_while_it_retires_is_buried_as_always(scene: Scene) -> None:
    claimer = scene.claimer()
    old = scene.executor(claimer)
    running, _ = scene.busy(old, waiting=0)
    retire(claimer, old)
    old.heard.wait_type(Recall)
    old.die(signal="SIGSEGV")
    claimer.said.wait_type(control.PeerBuried)
    assert scene.outcomes(running) == [Outcome.CRASHED]
    assert not claimer.said.of(control.PeerReleased)


def test_a_cancel_reaches_what_a_retiring_one_still_runs(scene: Scene) -> None:
    claimer = scene.claimer()
    old = scene.executor(claimer)
    running, _ = scene.busy(old, waiting=0)
    retire(claimer, old)
    scene.store.cancel(TaskFilter(ids=[running]))
    old.heard.wait_type(CancelAttempt)
    old.finish(running, Outcome.CANCELLED, error="cancelled")
    assert claimer.said.wait_type(control.PeerReleased) == released(old)


def test_a_stop_takes_a_retiring_one_along(scene: Scene) -> None:
    claimer = scene.claimer()
    old = scene.executor(claimer)
    running, _ = scene.busy(old, waiting=0)
    retire(claimer, old, drain_s=60.0, grace_s=60.0)
    claimer.tell(control.Stop(drain_s=0.0, grace_s=0.1))
    assert claimer.wait_exit() == 0
    assert scene.outcomes(running) == [Outcome.INTERRUPTED]


# ---- other types


def test_a_type_that_only_the_old_ones_knew_is_not_claimed_any_more(scene: Scene) -> None:
    claimer = scene.claimer()
    old, new = scene.executor(claimer), scene.executor(claimer, "executor-2")
    old.hello(types=(info(OLD), info(BOTH)))
    new.hello(types=(info(NEW), info(BOTH)))
    retire(claimer, old)
    claimer.said.wait_type(control.PeerReleased)
    removed, kept = scene.put(OLD), scene.put(BOTH)
    new.wait_for(kept)
    assert scene.view(removed).status is TaskState.PENDING
    assert removed not in old.claims() | new.claims()


def test_while_old_and_new_code_run_side_by_side_each_gets_only_what_it_knows(scene: Scene) -> None:
    claimer = scene.claimer()
    old, new = scene.executor(claimer), scene.executor(claimer, "executor-2")
    old.hello(slots=4, types=(info(OLD), info(BOTH)))
    new.hello(slots=4, types=(info(NEW), info(BOTH)))
    tasks = {type_: scene.put_many(3, type_) for type_ in (OLD, NEW, BOTH)}
    everything = {task_id for ids in tasks.values() for task_id in ids}

    def done() -> bool:
        for executor in (old, new):
            for task_id in executor.claims():
                if task_id not in finished:
                    executor.start(task_id)
                    executor.finish(task_id)
                    finished.add(task_id)
        return finished == everything

    finished: set[str] = set()
    eventually(done, "all tasks ran")
    for executor, foreign in ((old, NEW), (new, OLD)):
        sent = [claim.type for message in executor.heard.of(Execute) for claim in message.claims]
        assert foreign not in sent
    assert all(scene.wait_status(task_id, TaskState.COMPLETED).attempts == 1 for task_id in everything)


def test_what_only_a_full_executor_knows_is_not_claimed_for_another_one(scene: Scene) -> None:
    """It would be claimed and given back in circles."""
    claimer = scene.claimer()
    old, new = scene.executor(claimer, cells=64), scene.executor(claimer, "executor-2", cells=1)
    new.hello(slots=1, types=(info(NEW),))
    tasks = scene.put_many(8, NEW)
    eventually(lambda: len(new.claims()) == 1, "it is full")
    old.hello(slots=4, types=(info(OLD),))
    for _ in range(3):
        old.start(other := scene.put(OLD))
        old.finish(other)
        scene.wait_status(other, TaskState.COMPLETED)
    waiting = [task_id for task_id in tasks if task_id not in new.claims()]
    assert waiting and all(scene.view(task_id).fence == 0 for task_id in waiting)


def test_a_task_given_back_goes_to_no_executor_that_does_not_know_it(scene: Scene) -> None:
    claimer = scene.claimer()
    old = scene.executor(claimer)
    scene.put_many(2, OLD)
    old.hello(slots=2, types=(info(OLD),))
    first, second = eventually(lambda: list(old.claims()) if len(old.claims()) == 2 else None, "both")
    old.start(first)
    new = scene.executor(claimer, "executor-2")
    new.hello(slots=2, types=(info(NEW),))
    claimer.ping()
    retire(claimer, old)
    old.give_back()
    scene.wait_status(second, TaskState.PENDING)
    assert not new.claims()
