"""The SQLite store: each method of the contract is one transaction round one function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from shiftboss.clock import Clock, SystemClock
from shiftboss.lease import LeaderLease
from shiftboss.model import AttemptView, Enqueued, Lease, NewTask, QueueView, TaskState, TaskView, WorkerView
from shiftboss.store.base import (
    Cancelled,
    ClaimAsk,
    CounterDelta,
    Counts,
    Election,
    Exchange,
    Exchanged,
    Lane,
    MigrationPlan,
    Owned,
    Recovered,
    Retention,
    TaskFilter,
)
from shiftboss.store.sqlite import files, leader, migrate, operators
from shiftboss.store.sqlite.bells import Doorbell, folder_of, ring_in
from shiftboss.store.sqlite.database import LOCK_WAIT_S, Database
from shiftboss.store.sqlite.enqueue import enqueue, row_of
from shiftboss.store.sqlite.exchange import exchange
from shiftboss.store.sqlite.statements import SQL
from shiftboss.store.sqlite.times import after, from_text, to_text
from shiftboss.store.sqlite.views import attempt_view, rows_of, task_view, worker_view


def open_sqlite(
    url_or_path: str | Path,
    clock: Clock | None = None,
    *,
    lock_wait_s: float = LOCK_WAIT_S,
    create: bool = True,
    memory: files.Memory | None = None,
) -> SqliteStore:
    """Open a database file, made when there is none; its schema comes with `migrate()`.

    Args:
        url_or_path: `sqlite:///relative.db`, `sqlite:////absolute.db` or a path.
        clock: the machine's clock unless a test brings its own.
        lock_wait_s: how long a write may wait for another process's write.
        create: make the file where there is none. Without it nothing is looked at before the first call, which raises
            `StoreUnavailable` while the file is not there: for whoever joins others that work on it already.
        memory: which file it has to be, if that is known there; else it is noted there.

    Raises:
        StoreError: a URL that means nothing, SQLite older than 3.37, a network file system.
        StoreUnavailable: the folder or the file cannot be used.
        StoreCorrupt: the file is not a database, or is missing while its log is there.
    """
    database = Database(files.parse_url(url_or_path), lock_wait_s, memory)
    try:
        if create:
            database.open()
    except BaseException:
        database.close()
        raise
    return SqliteStore(database, clock or SystemClock())


class SqliteStore:
    """A `Store` on one SQLite file. One machine has one clock, so `now` is this process's, passed to every statement."""

    exchanges_at_once = 1

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._bells = folder_of(database.path)

    @property
    def path(self) -> Path:
        """The database file; `ring(path)` wakes the claimers that listen beside it."""
        return self._database.path

    def now(self) -> datetime:
        return self._clock.now()

    # ---- life

    def check_schema(self) -> None:
        migrate.check(self._database)

    def migration_plan(self) -> MigrationPlan:
        return migrate.plan(self._database)

    def migrate(self) -> MigrationPlan:
        return migrate.migrate(self._database, self.now())

    def quick_check(self) -> list[str]:
        """What is wrong with the file, by SQLite's own check; empty when it is sound. Reads the whole file."""
        return self._database.quick_check()

    def close(self) -> None:
        self._database.close()

    # ---- producers

    def enqueue(self, tasks: Sequence[NewTask], *, fresh: bool = False) -> list[Enqueued]:
        if not tasks:
            return []
        statement = SQL["enqueue_new" if fresh else "enqueue_one"]
        if len(tasks) == 1 and self._database.write_one(statement, lambda: row_of(tasks[0], self.now())) == 1:
            done = [Enqueued(id=tasks[0].id)]
        else:
            with self._database.write() as connection:
                done = enqueue(connection, tasks, self.now())
        ring_in(self._bells)
        return done

    def get(self, task_id: str) -> TaskView | None:
        with self._database.read() as connection:
            for query in ("get_task", "get_ended_task"):
                for row in rows_of(connection.execute(SQL[query], {"id": task_id})):
                    return task_view(row)
        return None

    def has_trace(self, task_id: str) -> bool:
        return bool(self._rows("has_trace", id=task_id))

    def attempts(self, task_id: str) -> list[AttemptView]:
        return [attempt_view(row) for row in self._named("get_attempts", id=task_id)]

    # ---- the claimer

    def lanes(self, queues: Sequence[str] | None = None) -> list[Lane]:
        wanted = None if queues is None else msgspec.json.encode(list(queues)).decode()
        return [
            Lane(queue=queue, priority=priority, concurrency=concurrency, weight=weight)
            for queue, priority, concurrency, weight in self._rows("lanes", queues=wanted)
        ]

    def exchange(self, request: Exchange) -> Exchanged:
        return exchange(self._database, request, self.now())

    def claim_line(self, ask: ClaimAsk) -> None:
        """Claims go by `exchange`: what asks the database does its work, too, and reads the rows with it."""

    def owned(self, worker_id: str, among: Sequence[str] | None = None) -> list[Owned]:
        return [
            Owned(task_id=task_id, fence=fence, status=TaskState(status), cancel_requested=bool(cancel_requested))
            for task_id, fence, status, cancel_requested in self._rows("owned", worker_id=worker_id)
            if among is None or task_id in among
        ]

    def cancel_requests(self, worker_id: str) -> list[Lease]:
        return [Lease(task_id, fence) for task_id, fence in self._rows("cancel_requests", worker_id=worker_id)]

    def fold_ledgers(self, worker_id: str, names: Sequence[str]) -> None:
        """Nothing to do: exchanges go one after the other, and a row has one version. All count under the worker's id."""

    def set_sleeping(self, worker_id: str, sleeping: bool) -> None:
        """Nothing to write: a ring costs less than saying that one sleeps, so producers always ring (see `bells`)."""

    def listener(self, worker_id: str) -> Doorbell:
        return Doorbell(self.path, worker_id)

    # ---- the heartbeat

    def register(self, worker: WorkerView, timeout_s: float, exclusive: bool) -> int:
        now = self.now()
        row = {
            "id": worker.id,
            "hostname": worker.hostname,
            "pid": worker.pid,
            "version": worker.version,
            "pool_size": worker.pool_size,
            "active": worker.active,
            "timeout_s": timeout_s,
            "now": to_text(now),
        }
        with self._database.write() as connection:
            connection.execute(SQL["register"], row)
            if not exclusive:
                return 0
            connection.execute(SQL["remove_other_workers"], {"id": worker.id})
            connection.execute(SQL["end_other_terms"], {"worker_id": worker.id, "now": to_text(now)})
            return len(leader.recover_everything(connection, worker.id, now))

    def beat(self, worker_id: str, active: int, pool_size: int, timeout_s: float) -> bool:
        now = to_text(self.now())
        return self._write("beat", id=worker_id, active=active, pool_size=pool_size, timeout_s=timeout_s, now=now) == 1

    def deregister(self, worker_id: str) -> None:
        self._write("deregister", id=worker_id)

    def workers(self) -> list[WorkerView]:
        now = self.now()
        return [worker_view(row, now) for row in self._named("get_workers", now=to_text(now))]

    # ---- the leader

    def elect(self, worker_id: str, term_s: float) -> Election:
        with self._database.write() as connection:
            return leader.elect(connection, worker_id, term_s, self.now())

    def renew(self, lease: LeaderLease, term_s: float) -> bool:
        with self._database.write() as connection:
            now = self.now()
            return leader.set_term_end(connection, lease, after(now, term_s), now)

    def resign(self, lease: LeaderLease) -> None:
        with self._database.write() as connection:
            now = self.now()
            leader.set_term_end(connection, lease, now, now)

    def recover(self, lease: LeaderLease, limit: int = 500) -> Recovered:
        with self._database.write() as connection:
            now = self.now()
            return (
                leader.recover(connection, lease.worker_id, limit, now) if leader.leads(connection, lease, now) else Recovered()
            )

    def prune(self, lease: LeaderLease, retention: Retention, limit: int = 5_000) -> int:
        with self._database.write() as connection:
            now = self.now()
            return leader.prune(connection, retention, limit, now) if leader.leads(connection, lease, now) else 0

    def counts(self) -> Counts:
        now = self.now()
        enqueued: Counter[str] = Counter()
        running: dict[str, int] = {}
        with self._database.read() as connection:
            pending = dict(connection.execute(SQL["count_pending"]).fetchall())
            for type_, status, count in connection.execute(SQL["count_live"]):
                enqueued[type_] += count
                if status == TaskState.RUNNING:
                    running[type_] = count
            for query in ("count_pending", "count_dead", "get_departures"):
                enqueued.update(dict(connection.execute(SQL[query]).fetchall()))
            workers = [worker_view(row, now) for row in rows_of(connection.execute(SQL["get_workers"], {"now": to_text(now)}))]
            leads = connection.execute(SQL["get_leader"]).fetchone()
        return Counts(
            pending=pending,
            running=running,
            enqueued=dict(enqueued),
            workers=sum(worker.alive for worker in workers),
            leader=leads[0] if leads and from_text(leads[2]) > now else None,
        )

    def counters(self, worker_id: str) -> list[CounterDelta]:
        return [
            CounterDelta(name=name, labels=labels, value=value)
            for name, labels, value in self._rows("get_counters", worker_id=worker_id)
        ]

    def unknown_types(self, known: Sequence[str]) -> dict[str, int]:
        return {type_: count for type_, count in self._rows("count_pending") if type_ not in known}

    # ---- operators

    def list_tasks(self, which: TaskFilter, limit: int, before: str | None = None) -> list[TaskView]:
        with self._database.read() as connection:
            return operators.list_tasks(connection, which, limit, before)

    def status_counts(self) -> dict[tuple[str, str], int]:
        with self._database.read() as connection:
            counts = {(type_, str(TaskState.PENDING)): n for type_, n in connection.execute(SQL["count_pending"])}
            counts |= {(type_, str(TaskState.DEAD_LETTER)): n for type_, n in connection.execute(SQL["count_dead"])}
            for query in ("count_live", "count_ended"):
                counts |= {(type_, status): n for type_, status, n in connection.execute(SQL[query])}
        return counts

    def cancel(self, which: TaskFilter) -> Cancelled:
        with self._database.write() as connection:
            return operators.cancel(connection, which, self.now())

    def retry(self, which: TaskFilter) -> int:
        with self._database.write() as connection:
            moved = operators.retry(connection, which, self.now())
        if moved:
            ring_in(self._bells)
        return moved

    def delete(self, which: TaskFilter) -> int:
        with self._database.write() as connection:
            return operators.delete(connection, which, self.now())

    def queues(self) -> list[QueueView]:
        with self._database.read() as connection:
            return operators.queues(connection, self.now())

    def set_queue(
        self, name: str, *, paused: bool | None = None, concurrency: int | None = None, weight: int | None = None
    ) -> None:
        with self._database.write() as connection:
            operators.set_queue(connection, name, paused, concurrency, weight)
        if paused is False or concurrency is not None:
            ring_in(self._bells)

    # ---- one statement

    def _rows(self, query: str, **values: object) -> list[Any]:
        with self._database.read() as connection:
            return connection.execute(SQL[query], values).fetchall()

    def _named(self, query: str, **values: object) -> list[dict[str, Any]]:
        with self._database.read() as connection:
            return rows_of(connection.execute(SQL[query], values))

    def _write(self, query: str, **values: object) -> int:
        with self._database.write() as connection:
            return connection.execute(SQL[query], values).rowcount
