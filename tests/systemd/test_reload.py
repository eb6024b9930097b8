"""Reloading: all or nothing, the command's exit status says which, and the unit is active after each."""

from __future__ import annotations

import pytest

from tests.systemd.machine import run, until
from tests.systemd.unit import HANDLERS, Unit

GATE = """
@task(type="wait_at_the_gate")
def wait_at_the_gate() -> None:
    note("waiting")
    while not os.path.exists(os.path.join(os.environ["STATE_DIRECTORY"], "open")):
        threading.Event().wait(0.05)
    note("through")
"""


def executors(unit: Unit) -> set[int]:
    return {pid for name, pid in unit.actors().items() if name.startswith("executor")}


def others(unit: Unit) -> dict[str, int]:
    return {name: pid for name, pid in unit.actors().items() if not name.startswith("executor")}


def test_new_code_and_settings_are_in_service_when_reload_returns(unit: Unit) -> None:
    unit.start()
    old, kept = executors(unit), others(unit)
    unit.write_code(HANDLERS + '\n@task(type="new")\ndef new() -> None:\n    note("new code")\n')
    unit.configure(executors=3, worker_pool_size=6)
    unit.systemctl("reload").ok()
    assert unit.state_of() == "active"
    assert unit.show("StatusText").startswith("ready")
    unit.enqueue("new")
    unit.noted("new code")
    until("the old executors have gone", lambda: not executors(unit) & old)
    assert len(executors(unit)) == 3
    assert others(unit) == kept
    (finished,) = unit.events("service.reload_finished")
    assert "executors" in finished["MESSAGE"] or "executors" in finished.get("SHIFTBOSS_CHANGES", "")


def test_a_running_task_is_not_disturbed(unit: Unit) -> None:
    unit.write_code(HANDLERS + GATE)
    unit.configure(shutdown_timeout="60s")
    unit.start().enqueue("wait_at_the_gate")
    unit.noted("waiting")
    unit.systemctl("reload").ok()
    assert unit.ledger() == ["waiting"]
    assert len(executors(unit)) == 3  # the old one that still works, and two new ones
    (unit.state / "open").touch()
    until("only the new ones are left", lambda: len(executors(unit)) == 2)
    assert unit.ledger() == ["waiting", "through"]


@pytest.mark.parametrize("mistake", ["configuration", "import", "hanging_import"])
def test_what_is_wrong_changes_nothing_and_is_reported(unit: Unit, mistake: str) -> None:
    unit.configure(start_timeout="4s")
    unit.start()
    before = unit.actors()
    match mistake:
        case "configuration":
            unit.configure(start_timeout="4s", worker_pool_size=0)
            said = "worker_pool_size = 0"
        case "import":
            unit.write_code(HANDLERS + "\nimport no_such_module\n")
            said = "no_such_module"
        case _:
            unit.write_code(HANDLERS + "\nthreading.Event().wait()\n")
            said = "start_timeout"
    assert unit.systemctl("reload").code != 0
    assert unit.state_of() == "active"
    assert unit.show("StatusText").startswith("ready")
    assert unit.actors() == before
    (failed,) = unit.events("service.reload_failed")
    assert failed["PRIORITY"] == "3"
    assert said in unit.log()

    unit.write_code(HANDLERS)
    unit.configure(start_timeout="4s")
    unit.enqueue("say", "text=still there")
    unit.noted("still there")
    unit.systemctl("reload").ok()
    assert unit.state_of() == "active"


def test_hup_does_the_same(unit: Unit) -> None:
    unit.start()
    old = executors(unit)
    unit.kill("HUP")
    unit.saw("service.reload_finished")
    until("the old executors have gone", lambda: len(executors(unit)) == 2 and not executors(unit) & old)
    assert unit.state_of() == "active"


def test_a_service_that_is_down_cannot_be_reloaded(unit: Unit) -> None:
    assert unit.systemctl("reload").code != 0
    assert run("systemctl", "is-active", unit.service).out.strip() == "inactive"
