"""What is in the journal: fields to search by, priorities, whole tracebacks; and a journal that stands still stops nobody."""

from __future__ import annotations

import os
import signal

from tests.systemd.machine import journal, run, text_of, until
from tests.systemd.unit import HANDLERS, Unit

TALKATIVE = """
import logging, sys

@task(type="talk")
def talk() -> None:
    print("hello from print")
    print("hello from stderr", file=sys.stderr)
    logging.getLogger("some.library").warning("hello from a logger")
    note("talked")

@task(type="fail", max_attempts=1)
def fail() -> None:
    raise ValueError("two\\nlines")
"""


def test_lines_of_a_handler_carry_its_task(unit: Unit) -> None:
    unit.write_code(HANDLERS + TALKATIVE)
    unit.start()
    task = unit.enqueue("talk")
    unit.noted("talked")

    def told() -> bool:
        text = text_of(journal(f"TASK_ID={task}"))
        return all(f"hello from {source}" in text for source in ("print", "stderr", "a logger"))

    until("all three lines", told)
    for entry in journal(f"TASK_ID={task}"):
        assert (entry["TASK_TYPE"], entry["ATTEMPT"], entry["QUEUE"]) == ("talk", "1", "default")
        assert entry["_SYSTEMD_UNIT"] == unit.service


def test_an_error_is_one_entry_with_its_traceback(unit: Unit) -> None:
    unit.write_code(HANDLERS + TALKATIVE)
    unit.start()
    task = unit.enqueue("fail")
    until("a dead letter", lambda: unit.task(task)["status"] == "dead_letter")
    entries = [entry for entry in journal(f"TASK_ID={task}") if "Traceback" in text_of([entry])]
    assert len(entries) == 1
    assert "ValueError: two" in text_of(entries)


def test_priorities_say_who_has_to_care(unit: Unit) -> None:
    unit.start()
    os.kill(unit.actors()["claimer"], signal.SIGKILL)
    (crashed,) = unit.saw("actor.crashed")
    (ready,) = unit.saw("service.ready")
    assert crashed["PRIORITY"] == "3"
    assert ready["PRIORITY"] == "5"
    assert ready["SYSLOG_IDENTIFIER"] == "shiftboss"
    assert len(ready["MESSAGE_ID"]) == 32


def test_a_journal_that_stands_still_stops_neither_tasks_nor_the_watchdog(unit: Unit) -> None:
    unit.write_code(HANDLERS + TALKATIVE)
    unit.drop_in("[Service]\nWatchdogSec=3\n")
    unit.configure(log_level="debug")
    unit.start()
    journald = int(run("systemctl", "show", "--property=MainPID", "--value", "systemd-journald").ok().out)
    os.kill(journald, signal.SIGSTOP)
    try:
        for _ in range(3):
            unit.enqueue("talk")
        for number in range(3):
            unit.noted("talked", number + 1)
        unit.enqueue("hold", "seconds=4")  # longer than the watchdog waits
        unit.noted("E 1")
        assert unit.show("NRestarts") == "0"
    finally:
        os.kill(journald, signal.SIGCONT)
    assert unit.state_of() == "active"
