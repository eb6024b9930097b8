"""Failures that other task queues and process managers have had in production, each as what must hold here."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import msgspec
import pytest

from shiftboss import commands
from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import Store, TaskFilter
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, is_running, until

pytestmark = pytest.mark.long("postgres")  # on the other one every day
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def states(store: Store, ids: list[str]) -> set[TaskState]:
    return {view.status for view in map(store.get, ids) if view is not None}


def test_term_to_actors_at_any_point_of_a_claim_or_a_finish_changes_nothing(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    dice = random.Random(4711)
    with Worker(database_url, tmp_path, worker_pool_size=4, executors=2) as worker:
        worker.ready()
        before = worker.actors()
        ids = enqueue(store, [handlers.short.prepare(1) for _ in range(1500)])
        targets = [pid for name, pid in before.items() if name.startswith(("executor", "claimer"))]
        for _ in range(500):
            os.kill(dice.choice(targets), dice.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP]))
            handlers.pause(dice.uniform(0, 0.004))
        until("all over", lambda: states(store, ids) == {TaskState.COMPLETED})
        assert worker.actors() == before, "an actor obeyed a signal that was meant for its supervisor"
        assert max(worker.starts().values()) == 1
        assert len(worker.ends()) == len(ids)
        assert worker.stop() == 0


def test_term_to_every_process_of_the_service_still_lets_a_running_task_finish(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        (one,) = enqueue(store, [handlers.long.prepare(1.0)])
        until("started", lambda: worker.starts())
        worker.signal_all(signal.SIGTERM)
        assert worker.process.wait(10) == 0
    assert states(store, [one]) == {TaskState.COMPLETED}


@SQLITE
def test_what_a_handler_starts_can_be_ended_and_speaks_to_no_manager(
    database_url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        (one,) = enqueue(store, [handlers.surroundings.prepare()])
        until("over", lambda: states(store, [one]) == {TaskState.COMPLETED})
        view = store.get(one)
        assert view is not None
        found = msgspec.json.decode(view.result)
        assert found["blocked"] == []
        assert int(str(found["ignored_in_child"]), 16) & (1 << (signal.SIGTERM - 1)) == 0
        assert found["terminated"] == -signal.SIGTERM
        assert found["for_systemd"] == []
        assert worker.stop() == 0


def test_a_drain_longer_than_the_worker_timeout_keeps_its_tasks(database_url: str, store: Store, tmp_path: Path) -> None:
    times = {"heartbeat_interval_s": 0.5, "worker_timeout_s": 1.5, "leader_term_s": 3.0, "distributed_mode": True}
    with Worker(database_url, tmp_path, "one", shutdown_timeout_s=30.0, **times) as one:
        one.ready()
        ids = enqueue(store, [handlers.long.prepare(5.0) for _ in range(2)])
        until("started", lambda: len(one.starts()) == 2)
        with Worker(database_url, tmp_path, "two", **times) as two:
            two.ready()
            assert one.stop() == 0  # long enough for the other to have recovered them three times over
            assert states(store, ids) == {TaskState.COMPLETED}
            assert len(two.starts()) == 2, "the other worker ran one of them, too"
            assert two.stop() == 0


def test_a_cancel_during_a_drain_ends_the_attempt_and_the_drain_early(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, shutdown_timeout_s=60.0, cancel_grace_s=1.0) as worker:
        worker.ready()
        (one,) = enqueue(store, [handlers.long_async.prepare(60)])
        until("started", lambda: worker.starts())
        worker.process.send_signal(signal.SIGTERM)
        until("stopping", lambda: worker.lines("service.stopping"))
        store.cancel(TaskFilter(ids=(one,)))
        began_s = time.monotonic()
        assert worker.process.wait(15) == 0
        assert time.monotonic() - began_s < 10
    assert states(store, [one]) == {TaskState.CANCELLED}


@SQLITE
def test_many_queues_share_one_deadline_and_nothing_starts_after_it_was_asked_for(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    with Worker(database_url, tmp_path, worker_pool_size=10, executors=2, shutdown_timeout_s=1.0, cancel_grace_s=0.5) as worker:
        worker.ready()
        ids = enqueue(store, [handlers.long.using(queue=f"q{n % 10}").prepare(60) for n in range(40)])
        until("ten started", lambda: len(worker.starts()) == 10)
        began_s = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began_s < 1.0 + 0.5 + 1.5
        assert len(worker.starts()) == 10
    assert states(store, ids) == {TaskState.PENDING}


@SQLITE
def test_a_daemon_that_a_task_leaves_behind_neither_holds_up_the_stop_nor_outlives_it(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    with Worker(database_url, tmp_path) as worker:
        worker.ready()
        enqueue(store, [handlers.daemon.prepare(str(file))])
        pid = int(until("daemon", lambda: file.exists() and file.read_text()))
        began_s = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began_s < 3.0
        until("daemon gone", lambda: not is_running(pid), 2.0)
        assert worker.lines("orphan.reaped")


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_executor_is_replaced_within_two_seconds(busy: bool, database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, executors=1, worker_pool_size=2) as worker:
        worker.ready()
        ids = enqueue(store, [handlers.long.prepare(0.6)]) if busy else []
        until("started", lambda: len(worker.starts()) == len(ids))
        old = worker.actors()["executor-1"]
        began_s = time.monotonic()
        os.kill(old, signal.SIGKILL)
        until("replaced", lambda: worker.status().executors_ready == 1 and worker.actors().get("executor-1") not in (None, old))
        assert time.monotonic() - began_s < 2.0
        assert "by SIGKILL" in next(one.last_end for one in worker.status().actors if one.name == "executor-1")
        for one in ids:
            until("run again", lambda one=one: states(store, [one]) == {TaskState.COMPLETED})
            assert [attempt.outcome for attempt in store.attempts(one)] == [Outcome.CRASHED]
        lost = worker.lines("attempts.lost")
        assert [one in str(line["fields"]["task_ids"]) for line in lost for one in ids] == [True] * len(ids)
        assert worker.stop() == 0


@SQLITE
def test_a_stopped_executor_is_not_taken_for_dead_and_its_timeouts_still_hold(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    with Worker(
        database_url, tmp_path, executors=1, worker_pool_size=2, ping_interval_s=0.2, ping_timeout_s=0.6, cancel_grace_s=0.5
    ) as worker:
        worker.ready()
        (calm,) = enqueue(store, [handlers.long.prepare(0.1)])
        until("over", lambda: states(store, [calm]) == {TaskState.COMPLETED})
        old = worker.actors()["executor-1"]
        os.kill(old, signal.SIGSTOP)
        handlers.pause(2.0)
        assert worker.actors()["executor-1"] == old
        os.kill(old, signal.SIGCONT)
        (one,) = enqueue(store, [handlers.polite.using(timeout=0.5).prepare()])
        until("started", lambda: len(worker.starts()) == 2)
        os.kill(old, signal.SIGSTOP)
        until("its timeout has replaced the process", lambda: worker.actors().get("executor-1") not in (None, old), 10)
        # The new process may stand before the old one's verdict is stored.
        until("told", lambda: store.attempts(one))
        assert store.attempts(one)[0].outcome is Outcome.TIMEOUT
        assert worker.stop() == 0


@SQLITE
def test_busy_executors_that_answer_nothing_are_left_alone(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(
        database_url,
        tmp_path,
        executors=4,
        worker_pool_size=4,
        ping_interval_s=0.2,
        ping_timeout_s=0.5,
        worker_timeout_s=3.0,
        heartbeat_interval_s=0.5,
    ) as worker:
        worker.ready()
        before = worker.actors()
        ids = enqueue(store, [handlers.spin.prepare(6.0) for _ in range(4)])
        until("all over", lambda: states(store, ids) == {TaskState.COMPLETED})
        assert worker.actors() == before
        assert not worker.lines("worker.fenced")
        assert set(worker.starts().values()) == {1}
        assert worker.stop() == 0


@SQLITE
def test_code_that_does_not_import_any_more_leaves_the_old_executors_at_work(
    database_url: str, store: Store, tmp_path: Path
) -> None:
    with Worker(database_url, tmp_path, executors=2) as worker:
        worker.ready()
        before = worker.actors()
        done = worker.reload(imports=("tests.acceptance.handlers", "no_such_module"))
        assert (done.ok, done.code) == (False, 78)
        assert "no_such_module" in done.text
        assert worker.actors() == before
        (one,) = enqueue(store, [handlers.short.prepare(1)])
        until("over", lambda: states(store, [one]) == {TaskState.COMPLETED})
        status = worker.status()
        assert (status.phase, status.last_reload_ok) == ("ready", False)
        assert worker.reload(imports=("tests.acceptance.handlers",)).ok
        assert worker.stop() == 0


@SQLITE
def test_control_answers_within_a_tenth_of_a_second_during_a_drain(database_url: str, store: Store, tmp_path: Path) -> None:
    with Worker(database_url, tmp_path, executors=2, shutdown_timeout_s=60.0) as worker:
        worker.ready()
        enqueue(store, [handlers.long.prepare(20) for _ in range(2)])
        until("started", lambda: len(worker.starts()) == 2)
        assert worker.ask(commands.Drain(wait=False)).ok
        worker.process.send_signal(signal.SIGHUP)
        worker.process.send_signal(signal.SIGHUP)
        worker.process.send_signal(signal.SIGTTIN)
        took_s = []
        for _ in range(20):
            began_s = time.monotonic()
            worker.status()
            took_s.append(time.monotonic() - began_s)
            handlers.pause(0.05)
        assert sorted(took_s)[-3] < 0.1, took_s  # two may have met another program of this machine
        retiring = until("the old ones were told", lambda: [a for a in worker.status().actors if a.state == "retiring"])
        assert len({one.name for one in retiring}) == len(retiring)
        worker.process.send_signal(signal.SIGQUIT)
        assert worker.process.wait(15) == 0


@SQLITE
@pytest.mark.parametrize("after_ms", [0, 30, 60, 120, 250])
def test_no_process_outlives_a_supervisor_that_is_killed_while_it_starts(
    after_ms: int, database_url: str, tmp_path: Path
) -> None:
    with Worker(database_url, tmp_path) as worker:
        until("children", lambda: worker.actors())
        handlers.pause(after_ms / 1000)
        worker.actors()
        session = worker.process.pid
        worker.process.kill()
        worker.process.wait()
        until("all processes gone", lambda: not worker.left_over() and not orphans_of(session), 2.0)


def orphans_of(parent: int) -> list[int]:
    """Actors whose environment names this supervisor."""
    wanted = f"SHIFTBOSS_PARENT_PID={parent}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if wanted in (process / "environ").read_bytes().split(b"\0") and is_running(int(process.name)):
                    found.append(int(process.name))
            except OSError:
                continue
    return found
