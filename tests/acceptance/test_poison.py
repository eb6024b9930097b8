"""Tasks that harm their own process, and texts that harm whoever reads them: only they pay for it, with a cause that is told."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shiftboss.bound import Prepared
from shiftboss.errors import ArgumentsError
from shiftboss.model import MAX_ERROR_CHARS, TaskState, TaskView
from shiftboss.store.base import Store, TaskFilter
from shiftboss.store.open import open_store
from tests.acceptance.enqueue import enqueue
from tests.acceptance.worker import Worker, is_running, until
from tests.chaos import poison_tasks, workload

INNOCENTS = 40
ENDED = (TaskState.DEAD_LETTER, TaskState.COMPLETED, TaskState.CANCELLED)
CAUSES = {
    "exit": "exit code 3",
    "exit_zero": "exit code 0",
    "segfault": "SIGSEGV",
    "abort": "SIGABRT",
    "kill": "SIGKILL",
    "stack_overflow": "SIGSEGV",
    "fork_bomb": "exit code 9",
    "closes_descriptors": "",  # how it ends depends on who notices first
}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tasks.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(url)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def worker(url: str, store: Store, tmp_path: Path) -> Iterator[Worker]:
    with Worker(
        url, tmp_path, imports=("tests.chaos.workload", "tests.chaos.poison_tasks"), executors=1, heartbeat_interval_s=0.5
    ) as one:
        yield one.ready()


def outcomes(store: Store, tasks: Sequence[Prepared[Any]]) -> list[TaskView]:
    """These tasks when they have ended."""
    ids = enqueue(store, tasks)

    def ended() -> list[TaskView] | None:
        views = [store.get(task_id) for task_id in ids]
        return [one for one in views if one is not None] if all(one and one.status in ENDED for one in views) else None

    found: list[TaskView] = until("all have ended", ended)
    return found


def live_on(worker: Worker, store: Store) -> None:
    """The worker does what it did before, for tasks that come now at the price of one attempt."""
    views = outcomes(store, [workload.noop.prepare() for _ in range(INNOCENTS)])
    assert [one.status for one in views] == [TaskState.COMPLETED] * INNOCENTS
    assert all(one.attempts == 1 for one in views)
    assert worker.process.poll() is None
    assert worker.stop() == 0


@pytest.mark.parametrize("how", poison_tasks.DEADLY)
def test_a_task_that_kills_its_executor_ends_with_the_cause(how: str, worker: Worker, store: Store) -> None:
    (view,) = outcomes(store, [poison_tasks.deadly.prepare(how)])
    assert (view.status, view.attempts) == (TaskState.DEAD_LETTER, 2)
    assert CAUSES[how] in (view.last_error or "")
    assert [one.outcome for one in store.attempts(view.id)] == ["crashed", "crashed"]
    live_on(worker, store)


@pytest.mark.parametrize("how", ["exit", "segfault", "closes_descriptors"])
def test_nor_does_the_loop_of_the_async_ones_hide_it(how: str, worker: Worker, store: Store) -> None:
    (view,) = outcomes(store, [poison_tasks.deadly_async.prepare(how)])
    assert (view.status, view.attempts) == (TaskState.DEAD_LETTER, 2)
    assert CAUSES[how] in (view.last_error or "")
    live_on(worker, store)


@pytest.mark.parametrize("how", poison_tasks.FAILING)
def test_a_task_that_uses_everything_up_fails(how: str, worker: Worker, store: Store) -> None:
    (view,) = outcomes(store, [poison_tasks.failing.prepare(how)])
    assert (view.status, view.attempts) == (TaskState.DEAD_LETTER, 2)
    live_on(worker, store)


@pytest.mark.parametrize("how", poison_tasks.HARMLESS)
def test_a_task_that_leaves_a_mess_behind_completes_and_so_do_the_others(how: str, worker: Worker, store: Store) -> None:
    (view,) = outcomes(store, [poison_tasks.harmless.prepare(how)])
    assert (view.status, view.attempts) == (TaskState.COMPLETED, 1)
    live_on(worker, store)


def test_a_fork_bomb_leaves_nobody_behind(worker: Worker, store: Store) -> None:
    before = set(_of_this_world(worker))
    outcomes(store, [poison_tasks.deadly.prepare("fork_bomb")])
    until("its children are gone", lambda: len(set(_of_this_world(worker)) - before) <= 2, 5.0)
    live_on(worker, store)
    assert not _of_this_world(worker)


def _of_this_world(worker: Worker) -> list[int]:
    mark = f"LEDGER={worker.ledger}".encode()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _marked(int(name), mark) and is_running(int(name))]


def _marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


@pytest.mark.long
def test_a_task_that_holds_the_gil_is_ended_by_its_timeout(worker: Worker, store: Store) -> None:
    (view,) = outcomes(store, [poison_tasks.holds_gil.prepare(30.0)])
    assert (view.status, view.attempts) == (TaskState.DEAD_LETTER, 2)
    assert [one.outcome for one in store.attempts(view.id)] == ["timeout", "timeout"]
    live_on(worker, store)


def test_a_task_that_kills_the_supervisor_ends_the_service_and_is_not_lost(
    worker: Worker, store: Store, url: str, tmp_path: Path
) -> None:
    (task_id,) = enqueue(store, [poison_tasks.kills_parent.prepare(worker.process.pid)])
    worker.process.wait(20)
    until("nobody is left", lambda: not worker.left_over(), 2.0)
    with Worker(url, tmp_path, "second", imports=("tests.chaos.workload", "tests.chaos.poison_tasks")) as second:
        second.ready()
        until("completed", lambda: (store.get(task_id) or second).status is TaskState.COMPLETED)
        assert [one.outcome for one in store.attempts(task_id)] == ["lost"]
        assert second.stop() == 0


# ---- texts


@pytest.mark.parametrize("name", poison_tasks.TEXTS)
def test_a_hostile_error_text_reaches_nobody_as_it_is(name: str, worker: Worker, store: Store) -> None:
    (view,) = outcomes(store, [poison_tasks.hostile_error.prepare(name)])
    assert view.status is TaskState.DEAD_LETTER
    error = view.last_error or ""
    assert len(error) <= MAX_ERROR_CHARS
    assert error.startswith("ValueError: on purpose")
    assert not _controls(error), "a terminal that shows the error would obey it"
    live_on(worker, store)
    for line in worker.log_file.read_bytes().decode().splitlines():
        assert not _controls(line)
        json.loads(line)  # nothing that was logged has become a line of its own
    assert len(worker.lines("service.ready")) == 1


def _controls(text: str) -> list[str]:
    return [one for one in text if ord(one) < 32 or 127 <= ord(one) < 160 or one in "\u2028\u2029\u202e"]


@pytest.mark.parametrize("what", poison_tasks.RAISES)
def test_whatever_is_raised_the_attempt_ends(what: str, worker: Worker, store: Store) -> None:
    (view,) = outcomes(store, [poison_tasks.hostile_raise.prepare(what)])
    assert view.status is TaskState.DEAD_LETTER
    assert view.last_error
    assert not _controls(view.last_error)
    live_on(worker, store)


@pytest.mark.parametrize("what", poison_tasks.RESULTS)
def test_a_result_that_cannot_be_kept_is_a_failure_that_says_so(what: str, worker: Worker, store: Store) -> None:
    (view,) = outcomes(store, [poison_tasks.hostile_result.prepare(what)])
    assert view.status is TaskState.DEAD_LETTER, "it was stored"
    assert "result" in (view.last_error or "").lower()
    live_on(worker, store)


def test_whatever_json_can_say_goes_through_and_the_rest_is_refused(worker: Worker, store: Store) -> None:
    views = outcomes(store, [poison_tasks.hostile_payload.prepare(value) for value in poison_tasks.PAYLOADS.values()])
    assert {one.status for one in views} == {TaskState.COMPLETED}
    for value in (
        float("nan"),
        float("inf"),
        "\ud800",
        "a\0b",
        poison_tasks.nested(100_000),
        b"bytes",
        object(),
    ):
        with pytest.raises(ArgumentsError) as refused:
            poison_tasks.hostile_payload.prepare(value)
        assert len(str(refused.value)) < 1_000
    live_on(worker, store)


def test_a_task_that_sets_the_mask_to_nothing_opens_no_file_of_ours(worker: Worker, store: Store, tmp_path: Path) -> None:
    outcomes(store, [poison_tasks.harmless.prepare("upset")])
    store.list_tasks(TaskFilter(), 1)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir() if file.name.startswith("tasks.db")}
    assert all(mode & 0o077 == 0 for mode in modes.values()), modes
    live_on(worker, store)
