"""For tests of applications: tasks run here, in this process, on a real temporary store; time moves when you say so.

pytest gives the fixture `shiftboss_tasks`:

    def test_signup(shiftboss_tasks):
        signup("a@b.c")                                      # enqueues welcome
        shiftboss_tasks.assert_enqueued(welcome, user_id=1)
        assert shiftboss_tasks.drain().completed == 1        # runs what is due; raises the first error
        shiftboss_tasks.advance(hours=24)
        shiftboss_tasks.refute_enqueued(remind)
"""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from shiftboss.attempt import run_async, run_sync
from shiftboss.bound import BoundTask
from shiftboss.catalog import registry
from shiftboss.client import Client
from shiftboss.context import Attempt
from shiftboss.default import using_client
from shiftboss.errors import ShiftbossError, TaskFailed
from shiftboss.handler import Task
from shiftboss.model import Claim, Ended, Lease, Outcome, TaskState, TaskView, TypeInfo, WorkerView
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk, Store, TaskFilter
from shiftboss.store.open import open_store

__all__ = ["Drained", "ManualClock", "TaskTester"]

P = ParamSpec("P")
R = TypeVar("R")

_START: Final = datetime(2030, 1, 1, tzinfo=UTC)
_LIST_LIMIT: Final = 10_000


class ManualClock:
    """A clock that stands still until it is told to advance."""

    def __init__(self, start: datetime = _START) -> None:
        self._start = start
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic_s(self) -> float:
        """Seconds since it was made."""
        return self._elapsed_s

    def advance(self, duration: float | timedelta) -> None:
        """Let `duration` pass: seconds or a timedelta, not negative."""
        passed_s = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
        if passed_s < 0:
            raise ValueError(f"advance({duration!r}): time does not run backwards")
        self._elapsed_s += passed_s


@dataclass(frozen=True, slots=True)
class Drained:
    """What a `drain()` ran, counted by attempt."""

    completed: int = 0
    failed: int = 0  # failed attempts that are tried again later
    dead_letter: int = 0
    cancelled: int = 0
    snoozed: int = 0

    @property
    def attempts(self) -> int:
        """All of them."""
        return self.completed + self.failed + self.dead_letter + self.cancelled + self.snoozed


class TaskTester:
    """A temporary SQLite store that is the default client's while the tester is open, and a worker that runs on command."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where to put the database; a temporary one, removed at the end, if `None`."""
        self.clock = ManualClock()
        self._temporary = tempfile.TemporaryDirectory(prefix="shiftboss-") if folder is None else None
        path = Path(self._temporary.name if self._temporary else str(folder)) / "tasks.db"
        self.database_url = f"sqlite:///{path}"
        self.client = Client(self.database_url, clock=self.clock)
        self._store: Store = open_store(self.database_url, clock=self.clock)
        self._store.migrate()
        self._workers = 0
        self.worker_id = ""
        self._register()
        self._default = using_client(self.client)

    def __enter__(self) -> Self:
        self._default.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        self._default.__exit__(kind, error, trace)
        self.client.close()
        self._store.close()
        if self._temporary:
            self._temporary.cleanup()

    # ---- run

    def drain(self, *, raise_errors: bool = True, limit: int = 10_000) -> Drained:
        """Run every task that is due, and those that they enqueue, here and one after another; time stands still.

        Args:
            raise_errors: raise at the first attempt that fails (after its outcome is stored), with its traceback.
            limit: a task that enqueues itself for ever is an error after so many attempts.

        Raises:
            TaskFailed: an attempt failed. ShiftbossError: `limit` was reached.
        """
        outcomes: Counter[str] = Counter()
        while (claim := self._claim_next()) is not None:
            if outcomes.total() >= limit:
                raise ShiftbossError(f"drain() ran {limit} attempts and more are due: does a task enqueue itself for ever?")
            ended, state = self._run(claim)
            outcomes[_count_of(ended, state)] += 1
            if raise_errors and ended.outcome is Outcome.FAILED:
                raise TaskFailed(ended.task_id, f"{state} after a failed attempt", ended.error, ended.traceback)
        return Drained(**outcomes)

    def run(self, task: BoundTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Enqueue one task and run it now, whatever else is due, with a real `Attempt`; returns its result.

        Raises:
            TaskFailed: it did not succeed; the message tells how it ended.
        """
        handle = task.enqueue(*args, **kwargs)
        ended, state = self._run(self._claim(handle.id))
        if ended.outcome is not Outcome.SUCCESS:
            raise TaskFailed(handle.id, str(state), f"{ended.outcome}: {ended.error or ''}", ended.traceback)
        return handle.result(timeout=0)

    def crash(self, task: BoundTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskView:
        """Enqueue one task, start it, and let its worker die before the handler has done anything; then recover it.

        Returns it as the database has it afterwards: pending again, or dead letter when no attempt was left.
        """
        handle = task.enqueue(*args, **kwargs)
        self._claim(handle.id)
        self._register()  # single instance: a new worker recovers what the dead one held
        return handle.view()

    def advance(
        self, duration: float | timedelta = 0.0, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0
    ) -> None:
        """Let time pass: retries, delays and snoozes become due. Nothing runs before `drain()`."""
        self.clock.advance(duration)
        self.clock.advance(timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds))

    # ---- look

    def enqueued(self, task: BoundTask[..., Any] | str | None = None) -> list[TaskView]:
        """Tasks that have not ended, oldest first; of one type, or all."""
        name = task.task.type if isinstance(task, BoundTask) else task
        found = self._store.list_tasks(TaskFilter(status=TaskState.PENDING, type=name), _LIST_LIMIT)
        return sorted(found, key=lambda view: (view.enqueued_at, view.id))

    def assert_enqueued(self, task: BoundTask[..., Any], /, **arguments: Any) -> TaskView:
        """The first pending task of this type whose arguments include `arguments`, compared after the round trip.

        Raises:
            AssertionError: there is none; lists those of the type.
        """
        for view in self.enqueued(task):
            if _matches(task.task, view, arguments):
                return view
        raise AssertionError(f"no pending {task.task.type} with {arguments}; there are: {self._shown(task)}")

    def refute_enqueued(self, task: BoundTask[..., Any], /, **arguments: Any) -> None:
        """No pending task of this type has these arguments. Raises `AssertionError`."""
        for view in self.enqueued(task):
            if _matches(task.task, view, arguments):
                raise AssertionError(f"{task.task.type} {bytes(view.args).decode()} is enqueued as {view.id}")

    def _shown(self, task: BoundTask[..., Any]) -> str:
        return ", ".join(bytes(view.args).decode() for view in self.enqueued(task)) or "none"

    # ---- a worker with one slot

    def _register(self) -> None:
        self._workers += 1
        now = self.clock.now()
        self.worker_id = f"tester-{self._workers}"
        worker = WorkerView(
            id=self.worker_id, hostname="test", pid=0, version="", started_at=now, last_heartbeat=now, pool_size=1, active=0
        )
        self._store.register(worker, timeout_s=30.0, exclusive=True)

    def _claim_next(self) -> Claim | None:
        return self._first(registry.types(), limit=1)

    def _claim(self, task_id: str) -> Claim:
        """Claim one task; the others that had to be claimed on the way to it are released."""
        view = self._store.get(task_id)
        assert view is not None
        lanes = [LaneAsk(queue=view.queue, priority=view.priority, limit=_LIST_LIMIT)]
        task = registry.get(view.type)
        ask = ClaimAsk(lanes=lanes, limit=_LIST_LIMIT, running=0, types=[task.info()])
        claims = list(self._store.exchange(Exchange(worker_id=self.worker_id, claim=ask)).claims)
        ours = [claim for claim in claims if claim.task_id == task_id]
        others = [Lease(claim.task_id, claim.fence) for claim in claims if claim.task_id != task_id]
        starts = [Lease(claim.task_id, claim.fence) for claim in ours]
        self._store.exchange(Exchange(worker_id=self.worker_id, starts=starts, releases=others))
        if not ours:
            raise ShiftbossError(f"task {task_id} is not due (it is {view.status}, due {view.run_at}): advance() the clock first")
        return ours[0]

    def _first(self, types: list[TypeInfo], limit: int) -> Claim | None:
        lanes = [LaneAsk(queue=lane.queue, priority=lane.priority, limit=limit) for lane in self._store.lanes()]
        ask = ClaimAsk(lanes=lanes, limit=limit, running=limit, types=types)
        claims = self._store.exchange(Exchange(worker_id=self.worker_id, claim=ask)).claims
        return claims[0] if claims else None

    def _run(self, claim: Claim) -> tuple[Ended, TaskState | None]:
        task = registry.get(claim.type)
        deadline_s = None if claim.timeout_s is None else self.clock.monotonic_s() + claim.timeout_s
        attempt = Attempt(claim, worker=self.worker_id, deadline=deadline_s, clock=self.clock)
        ended = _in_new_loop(task, claim, attempt) if task.is_async else run_sync(task, claim, attempt)
        answer = self._store.exchange(Exchange(worker_id=self.worker_id, ended=[ended]))
        return ended, answer.states[0]


def _in_new_loop(task: Task[..., Any], claim: Claim, attempt: Attempt) -> Ended:
    """Run an async handler from a test that may itself run in a loop: then in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run_async(task, claim, attempt))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, run_async(task, claim, attempt)).result()


def _count_of(ended: Ended, state: TaskState | None) -> str:
    if ended.outcome is Outcome.SUCCESS:
        return "completed"
    if state is TaskState.DEAD_LETTER:
        return "dead_letter"
    return {Outcome.CANCELLED: "cancelled", Outcome.SNOOZED: "snoozed"}.get(ended.outcome, "failed")


def _matches(task: Task[..., Any], view: TaskView, arguments: dict[str, Any]) -> bool:
    stored = task.codecs()[0].arguments(view.args)
    return all(name in stored and stored[name] == value for name, value in arguments.items())


if importlib.util.find_spec("pytest") is not None:
    import pytest

    @pytest.fixture
    def shiftboss_tasks() -> Iterator[TaskTester]:
        """A `TaskTester` whose store is the default client's during the test."""
        with TaskTester() as tester:
            yield tester
