"""journald that is stopped in the middle of the work: tasks run as fast as before, and afterwards the log says what it lacks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.systemd.machine import run, until
from tests.systemd.unit import HANDLERS, Unit

TASKS = 1_000
LINES = 5  # of each task: together more than the processes keep for a journald that does not read
CODE = f"""
import logging, time

@task(type="prepare")
def prepare(kind: str) -> None:
    for _ in range({TASKS}):
        tick.using(queue="ticks").enqueue(kind=kind)
    note("prepared " + kind)

@task(type="tick")
def tick(kind: str) -> None:
    for number in range({LINES} - 1):
        print("line", number, "of a task of some length, as people write them")
    logging.getLogger("app").info("done")
    note(f"tick {{kind}} {{time.monotonic()}}")
"""


@contextmanager
def stalled_journald() -> Iterator[None]:
    pid = int(run("systemctl", "show", "--property=MainPID", "--value", "systemd-journald").ok().out)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def prepared(unit: Unit, kind: str) -> None:
    """A thousand tasks wait in a queue that is paused."""
    unit.shiftboss("queues", "pause", "ticks").ok()
    unit.enqueue("prepare", f"kind={kind}")
    unit.noted(f"prepared {kind}")


def seconds_for_all(unit: Unit, kind: str) -> float:
    """From the first to the last of them, by the handlers' own clock."""
    unit.shiftboss("queues", "resume", "ticks").ok()

    def all_of_them() -> list[float]:
        times = [float(line.split()[2]) for line in unit.ledger() if line.startswith(f"tick {kind} ")]
        return times if len(times) == TASKS else []

    times = until(f"{TASKS} ticks", all_of_them, timeout_s=60.0)
    return float(max(times) - min(times))


def test_a_thousand_tasks_run_as_fast_while_journald_is_stalled_and_the_loss_is_counted(unit: Unit) -> None:
    unit.write_code(HANDLERS + CODE)
    unit.drop_in("[Service]\nWatchdogSec=2\nLogRateLimitIntervalSec=0\n")
    unit.start()
    normal_s, stalled_s = [], []
    for turn in "ab":
        prepared(unit, f"normal-{turn}")
        normal_s.append(seconds_for_all(unit, f"normal-{turn}"))
        prepared(unit, f"stalled-{turn}")
        with stalled_journald():
            stalled_s.append(seconds_for_all(unit, f"stalled-{turn}"))
            unit.enqueue("hold", "seconds=3")  # longer than the watchdog waits
            until("it has run", lambda turn=turn: unit.ledger().count("E 1") == "ab".index(turn) + 1)
        unit.saw("journal.dropped", "ab".index(turn) + 1)
    print("seconds for a thousand tasks:", normal_s, "and with journald stalled:", stalled_s)
    assert min(stalled_s) <= min(normal_s) * 1.5, (normal_s, stalled_s)
    assert (unit.state_of(), unit.show("NRestarts")) == ("active", "0")

    def accounted() -> int:
        dropped = sum(int(entry["SHIFTBOSS_COUNT"]) for entry in unit.events("journal.dropped"))
        lines = sum(1 for entry in unit.events() if entry.get("TASK_TYPE") == "tick")
        return dropped and lines + dropped

    total = 2 * 2 * TASKS * LINES
    until(f"{total} lines are in the journal or counted", lambda: accounted() >= total)
