"""The harness itself: schedules are the same for the same seed, and each check fails on what it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import injectors, invariants, ledger, logs, preload, recovery, run, schedule, totals
from tests.chaos.invariants import Evidence
from tests.chaos.ledger import Ledger
from tests.chaos.rows import AttemptRow, Rows, TaskRow
from tests.chaos.schedule import Facts, Schedule
from tests.chaos.world import Mark

TASK = "01a00000-0000-7000-8000-000000000001"
OTHER = "01a00000-0000-7000-8000-000000000002"
# A task whose first claim failed and whose second completed it.
ROW = TaskRow(TASK, "chaos:noop", "completed", 2, 5, 2, "w-1-a", None, False, result=2)
FAILED = AttemptRow(TASK, 1, 1, "failed", "w-1-a", "OnPurpose: on purpose fence=1")
LINES = (
    f"T {TASK}",
    f"A {TASK}",
    f"S {TASK} 1 1.0 w-1-a",
    f"E {TASK} 1 1.1 failed",
    f"S {TASK} 2 1.2 w-1-a",
    f"E {TASK} 2 1.3 ok",
)
VERDICTS = [("task.failed", TASK, 1, "failed"), ("task.fenced", TASK, 7, "success"), ("task.fenced", TASK, 1, "success")]
TERMS = [(1, "w-1-a"), (2, "w-2-b")]


def evidence(
    *,
    tasks: list[TaskRow] | None = None,
    attempts: list[AttemptRow] | None = None,
    lines: tuple[str, ...] = LINES,
    verdicts: list[tuple[str, str, int, str]] = VERDICTS,
    terms: list[tuple[int, str]] = TERMS,
    workers: list[str] | None = None,
    departures: dict[str, int] | None = None,
) -> Evidence:
    book = Ledger()
    book.add_all(lines)
    rows = Rows(
        tasks=[ROW] if tasks is None else tasks,
        attempts=[FAILED] if attempts is None else attempts,
        workers=workers or [],
        leader=("w-2-b", 2),
        departures={"chaos:noop": 1} if departures is None else departures,
    )
    return Evidence(rows=rows, ledger=book, verdicts=verdicts, terms=terms)


def broken(e: Evidence) -> set[str]:
    return {name.split()[0] for name, found in invariants.check(e).items() if found}


def test_nothing_is_wrong_with_what_is_right() -> None:
    assert broken(evidence()) == set()


BREAKS: dict[str, tuple[str, Callable[[], Evidence]]] = {
    "acknowledged and gone": ("I1", lambda: evidence(lines=(*LINES, f"T {OTHER}", f"A {OTHER}"))),
    "twice": ("I1", lambda: evidence(tasks=[ROW, replace(ROW, status="dead_letter", hot=True)])),
    "from nowhere": ("I2", lambda: evidence(tasks=[ROW, replace(ROW, id=OTHER)])),
    "refused and there": ("I2", lambda: evidence(lines=(*LINES, f"X {TASK}"))),
    "completed and failed": ("I3", lambda: evidence(attempts=[FAILED, replace(FAILED, fence=2, attempt=2)])),
    "stale result": ("I4", lambda: evidence(tasks=[replace(ROW, result=1)])),
    "a later claim was started": ("I4", lambda: evidence(lines=(*LINES, f"S {TASK} 3 1.4 w-1-a"))),
    "completed without an end": ("I4", lambda: evidence(lines=LINES[:-1])),
    "another claim's error": ("I4", lambda: evidence(attempts=[replace(FAILED, error="on purpose fence=2")])),
    "failed for want of memory that nobody took": (
        "I4",
        lambda: evidence(
            lines=(*LINES[:3], *LINES[4:], "M 50.0 w-1-a begin", "M 50.1 w-1-a end", "M 90.0 w-2-b begin"),
            attempts=[replace(FAILED, error="MemoryError: ", started_s=90.0, duration_s=0.2)],
        ),
    ),
    "failed without having failed": ("I4", lambda: evidence(lines=(*LINES[:3], *LINES[4:]))),
    "false fenced": ("I5", lambda: evidence(verdicts=[("task.fenced", TASK, 2, "success")])),
    "false fenced of a failure": ("I5", lambda: evidence(verdicts=[("task.fenced", TASK, 1, "failed")])),
    "false applied": ("I5", lambda: evidence(verdicts=[("task.crashed", TASK, 1, "crashed")])),
    "false already applied": ("I5", lambda: evidence(verdicts=[("task.already_applied", TASK, 1, "success")])),
    "too many attempts": ("I6", lambda: evidence(tasks=[replace(ROW, attempts=6)])),
    "an attempt that nobody made": ("I6", lambda: evidence(tasks=[replace(ROW, attempts=3)])),
    "started twice": ("I7", lambda: evidence(lines=(*LINES, LINES[2]))),
    "the fence fell": ("I8", lambda: evidence(tasks=[replace(ROW, fence=1, result=1)])),
    "two leaders of a term": ("I9", lambda: evidence(terms=[*TERMS, (2, "w-1-a")])),
    "the term fell": ("I9", lambda: evidence(terms=[*TERMS, (3, "w-1-a")])),
    "still running": ("I10", lambda: evidence(tasks=[replace(ROW, status="running", hot=True)])),
    "a row of a worker": ("I11", lambda: evidence(workers=["w-1-a"])),
    "not counted": ("departures", lambda: evidence(departures={})),
}


@pytest.mark.parametrize("what", BREAKS)
def test_each_check_sees_what_it_is_there_for(what: str) -> None:
    name, make = BREAKS[what]
    assert name in broken(make())


def test_who_finds_no_memory_beside_a_hog_may_fail_without_a_word() -> None:
    lines = (*LINES[:3], *LINES[4:], "M 90.1 w-1-a begin", "M 90.2 w-1-a end")
    failed = replace(FAILED, error="MemoryError: ", started_s=90.0, duration_s=0.15)
    assert broken(evidence(lines=lines, attempts=[failed])) == set()
    assert broken(evidence(lines=lines[:-1], attempts=[failed])) == set(), "its process has died of it"


def test_a_zombie_beside_its_successor_is_counted() -> None:
    lines = (*LINES[:3], LINES[4], f"E {TASK} 1 1.25 failed", LINES[5])
    assert invariants.exercised(evidence(lines=lines))["zombie ends beside its successor"] == 1


@pytest.mark.parametrize("hours", [-3, 1])
def test_a_hog_is_beside_whom_it_is_though_the_clock_jumps(hours: int) -> None:
    """After the hog has begun, or before it ends; and an hour is never taken for a moment."""
    jump_s = hours * ledger.HOUR_S
    failed = replace(FAILED, error="MemoryError: ", duration_s=0.2)
    for began_s, ended_s, started_s in (
        (90.1, 90.2, 90.0 + jump_s),
        (90.1, 90.2 + jump_s, 90.0),
        (90.1, 90.2 + jump_s, 90.15 + jump_s),
    ):
        lines = (*LINES[:3], *LINES[4:], f"M {began_s} w-1-a begin", f"M {ended_s} w-1-a end")
        assert broken(evidence(lines=lines, attempts=[replace(failed, started_s=started_s)])) == set()
        assert broken(evidence(lines=lines, attempts=[replace(failed, started_s=started_s + 60.0)])) == {"I4"}


DISTURBED = """
import os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for _ in sys.stdin:
    began_s = time.monotonic()
    os.fsync(file); os.fdatasync(file)
    print(time.monotonic() - began_s, time.time(), time.monotonic(), flush=True)
"""


@pytest.mark.skipif(preload.compiler() is None and not os.environ.get("CI"), reason="no gcc to build what makes a disk slow")
def test_a_disk_is_made_slow_and_a_clock_wrong_while_its_program_runs(tmp_path: Path) -> None:
    dials = preload.Dials(preload.build(tmp_path), tmp_path / "dials")
    with subprocess.Popen(
        [sys.executable, "-c", DISTURBED, tmp_path / "synced"],
        env={**os.environ, **dials.surroundings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as program:

        def looks() -> tuple[float, float, float]:
            """(seconds that two syncs take, how far its wall clock is ahead of ours, and its monotonic one)"""
            assert program.stdin
            assert program.stdout
            program.stdin.write("\n")
            took_s, wall_s, monotonic_s = map(float, program.stdout.readline().split())
            return took_s, wall_s - time.time(), monotonic_s - time.monotonic()

        took_s, ahead_s, _monotonic_s = looks()
        assert took_s < 1.0
        assert ahead_s == pytest.approx(0.0, abs=60.0)
        dials.slow_down(0.3)
        dials.slow_down(0.2)
        dials.move(-ledger.HOUR_S)
        took_s, ahead_s, monotonic_s = looks()
        assert took_s >= 1.0
        assert ahead_s == pytest.approx(-ledger.HOUR_S, abs=60.0)
        assert monotonic_s == pytest.approx(0.0, abs=60.0)
        dials.slow_down(-0.5)
        dials.move(3 * ledger.HOUR_S)
        took_s, ahead_s, monotonic_s = looks()
        assert took_s < 1.0
        assert ahead_s == pytest.approx(2 * ledger.HOUR_S, abs=60.0)
        assert dials.is_seen_by(program.pid)
        assert not dials.is_seen_by(os.getppid())
        if program.stdin:
            program.stdin.close()
    assert dials.ahead_s == 2 * ledger.HOUR_S


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_schedule_comes_from_its_seed_has_every_kind_and_survives_a_file(database: str, tmp_path: Path) -> None:
    facts = Facts(database=database)
    kinds = injectors.fitting(facts)
    plan = schedule.draw(7, facts, kinds, 400, 10.0)
    assert plan == schedule.draw(7, facts, kinds, 400, 10.0) != schedule.draw(8, facts, kinds, 400, 10.0)
    counts = [sum(fault.kind == kind.kind for fault in plan.faults) for kind in kinds]
    assert min(counts) >= schedule.MIN_PER_KIND
    assert [fault.at_s for fault in plan.faults] == sorted(fault.at_s for fault in plan.faults)
    plan.save(tmp_path / "plan.json")
    assert schedule.load(tmp_path / "plan.json") == plan


def test_the_ledger_is_read_as_it_was_written_and_survives_a_closed_descriptor(tmp_path: Path) -> None:
    book = ledger.Book(tmp_path, "some")
    book.write(f"T {TASK}\n")
    os.closerange(book._file, book._file + 1)  # as a task does that closes what it does not know
    book.write(f"A {TASK}\n")
    found = ledger.read(tmp_path)
    assert found.tried == found.acknowledged == {TASK}
    with pytest.raises(ValueError, match="no line of a ledger"):
        Ledger().add_all(["S torn"])


def test_a_log_line_that_begins_inside_a_crash_report_is_read() -> None:
    log = b"""\
  File "link.py", line 81 in {"ts": "2026-01-01T00:00:00.000Z", "event": "service.ready"}
submit
{"ts": "2026-01-01T00:00:00.001Z", "event": "task.log", "message": "{\\"ts\\": \\"2026\\", \\"event\\": \\"service.stopped\\"}"}
{"ts": "2026-01-01T00:00:00.002Z", "event": "torn
"""
    assert [line["event"] for line in logs.parse(log)] == ["service.ready", "task.log"]


@pytest.mark.parametrize(
    ("lines", "expected"), [((), [2.5]), ((f"S {TASK} 2 90.0 w-7-a",), []), ((f"S {TASK} 2 99.0 w-7-a",), [])]
)
def test_an_orphan_is_what_was_still_held_by_the_service_that_died(lines: tuple[str, ...], expected: list[float]) -> None:
    """What was lost, and had run elsewhere, before that is none."""
    begun = (f"T {TASK}", f"A {TASK}", f"S {TASK} 1 80.0 w-5-a", *lines, f"S {TASK} 3 102.5 w-9-b")
    lost = replace(FAILED, outcome="lost", worker_id="w-5-a")
    found = recovery.measure([Mark("service killed", "5", at_s=100.0)], evidence(lines=begun, attempts=[lost]), [])
    assert found.get(recovery.ORPHAN, []) == expected


def test_what_nobody_has_seen_is_brought_about_by_another_round(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plans: list[Schedule] = []

    def add(_options: object, _sums: object, plan: Schedule, *_: object) -> bool:
        plans.append(plan)
        return len(plans) < 2

    monkeypatch.setattr(run, "_add", add)
    sums = totals.Totals(seed=1, database="sqlite")
    monkeypatch.setattr(totals.Totals, "faults", property(lambda _: 10 * len(plans)))
    monkeypatch.setattr(totals.Totals, "tasks", property(lambda _: 10 * len(plans)))
    monkeypatch.setattr(totals, "rare", lambda *_: {})
    options = run._parser().parse_args(["--faults", "10", "--tasks", "10", "--at-least", "3"])
    run._rounds(options, sums, tmp_path)
    assert "fenced" in set(totals.unseen(sums))
    assert {fault.kind for fault in plans[1].faults} == set(run.BRING_ABOUT)
