"""When an executor asks to be replaced: the limits, and a process that reaches one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from actor_harness import claim_of, table_memory
from fake_peers import FakeClaimer
from msgspec.structs import replace
from process_harness import ActorProcess

from shiftboss import control
from shiftboss.actors.wear import Wear, memory_bytes
from shiftboss.config import Settings

HERE = Path(__file__).parent
MIB = 1024 * 1024
NONE = Settings()


def wear(chance: float = 0.5, **limits: Any) -> Wear:
    return Wear(replace(NONE, **limits), lambda: chance)


# ---- the limits


def test_without_limits_nothing_wears_out() -> None:
    assert not wear().limited
    assert wear().reason(10**9, 10**9, 10**12) is None


@pytest.mark.parametrize(
    ("limits", "fresh", "worn", "reason"),
    [
        ({"executor_max_tasks": 1000}, (999, 0.0, 0), (1000, 0.0, 0), "1000 tasks"),
        ({"executor_max_age_s": 43_200.0}, (0, 43_199.0, 0), (0, 43_200.0, 0), "12 h old"),
        ({"executor_max_age_s": 600.0}, (0, 599.0, 0), (0, 600.0, 0), "10 min old"),
        ({"executor_max_age_s": 60.0}, (0, 59.0, 0), (0, 60.0, 0), "60 s old"),
        ({"executor_max_memory_bytes": 600 * MIB}, (0, 0.0, 600 * MIB), (0, 0.0, 612 * MIB), "612 MiB"),
    ],
)
def test_each_limit_has_its_reason(
    limits: dict[str, float], fresh: tuple[int, float, int], worn: tuple[int, float, int], reason: str
) -> None:
    assert wear(**limits).limited
    assert wear(**limits).reason(*fresh) is None
    assert wear(**limits).reason(*worn) == reason


def test_executors_of_one_age_are_worn_out_at_different_times() -> None:
    first, last = (wear(chance, executor_max_tasks=1000, executor_max_age_s=1000.0) for chance in (0.0, 1.0))
    assert first.out_of_tasks(900) and not first.out_of_tasks(899)
    assert last.out_of_tasks(1100) and not last.out_of_tasks(1099)
    assert first.reason(0, 900.0, 0) and last.reason(0, 1099.0, 0) is None


def test_a_limit_of_one_task_stays_one() -> None:
    assert wear(0.0, executor_max_tasks=1).out_of_tasks(1)


def test_memory_that_the_code_takes_before_the_first_task_wears_nothing_out(caplog: pytest.LogCaptureFixture) -> None:
    worn = wear(executor_max_memory_bytes=100 * MIB)
    worn.start(120 * MIB)
    assert not worn.limited
    assert "executor_max_memory" in caplog.text and "120 MiB" in caplog.text


def test_memory_is_what_this_process_has() -> None:
    before = memory_bytes()
    ballast = bytearray(os.urandom(32 * MIB))
    assert 20 * MIB < memory_bytes() - before < 300 * MIB
    del ballast


# ---- the process


@contextmanager
def executor(tmp_path: Path, **limits: Any) -> Iterator[tuple[ActorProcess, FakeClaimer]]:
    settings = Settings(
        database_url=f"sqlite:///{tmp_path / 'none.db'}", log_format="json", imports=("handlers_for_tests",), **limits
    )
    table_fd = table_memory(16)
    path = os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))
    with ActorProcess("executor", settings, "2", table_fd=table_fd, env={"PYTHONPATH": path}) as process:
        os.close(table_fd)
        process.board.worker_id = "worker-1"
        process.wait_ready()
        claimer = FakeClaimer(process)
        yield process, claimer
        claimer.close()


def run(claimer: FakeClaimer, count: int) -> None:
    for number in range(count):
        claim = claim_of("test:add", args='{"a":1,"b":1}')
        claimer.execute(claim, first_cell=number)
        claimer.outcome(claim)


def test_past_its_tasks_it_says_so_once_and_goes_on(tmp_path: Path) -> None:
    with executor(tmp_path, executor_max_tasks=3) as (process, claimer):
        run(claimer, 2)
        process.ping()
        assert not process.said.of(control.Tired)
        run(claimer, 8)
        assert process.said.wait_type(control.Tired).reason.endswith(" tasks")
        process.ping()
        assert len(process.said.of(control.Tired)) == 1


def test_an_idle_one_grows_old_too(tmp_path: Path) -> None:
    with executor(tmp_path, executor_max_age_s=1.0) as (process, _claimer):
        assert process.said.wait_type(control.Tired).reason.endswith(" s old")


def test_past_its_memory_it_says_so(tmp_path: Path) -> None:
    with executor(tmp_path, executor_max_memory_bytes=150 * MIB) as (process, claimer):
        hog = claim_of("test:hog", args='{"mib":200}')
        claimer.execute(hog)
        claimer.outcome(hog)
        assert process.said.wait_type(control.Tired).reason.endswith(" MiB")
