"""Starting: ready means ready, and what cannot start says why with its exit code."""

from __future__ import annotations

from tests.systemd.machine import run, until
from tests.systemd.unit import HANDLERS, Unit


def test_systemctl_start_returns_when_every_part_is_ready(unit: Unit) -> None:
    unit.start()
    assert unit.state_of() == "active"
    assert set(unit.actors()) == {"claimer", "executor-1", "executor-2", "gateway", "heartbeat", "leader"}
    (ready,) = unit.events("service.ready")
    active_us = int(unit.show("ActiveEnterTimestampMonotonic"))
    assert active_us >= int(ready["__MONOTONIC_TIMESTAMP"]) - 50_000  # journald may have stamped the line a little late
    assert unit.show("StatusText").startswith("ready")


def test_a_task_runs_in_the_installed_service(unit: Unit) -> None:
    unit.start().enqueue("say", "text=hello")
    unit.noted("hello")


def test_bad_configuration_ends_with_78_and_is_not_tried_again(unit: Unit) -> None:
    unit.configure(worker_pool_size=0)
    assert unit.systemctl("start").code != 0
    assert (unit.state_of(), unit.show("ExecMainStatus"), unit.show("NRestarts")) == ("failed", "78", "0")
    assert "worker_pool_size = 0" in unit.log()


def test_code_that_cannot_be_imported_ends_with_70(unit: Unit) -> None:
    unit.write_code(HANDLERS + "\nimport no_such_module\n")
    unit.drop_in("[Service]\nRestart=no\n")
    assert unit.systemctl("start").code != 0
    assert (unit.state_of(), unit.show("ExecMainStatus")) == ("failed", "70")
    log = unit.log()
    assert "No module named 'no_such_module'" in log


def test_a_database_that_is_away_is_waited_for_and_then_the_service_ends_with_75(unit: Unit) -> None:
    unit.configure(database_url="postgresql://nobody@127.0.0.1:1/nothing", start_timeout="6s")
    unit.drop_in("[Service]\nRestart=no\n")
    run("systemctl", "start", "--no-block", unit.service).ok()
    until("the status says what it waits for", lambda: "waiting" in unit.show("StatusText"))
    assert unit.state_of() == "activating"
    until("it gives up", lambda: unit.state_of() == "failed")
    assert unit.show("ExecMainStatus") == "75"


def test_a_shell_that_execs_it_is_the_same(unit: Unit) -> None:
    unit.drop_in("[Service]\nExecStart=\nExecStart=/bin/bash -c 'exec /opt/shiftboss/venv/bin/shiftboss start --env %i'\n")
    unit.start()
    assert unit.state_of() == "active"
    assert unit.events("service.ready")


def test_what_cannot_start_ends_as_failed_and_can_be_started_again(unit: Unit) -> None:
    unit.write_code("raise RuntimeError('broken deploy')\n")
    unit.drop_in("[Unit]\nStartLimitBurst=2\n[Service]\nRestartSec=50ms\n")
    assert unit.systemctl("start").code != 0
    until("systemd gives up", lambda: "Start request repeated too quickly" in unit.log())
    until("failed", lambda: unit.state_of() == "failed")
    unit.write_code(HANDLERS)
    assert unit.systemctl("start").code != 0  # still over the limit
    unit.systemctl("reset-failed").ok()
    unit.start()
    assert unit.state_of() == "active"
