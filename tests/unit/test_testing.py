"""What an application's tests lean on: `TaskTester`, its clock, and the pytest fixture."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from shiftboss import (
    ArgumentsError,
    Attempt,
    Constant,
    Retry,
    ShiftbossError,
    Snooze,
    TaskFailed,
    TaskState,
    default_client,
    task,
)
from shiftboss.testing import Drained, ManualClock, TaskTester

pytest_plugins = ["pytester"]


@task
def add(a: int, b: int = 1) -> int:
    return a + b


@task
async def chain(length: int) -> int:
    if length:
        await chain.aenqueue(length - 1)
    return length


@task(max_attempts=2, backoff=Constant(60))
def fails(attempt: Attempt) -> None:
    raise ValueError(f"attempt {attempt.number}")


@task(max_attempts=3)
def odd(how: str, attempts: int = 0) -> None:
    if how == "retry":
        raise Retry(5)
    raise Snooze(5)


def test_runs_what_is_due_and_what_that_enqueues(shiftboss_tasks: TaskTester) -> None:
    handle = add.enqueue(1, 2)
    chain.enqueue(3)
    assert shiftboss_tasks.drain() == Drained(completed=5)
    assert handle.result(timeout=0) == 3
    assert shiftboss_tasks.drain() == Drained()


def test_the_first_error_is_raised_after_it_was_stored(shiftboss_tasks: TaskTester) -> None:
    handle = fails.enqueue()
    with pytest.raises(TaskFailed, match="ValueError: attempt 1") as caught:
        shiftboss_tasks.drain()
    assert caught.value.remote_traceback is not None and "raise ValueError" in caught.value.remote_traceback
    assert handle.status() is TaskState.PENDING


def test_time_moves_when_told(shiftboss_tasks: TaskTester) -> None:
    handle = fails.enqueue()
    add.using(delay=timedelta(hours=6)).enqueue(1)
    assert shiftboss_tasks.drain(raise_errors=False) == Drained(failed=1)
    shiftboss_tasks.advance(59)
    assert shiftboss_tasks.drain(raise_errors=False) == Drained()
    shiftboss_tasks.advance(seconds=1)
    assert shiftboss_tasks.drain(raise_errors=False) == Drained(dead_letter=1)
    assert handle.status() is TaskState.DEAD_LETTER
    shiftboss_tasks.advance(hours=5, minutes=59)
    assert shiftboss_tasks.drain() == Drained(completed=1)


def test_snooze_and_retry_take_their_delay(shiftboss_tasks: TaskTester) -> None:
    odd.enqueue("snooze")
    odd.enqueue("retry")
    assert shiftboss_tasks.drain(raise_errors=False) == Drained(failed=1, snoozed=1)
    assert shiftboss_tasks.drain(raise_errors=False).attempts == 0
    shiftboss_tasks.advance(5)
    assert shiftboss_tasks.drain(raise_errors=False) == Drained(failed=1, snoozed=1)


def test_assertions_look_at_the_arguments_after_the_round_trip(shiftboss_tasks: TaskTester) -> None:
    shiftboss_tasks.refute_enqueued(add)
    add.enqueue(1, b=2)
    assert shiftboss_tasks.assert_enqueued(add, a=1).type == add.type
    shiftboss_tasks.assert_enqueued(add, a=1, b=2)
    shiftboss_tasks.refute_enqueued(add, a=2)
    with pytest.raises(AssertionError, match=r'there are: \{"a":1,"b":2\}'):
        shiftboss_tasks.assert_enqueued(add, a=5)
    with pytest.raises(AssertionError, match="is enqueued"):
        shiftboss_tasks.refute_enqueued(add, b=2)
    assert [view.type for view in shiftboss_tasks.enqueued()] == [add.type]
    assert len(shiftboss_tasks.enqueued(add)) == 1
    shiftboss_tasks.drain()
    assert shiftboss_tasks.enqueued() == []


def test_payloads_make_the_round_trip(shiftboss_tasks: TaskTester) -> None:
    with pytest.raises(ArgumentsError):
        shiftboss_tasks.run(add, "x")  # type: ignore[arg-type]


def test_run_runs_one_alone(shiftboss_tasks: TaskTester) -> None:
    other = add.enqueue(9)
    assert shiftboss_tasks.run(add, 1, b=1) == 2
    assert shiftboss_tasks.run(chain, 0) == 0
    assert other.status() is TaskState.PENDING
    with pytest.raises(TaskFailed, match="attempt 1"):
        shiftboss_tasks.run(fails)
    with pytest.raises(ShiftbossError, match="advance"):
        shiftboss_tasks.run(add.using(delay=5), 1)


def test_crash_costs_an_attempt_and_the_task_runs_again(shiftboss_tasks: TaskTester) -> None:
    view = shiftboss_tasks.crash(add, 1)
    assert (view.status, view.attempts) == (TaskState.PENDING, 1)
    shiftboss_tasks.advance(hours=2)
    assert shiftboss_tasks.drain() == Drained(completed=1)
    assert shiftboss_tasks.crash(add.using(max_attempts=1), 1).status is TaskState.DEAD_LETTER


def test_a_task_that_enqueues_itself_for_ever_is_told(shiftboss_tasks: TaskTester) -> None:
    chain.enqueue(1_000)
    with pytest.raises(ShiftbossError, match="for ever"):
        shiftboss_tasks.drain(limit=20)


def test_drain_inside_a_running_loop(shiftboss_tasks: TaskTester) -> None:
    async def main() -> Drained:
        await chain.aenqueue(1)
        return shiftboss_tasks.drain()

    assert asyncio.run(main()) == Drained(completed=2)


def test_the_default_client_is_put_back(tmp_path: Path) -> None:
    before = default_client()
    with TaskTester(tmp_path) as tester:
        assert default_client() is tester.client
    assert default_client() is before
    assert (tmp_path / "tasks.db").exists()


def test_clock_does_not_run_backwards() -> None:
    clock = ManualClock()
    before = clock.now()
    clock.advance(timedelta(seconds=1.5))
    assert (clock.monotonic_s(), clock.now() - before) == (1.5, timedelta(seconds=1.5))
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_fixture_comes_with_the_installation(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from shiftboss import task

        @task
        def hello(name: str) -> str:
            return name

        def test_it(shiftboss_tasks):
            handle = hello.enqueue("world")
            assert shiftboss_tasks.drain().completed == 1
            assert handle.result(timeout=0) == "world"
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
