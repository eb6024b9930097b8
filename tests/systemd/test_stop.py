"""Stopping: what runs may finish, however short systemd's own patience is; and the end is the end."""

from __future__ import annotations

from tests.systemd.machine import alive, run, until
from tests.systemd.unit import Unit


def ended_well(unit: Unit) -> bool:
    return (unit.state_of(), unit.show("Result"), unit.show("ExecMainStatus")) == ("inactive", "success", "0")


def test_an_idle_worker_stops_in_under_a_second(unit: Unit) -> None:
    durations = []
    for _ in range(3):
        unit.start()
        durations.append(unit.systemctl("stop").ok().duration_s)
        assert ended_well(unit)
    assert min(durations) < 1.0


def test_a_drain_longer_than_timeoutstopsec_completes(unit: Unit) -> None:
    unit.configure(shutdown_timeout="15s")
    unit.drop_in("[Service]\nTimeoutStopSec=2\n")
    unit.start().enqueue("hold", "seconds=5")
    unit.noted("S 1")
    stopped = unit.systemctl("stop").ok()
    assert stopped.duration_s > 3.0
    assert ended_well(unit), unit.show("Result")
    assert unit.ledger() == ["S 1", "E 1"]


def test_term_to_all_processes_leaves_the_running_task_alone(unit: Unit) -> None:
    unit.drop_in("[Service]\nKillMode=control-group\n")
    unit.start().enqueue("hold", "seconds=2")
    unit.noted("S 1")
    unit.kill("TERM", who="all")
    until("it has drained", lambda: unit.state_of() == "inactive")
    assert ended_well(unit)
    assert unit.ledger() == ["S 1", "E 1"]


def test_a_stop_under_killmode_control_group_lets_the_task_complete(unit: Unit) -> None:
    unit.drop_in("[Service]\nKillMode=control-group\n")
    unit.start().enqueue("hold", "seconds=2")
    unit.noted("S 1")
    unit.systemctl("stop").ok()
    assert ended_well(unit)
    assert unit.ledger() == ["S 1", "E 1"]


def test_quit_hands_running_work_back_unharmed_and_ends_with_0(unit: Unit) -> None:
    unit.start()
    task = unit.enqueue("hold", "seconds=60")
    unit.noted("S 1")
    unit.kill("QUIT")
    until("it has ended", lambda: unit.state_of() == "inactive")
    assert ended_well(unit)
    shown = unit.task(task)
    assert (shown["status"], shown["attempts"]) == ("pending", 0)


def test_status_and_reload_while_it_drains(unit: Unit) -> None:
    unit.start().enqueue("hold", "seconds=3")
    unit.noted("S 1")
    run("systemctl", "stop", "--no-block", unit.service).ok()
    until("it drains", lambda: unit.state_of() == "deactivating")
    until("the status says so", lambda: unit.show("StatusText").startswith("stopping"))
    assert unit.systemctl("reload").code != 0
    assert unit.shiftboss("status").ok().duration_s < 10.0
    until("it has drained", lambda: unit.state_of() == "inactive")
    assert unit.ledger() == ["S 1", "E 1"]


def test_nothing_is_left_of_a_task_that_leaves_processes_behind(unit: Unit) -> None:
    unit.write_code(
        unit.code.read_text()
        + '\n@task(type="leave")\ndef leave() -> None:\n    import subprocess\n'
        + '    note(str(subprocess.Popen(["sleep", "300"], start_new_session=True).pid))\n'
    )
    unit.start().enqueue("leave")
    until("it has left one", unit.ledger)
    (pid,) = map(int, unit.ledger())
    assert alive(pid)
    unit.systemctl("stop").ok()
    assert ended_well(unit)
    assert not alive(pid)
