"""A real claimer on a real SQLite file (or another database), with executors that a test plays."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
from actor_harness import eventually
from fake_peers import TYPE, FakeExecutor
from process_harness import ActorProcess

from shiftboss.config import Settings
from shiftboss.model import NewTask, Outcome, TaskState, TaskView, TypeInfo, WorkerView, new_task_id
from shiftboss.store.base import Store
from shiftboss.store.open import open_store

WORKER = "worker-1"


class Scene:
    """The database, one claimer (or several in a row), its executors. `store` is an operator's connection."""

    def __init__(self, folder: Path, url: str | None = None, **settings: Any) -> None:
        self.path = folder / "tasks.db"
        given: dict[str, Any] = {"claim_interval_s": 30.0, "heartbeat_interval_s": 30.0, "cancel_grace_s": 0.3}
        self.settings = Settings(database_url=url or f"sqlite:///{self.path}", log_format="json", **(given | settings))
        self._opened = contextlib.ExitStack()
        self.store: Store = open_store(self.settings.database_url)
        self._opened.callback(self.store.close)
        self.store.migrate()
        self.register(WORKER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._opened.close()

    def register(self, worker_id: str, exclusive: bool = False) -> None:
        epoch = datetime.fromtimestamp(0, UTC)
        worker = WorkerView(
            id=worker_id,
            hostname="host",
            pid=1,
            version="1",
            started_at=epoch,
            last_heartbeat=epoch,
            pool_size=2,
            active=0,
        )
        self.store.register(worker, 30.0, exclusive)

    def claimer(self, worker_id: str = WORKER) -> ActorProcess:
        """Start one; it knows its worker's id at once."""
        claimer = ActorProcess("claimer", self.settings)
        self._opened.enter_context(claimer)
        claimer.board.worker_id = worker_id
        return claimer

    def executor(
        self, claimer: ActorProcess, name: str = "executor-1", incarnation: int = 1, cells: int = 64, *, linked: bool = True
    ) -> FakeExecutor:
        """It has not said hello; not `linked`: the claimer has never heard of it."""
        executor = FakeExecutor(claimer, name, incarnation, cells, linked)
        self._opened.callback(executor.close)
        return executor

    def busy(self, executor: FakeExecutor, waiting: int = 1) -> tuple[str, list[str]]:
        """Let an executor with one slot run one task while `waiting` more are prefetched for it; their ids."""
        self.put_many(2 + waiting)
        executor.hello(slots=1)
        (first,) = eventually(lambda: list(executor.claims()), "the first task")
        executor.start(first)
        executor.finish(first, duration_s=0.05)
        eventually(lambda: len(executor.claims()) == 2 + waiting, "all tasks")
        running, *others = [task_id for task_id in executor.claims() if task_id != first]
        executor.start(running)
        return running, others

    # ---- tasks

    def put(self, type_: str = TYPE, **fields: Any) -> str:
        return self.put_many(1, type_, **fields)[0]

    def put_many(self, count: int, type_: str = TYPE, **fields: Any) -> list[str]:
        tasks = [NewTask(id=new_task_id(), type=type_, args=msgspec.Raw(b"{}"), **fields) for _ in range(count)]
        return [stored.id for stored in self.store.enqueue(tasks)]

    def view(self, task_id: str) -> TaskView:
        found = self.store.get(task_id)
        assert found is not None, f"task {task_id} is lost"
        return found

    def wait_status(self, task_id: str, status: TaskState, timeout_s: float = 30.0) -> TaskView:
        def look() -> TaskView | None:
            view = self.view(task_id)
            return view if view.status is status else None

        return eventually(look, f"{task_id} is {status}, is {self.view(task_id)}", timeout_s)

    def outcomes(self, task_id: str) -> list[Outcome]:
        """How its unsuccessful attempts ended, oldest first."""
        return [attempt.outcome for attempt in self.store.attempts(task_id)]

    def counter(self, name: str, worker_id: str = WORKER) -> float:
        return sum(counter.value for counter in self.store.counters(worker_id) if counter.name == name)

    def sql(self, statement: str, *values: object) -> None:
        """What an operator types."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as connection, connection:
            connection.execute(statement, values)


def info(type_: str = TYPE, **fields: Any) -> TypeInfo:
    return TypeInfo(type=type_, **fields)
