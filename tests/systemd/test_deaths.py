"""Whatever is killed, the service is there again, and its tasks with it."""

from __future__ import annotations

import os
import signal

from tests.systemd.machine import alive, until
from tests.systemd.unit import Unit


def test_each_actor_can_be_killed_and_the_unit_stays_active(unit: Unit) -> None:
    unit.start().saw("actor.ready", 6)  # the leader may be later than the service
    main = unit.main_pid
    for number, (name, pid) in enumerate(sorted(unit.actors().items()), start=1):
        os.kill(pid, signal.SIGKILL)
        unit.saw("actor.ready", 6 + number)
        assert unit.state_of() == "active"
        assert len(unit.actors()) == 6, name
        assert len(unit.events("actor.crashed")) == number, name
    assert (unit.main_pid, unit.show("NRestarts")) == (main, "0")
    unit.enqueue("say", "text=alive")
    unit.noted("alive")


def test_a_killed_supervisor_takes_everything_along_and_its_tasks_are_recovered(unit: Unit) -> None:
    unit.start()
    task = unit.enqueue("hold", "seconds=2")
    unit.noted("S 1")
    before = unit.pids()
    os.kill(unit.main_pid, signal.SIGKILL)
    until("started again", lambda: unit.show("NRestarts") == "1" and unit.state_of() == "active")
    assert not [pid for pid in before if alive(pid)]
    unit.completed(task)
    assert unit.ledger() == ["S 1", "S 2", "E 2"]
    assert [one["outcome"] for one in unit.task(task)["attempt_history"]] == ["lost"]


def test_a_supervisor_that_hangs_leaves_its_stacks_and_is_started_again(unit: Unit) -> None:
    unit.drop_in("[Service]\nWatchdogSec=2\nRestartSec=100ms\n")
    unit.start()
    os.kill(unit.main_pid, signal.SIGSTOP)
    until("started again", lambda: unit.show("NRestarts") == "1" and unit.state_of() == "active")
    log = unit.log()
    assert "Watchdog timeout" in log
    assert "Failed with result 'watchdog'" in log
    assert "Fatal Python error: Aborted" in log
    assert "in _turn" in log  # the line where the supervisor's loop waits


def test_a_busy_worker_feeds_the_watchdog(unit: Unit) -> None:
    unit.drop_in("[Service]\nWatchdogSec=2\n")
    unit.start().enqueue("hold", "seconds=5")
    unit.noted("E 1")
    assert (unit.state_of(), unit.show("NRestarts")) == ("active", "0")
