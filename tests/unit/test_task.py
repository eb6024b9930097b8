"""`@task`: what it keeps of the function, what it refuses, and how one attempt of it ends."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shiftboss import (
    Attempt,
    Cancel,
    Constant,
    Exponential,
    OptionError,
    Retry,
    Snooze,
    Task,
    TaskDefinitionError,
    UnknownTaskType,
    current_attempt,
    registry,
    task,
)
from shiftboss.attempt import run_async, run_sync
from shiftboss.logs import configure_logging
from shiftboss.model import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS, Claim, Ended, Outcome
from shiftboss.testing import ManualClock


@task
def send(user_id: int, lang: str = "en") -> str:
    """Send it."""
    return f"{lang}:{user_id}"


@task(type="test:sync-account", queue="mail", priority=5, max_attempts=3, timeout=timedelta(minutes=1), backoff=Constant(7))
async def sync_account(attempt: Attempt, account: str) -> int:
    return len(account) + attempt.number


def claim_of(it: Task[..., Any], *args: Any, attempt: int = 1, max_attempts: int = 3, **kwargs: Any) -> Claim:
    return Claim(
        task_id="0190-1", fence=4, attempt=attempt, type=it.type, queue="default", priority=0,
        args=it.prepare(*args, **kwargs).new.args, max_attempts=max_attempts, timeout_s=30.0, running=True,
        enqueued_at=1.0, due_at=1.0,
    )  # fmt: skip


def run(it: Task[..., Any], *args: Any, prepare: Callable[[Attempt], None] | None = None, **kwargs: Any) -> Ended:
    claim = claim_of(it, *args, **kwargs)
    attempt = Attempt(claim, worker="w-1", clock=ManualClock())
    if prepare:
        prepare(attempt)
    return asyncio.run(run_async(it, claim, attempt)) if it.is_async else run_sync(it, claim, attempt)


# ---- definition


def test_stays_a_function() -> None:
    assert send(1, lang="no") == "no:1"
    assert send.__name__ == "send" and send.__doc__ == "Send it." and send.__wrapped__ is send.handler  # type: ignore[attr-defined]
    assert send.type == f"{__name__}:send"
    assert registry.get(send.type) is send


def test_options_are_kept() -> None:
    info = sync_account.info()
    assert (info.type, info.max_attempts, info.timeout_s, info.is_async) == ("test:sync-account", 3, 60.0, True)
    assert (info.backoff_base_s, info.backoff_max_s) == (7, 7)
    new = sync_account.prepare("x").new
    assert (new.queue, new.priority, new.max_attempts, new.timeout_s) == ("mail", 5, None, None)
    assert info in registry.types()


def test_the_injected_attempt_is_no_argument() -> None:
    assert sync_account.takes_attempt
    assert msgspec.json.decode(sync_account.prepare("x").new.args) == {"account": "x"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"max_attempts": True}, "max_attempts=True"),
        ({"priority": 101}, "priority=101"),
        ({"queue": ""}, "queue=''"),
        ({"queue": "a b"}, "no spaces"),
        ({"type": "a\nb"}, "type="),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"timeout": "5s"}, "timeout='5s'"),
        ({"backoff": 5}, r"Constant\(5\)"),
        ({"backoff": Constant(-1)}, "backoff"),
        ({"retry_on": ValueError()}, "retry_on"),
        ({"no_retry_on": [ValueError]}, "no_retry_on"),
    ],
)
def test_impossible_option_is_refused_where_it_stands(options: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskDefinitionError, match=says) as caught:
        task(**options)(lambda: None)
    assert __file__ in str(caught.value)


def test_only_functions_with_a_result() -> None:
    def generator() -> Any:
        yield 1

    with pytest.raises(TaskDefinitionError, match="generator"):
        task(generator)
    with pytest.raises(TaskDefinitionError, match="is for functions"):
        task(print)
    with pytest.raises(TaskDefinitionError, match="is for functions"):
        task(Path)


def test_attempt_is_the_first_parameter_only() -> None:
    def second(a: int, attempt: Attempt) -> None: ...
    def named(*, attempt: Attempt) -> None: ...

    with pytest.raises(TaskDefinitionError, match="first one only"):
        task(second)
    with pytest.raises(TaskDefinitionError, match="ordinary first parameter"):
        task(named)


def test_taken_type_names_both_places() -> None:
    def one() -> None: ...
    def other() -> None: ...

    task(type="test:taken")(one)
    with pytest.raises(TaskDefinitionError, match="test:taken") as caught:
        task(type="test:taken")(other)
    for place in ("other", "one", f"{__file__}:{one.__code__.co_firstlineno}", f"{__file__}:{other.__code__.co_firstlineno}"):
        assert place in str(caught.value)
    again = task(type="test:taken")(one)
    assert registry.get("test:taken") is again


def test_unknown_type_suggests_the_near_one() -> None:
    with pytest.raises(UnknownTaskType, match="Did you mean 'test:sync-account'"):
        registry.get("test:sync-acount")


def test_annotations_behind_a_circular_import_are_resolved_at_first_use() -> None:
    def late(who: Later) -> None: ...  # noqa: F821

    it = task(late)
    with pytest.raises(TaskDefinitionError, match=r"'Later' is not defined.*TYPE_CHECKING"):
        it.prepare(None)  # type: ignore[arg-type]
    globals()["Later"] = _Later
    assert msgspec.json.decode(it.prepare(_Later(3)).new.args) == {"who": {"number": 3}}


@dataclass
class _Later:
    number: int


def test_a_script_enqueues_under_the_name_that_a_worker_imports(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from shiftboss import task\n@task\ndef f() -> None: ...\nprint(f.type)\n")
    for command in ([sys.executable, "app.py"], [sys.executable, "-m", "app"]):
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip() == "app:f"


def test_import_loads_no_actor_and_no_driver() -> None:
    code = "import sys, shiftboss; print([m for m in ('pykka', 'psycopg', 'sqlalchemy', 'pytest') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_using_collects_options_and_leaves_the_original() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    bound = send.using(queue="q", priority=-3, unique="k", max_attempts=9, timeout=5, tags=["a", "a", "b"], meta={"x": [1]})
    new = bound.using(run_at=at).prepare(1).new
    assert (new.queue, new.priority, new.unique_key, new.max_attempts, new.timeout_s) == ("q", -3, "k", 9, 5.0)
    assert (new.tags, new.meta, new.run_at, new.delay_s) == (("a", "b"), msgspec.Raw(b'{"x":[1]}'), at, None)
    delayed = bound.using(run_at=at).using(delay=timedelta(hours=1)).prepare(1).new
    assert (delayed.run_at, delayed.delay_s) == (None, 3600.0)
    assert send.prepare(1).new.queue == "default"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"run_at": datetime(2030, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"run_at": 5}, "must be a datetime"),
        ({"delay": 1, "run_at": datetime.now(UTC)}, "two different times"),
        ({"delay": -1}, "delay=-1"),
        ({"delay": timedelta(days=9999)}, "ten years"),
        ({"unique": ""}, "unique=''"),
        ({"unique": "a\0"}, "NUL"),
        ({"tags": "abc"}, "one string"),
        ({"tags": [""]}, "tag=''"),
        ({"priority": 1.5}, "priority=1.5"),
    ],
)
def test_impossible_using_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        send.using(**options)


# ---- attempts


@task(max_attempts=3, backoff=Constant(11), no_retry_on=KeyError)
def fails(how: str) -> Any:
    outcomes: dict[str, Any] = {
        "value": ValueError("first line\nsecond"),
        "key": KeyError("k"),
        "exit": SystemExit(3),
        "keyboard": KeyboardInterrupt(),
        "unprintable": Unprintable(),
        "binary": ValueError("a\0b\ud800"),
        "long": ValueError("x" * 100_000),
        "retry": Retry(),
        "retry-in": Retry(timedelta(seconds=2), "busy"),
        "snooze": Snooze(60),
        "cancel": Cancel("no longer wanted"),
    }
    raise outcomes[how]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_success() -> None:
    ended = run(send, 1, lang="no")
    assert (ended.outcome, ended.result, ended.task_id, ended.fence) == (Outcome.SUCCESS, msgspec.Raw(b'"no:1"'), "0190-1", 4)
    assert (ended.error, ended.traceback, ended.retry_in_s) == (None, None, None)
    assert run(sync_account, "abc", attempt=2).result == msgspec.Raw(b"5")


@pytest.mark.parametrize(
    ("how", "outcome", "retry_in_s", "error"),
    [
        ("value", Outcome.FAILED, 11, "ValueError: first line second"),
        ("key", Outcome.FAILED, None, "KeyError: 'k'"),
        ("exit", Outcome.FAILED, 11, "SystemExit: 3"),
        ("keyboard", Outcome.FAILED, 11, "KeyboardInterrupt"),
        ("unprintable", Outcome.FAILED, 11, "Unprintable: <its text cannot be read: __str__ raised>"),
        ("binary", Outcome.FAILED, 11, "ValueError: a\\x00b\\ud800"),
        ("retry", Outcome.FAILED, 11, "Retry"),
        ("retry-in", Outcome.FAILED, 2, "Retry: busy"),
        ("snooze", Outcome.SNOOZED, 60, "Snooze: for 60 s"),
        ("cancel", Outcome.CANCELLED, None, "Cancel: no longer wanted"),
    ],
)
def test_every_way_to_end(how: str, outcome: Outcome, retry_in_s: float | None, error: str) -> None:
    ended = run(fails, how)
    assert (ended.outcome, ended.retry_in_s, ended.error) == (outcome, retry_in_s, error)
    assert ended.result == msgspec.Raw(b"null")


@pytest.mark.parametrize("how", ["value", "retry", "retry-in"])
def test_no_retry_after_the_last_attempt(how: str) -> None:
    assert run(fails, how, attempt=3).retry_in_s is None
    assert run(fails, how, attempt=2).retry_in_s is not None


def test_traceback_begins_in_the_handler() -> None:
    ended = run(fails, "value")
    assert ended.traceback is not None
    assert ended.traceback.startswith("Traceback (most recent call last):\n")
    assert "raise outcomes[how]" in ended.traceback and "shiftboss/attempt.py" not in ended.traceback
    assert "shiftboss/codec.py" not in ended.traceback


def test_error_texts_are_bounded_and_can_be_stored() -> None:
    ended = run(fails, "long")
    assert ended.error is not None and len(ended.error) == MAX_ERROR_CHARS
    assert ended.traceback is not None and len(ended.traceback) == MAX_TRACEBACK_CHARS
    assert ended.traceback.endswith("xxx\n")
    binary = run(fails, "binary").traceback
    assert binary is not None and "\0" not in binary
    binary.encode()


def test_endless_recursion_is_a_failure_like_any_other() -> None:
    @task
    def deep() -> None:
        deep()

    ended = run(deep)
    assert ended.outcome is Outcome.FAILED
    assert ended.error is not None and ended.error.startswith("RecursionError")


def test_a_broad_except_does_not_swallow_a_snooze() -> None:
    @task
    def careless() -> None:
        try:
            raise Snooze(5)
        except Exception:  # noqa: BLE001, S110
            pass

    assert run(careless).outcome is Outcome.SNOOZED


def test_retry_on_limits_what_is_tried_again() -> None:
    @task(retry_on=(ConnectionError, TimeoutError))
    def picky(how: str) -> None:
        raise {"refused": ConnectionRefusedError(), "value": ValueError()}[how]

    assert run(picky, "refused").retry_in_s is not None
    assert run(picky, "value").retry_in_s is None
    assert run(picky, "refused", prepare=lambda a: a.stop(Outcome.TIMEOUT)).retry_in_s is not None


def test_backoff_may_be_a_function_and_may_be_broken(caplog: pytest.LogCaptureFixture) -> None:
    @task(backoff=lambda attempt: timedelta(seconds=attempt * 10))
    def tens() -> None:
        raise ValueError

    @task(backoff=lambda attempt: 1 / 0)
    def broken() -> None:
        raise ValueError

    assert run(tens, attempt=2).retry_in_s == 20.0
    delay_s = run(broken).retry_in_s
    assert delay_s is not None and 0 <= delay_s <= Exponential().base_s
    assert "backoff of" in caplog.text


def test_arguments_that_do_not_fit_fail_the_attempt() -> None:
    claim = msgspec.structs.replace(claim_of(send, 1), args=msgspec.Raw(b'{"user_id":"x"}'))
    ended = run_sync(send, claim, Attempt(claim, worker="w"))
    assert ended.outcome is Outcome.FAILED
    assert ended.error is not None and "argument user_id: Expected `int`, got `str`" in ended.error


def test_a_result_that_cannot_be_stored_is_not_tried_again() -> None:
    @task
    def unstorable() -> Any:
        return object()

    ended = run(unstorable)
    assert (ended.outcome, ended.retry_in_s) == (Outcome.FAILED, None)
    assert ended.error is not None and ended.error.startswith("ResultError")


def test_a_result_for_which_there_is_no_memory_is_a_failure_of_this_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the result, which would be told as one that cannot be stored and never be tried again."""

    def refuse(_value: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("shiftboss.results._encode", refuse)

    @task(max_attempts=3)
    def send() -> int:
        return 7

    ended = run(send)
    assert (ended.outcome, ended.error) == (Outcome.FAILED, "MemoryError")
    assert ended.retry_in_s is not None


def test_sync_handler_that_returns_a_coroutine_is_told() -> None:
    async def inner() -> None: ...

    @task
    def outer() -> Any:
        return inner()

    error = run(outer).error
    assert error is not None and "async def" in error


@pytest.mark.parametrize(
    ("asked", "outcome", "retry_in_s"),
    [
        (Outcome.INTERRUPTED, Outcome.INTERRUPTED, None),
        (Outcome.CANCELLED, Outcome.CANCELLED, None),
        (Outcome.TIMEOUT, Outcome.TIMEOUT, 3),
        (None, Outcome.INTERRUPTED, None),
    ],
)
def test_cancelled_async_handler_ends_as_it_was_asked(asked: Outcome | None, outcome: Outcome, retry_in_s: float | None) -> None:
    @task(backoff=Constant(3))
    async def waits() -> None:
        await asyncio.Event().wait()

    async def main() -> Ended:
        claim = claim_of(waits)
        attempt = Attempt(claim, worker="w")
        running = asyncio.ensure_future(run_async(waits, claim, attempt))
        await asyncio.sleep(0)
        if asked is not None:
            attempt.stop(asked)
        running.cancel()
        return await running

    ended = asyncio.run(main())
    assert (ended.outcome, ended.retry_in_s) == (outcome, retry_in_s)
    if outcome is Outcome.TIMEOUT:
        assert ended.error is not None and ended.error.startswith("timeout of 30 s exceeded")


def test_something_cancelled_that_the_handler_awaited_is_its_own_failure() -> None:
    @task
    async def awaits_cancelled() -> None:
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    assert run(awaits_cancelled).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        (Outcome.CANCELLED, Outcome.CANCELLED),
        (Outcome.TIMEOUT, Outcome.TIMEOUT),
        (Outcome.INTERRUPTED, Outcome.SNOOZED),
    ],
)
def test_sync_handler_that_sees_stopping_ends_as_it_was_asked(asked: Outcome, outcome: Outcome) -> None:
    @task
    def polite(attempt: Attempt) -> None:
        if attempt.stopping:
            raise Snooze(1)

    assert run(polite, prepare=lambda attempt: attempt.stop(asked)).outcome is outcome


def test_the_first_reason_to_stop_stays() -> None:
    attempt = Attempt(claim_of(send, 1), worker="w")
    attempt.stop(Outcome.CANCELLED)
    attempt.stop()
    assert attempt.stop_outcome is Outcome.CANCELLED


def test_an_attempt_that_is_logged_shows_no_arguments() -> None:
    claim = msgspec.structs.replace(claim_of(send, 1), args=msgspec.Raw(b'{"secret":1}'))
    assert repr(Attempt(claim, worker="w")) == f"<Attempt 1 of {send.type} 0190-1>"


def test_what_an_attempt_knows() -> None:
    clock = ManualClock()
    claim = msgspec.structs.replace(claim_of(send, 1), meta=msgspec.Raw(b'{"a":1}'), tags=("t",))
    attempt = Attempt(claim, worker="w-1", deadline=5.0, clock=clock)
    known = (attempt.task_id, attempt.type, attempt.number, attempt.max_attempts, attempt.fence, attempt.worker, attempt.queue)
    assert known == ("0190-1", send.type, 1, 3, 4, "w-1", "default")
    assert (attempt.meta, attempt.tags, attempt.enqueued_at, attempt.deadline, attempt.stopping) == (
        {"a": 1},
        ("t",),
        1.0,
        5.0,
        False,
    )
    clock.advance(3)
    assert attempt.remaining_s() == 2.0
    clock.advance(3)
    assert attempt.remaining_s() == 0.0


def test_an_attempt_began_when_its_clock_says_and_without_one_when_the_machines_does() -> None:
    clock = ManualClock()
    clock.advance(90)
    assert run_sync(send, claim_of(send, 1), Attempt(claim_of(send, 1), worker="w", clock=clock)).started_at == (
        clock.now().timestamp()
    )
    before_s = time.time()
    started_at = run_sync(send, claim_of(send, 1), Attempt(claim_of(send, 1), worker="w")).started_at
    assert started_at is not None and before_s <= started_at <= time.time()


def test_progress_is_bounded_and_can_be_stored() -> None:
    seen: list[tuple[float, str]] = []
    attempt = Attempt(claim_of(send, 1), worker="w", _on_progress=lambda _claim, percent, note: seen.append((percent, note)))
    attempt.progress(10)
    attempt.progress(1e9, "a\0\ud800" + "x" * 1_000)
    assert seen[0] == (10.0, "")
    assert seen[1][0] == 100.0 and len(seen[1][1]) == 500 and "\0" not in seen[1][1]
    with pytest.raises(OptionError, match="nan"):
        attempt.progress(float("nan"))


def test_current_attempt_is_known_below_the_handler_only() -> None:
    seen: list[Attempt | None] = []

    @task
    def handler() -> None:
        seen.append(current_attempt())

    run(handler)
    assert seen[0] is not None and seen[0].task_id == "0190-1"
    assert current_attempt() is None


def test_log_lines_carry_the_task_from_any_thread(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogRecordFactory())
    try:
        configure_logging("json", "info", actor="test")
        attempt = Attempt(claim_of(send, 1), worker="w")
        thread = threading.Thread(target=lambda: attempt.log.info("half %s", "way", extra={"rows": 5}))
        thread.start()
        thread.join()
        for handler in root.handlers:
            handler.flush()
    finally:
        root.handlers[:], root.level = before[0], before[1]
        logging.setLogRecordFactory(before[2])
    line = msgspec.json.decode(capfd.readouterr().err.splitlines()[-1])
    assert (line["message"], line["event"], line["task_id"], line["type"], line["attempt"]) == (
        "half way", "task.log", "0190-1", send.type, 1,
    )  # fmt: skip
