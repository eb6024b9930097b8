"""The PostgreSQL store: the contract of `shiftboss.store.base` over one connection that reconnects by itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any

from shiftboss.clock import Clock
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
from shiftboss.store.postgres import migrate, operate, rows
from shiftboss.store.postgres.arrays import plain_array, text_array
from shiftboss.store.postgres.claims import PostgresClaimLine, claim_line
from shiftboss.store.postgres.copying import copy_tasks
from shiftboss.store.postgres.dsn import parse_dsn
from shiftboss.store.postgres.enqueue import BEGIN, Step, alone, one_params, plan_enqueue
from shiftboss.store.postgres.exchange import exchange
from shiftboss.store.postgres.link import Link, bounds, run
from shiftboss.store.postgres.listen import PostgresListener
from shiftboss.store.postgres.params import is_uuid
from shiftboss.store.postgres.prepared import run_prepared
from shiftboss.store.postgres.sqltext import psycopg_sql
from shiftboss.store.postgres.upkeep import Upkeep


def open_postgres(dsn: str, *, clock: Clock | None = None, application_name: str = "shiftboss") -> PostgresStore:
    """A store on the database at `dsn`; connects at the first call.

    Args:
        dsn: a PostgreSQL URL or key=value string, all of libpq's options included. Several hosts mean failover: the
            writable one is used. Two options are ours: `prepare_threshold` (0: never prepare statements) and `listen`
            (`off`: poll only). A transaction pooler is noticed by itself and gets both.
        clock: only tests pass one; without it the database's clock decides.
        application_name: what `pg_stat_activity` shows.

    Raises:
        StoreError: `dsn` cannot be read.
    """
    return PostgresStore(Link(parse_dsn(dsn, application_name)), clock)


class PostgresStore:
    """One database; the object belongs to one thread at a time."""

    exchanges_at_once = 2  # one is computed here or on its way while the server works on the other

    def __init__(self, link: Link, clock: Clock | None = None) -> None:
        self._link = link
        self._clock = clock
        self._upkeep = Upkeep(link)

    def _now(self) -> datetime | None:
        """What to pass for `:now`: nothing, unless a test brought a clock."""
        return None if self._clock is None else self._clock.now()

    # ---- life

    def check_schema(self) -> None:
        migrate.check_schema(self._link)

    def migration_plan(self) -> MigrationPlan:
        return migrate.plan(self._link)

    def migrate(self) -> MigrationPlan:
        return migrate.migrate(self._link)

    def close(self) -> None:
        self._link.close()

    def now(self) -> datetime:
        moment: datetime = self._link.rows("now", {"now": self._now()})[0][0]
        return moment

    # ---- producers

    def enqueue(self, tasks: Sequence[NewTask], *, fresh: bool = False) -> list[Enqueued]:
        if not tasks:
            return []
        now = self._now()
        one = alone(tasks, fresh)
        if one is not None and run_prepared(self._link, "enqueue_one", one_params(one, now)):
            return [Enqueued(id=one.id)]
        if copy_tasks(self._link, tasks, now):
            return [Enqueued(id=task.id) for task in tasks]
        plan = plan_enqueue(tasks, now, fresh=fresh, refused=one is not None)
        try:
            step = next(plan)
            while True:
                step = plan.send(self._execute(step))
        except StopIteration as end:
            enqueued: list[Enqueued] = end.value
            return enqueued

    def _execute(self, step: Step) -> list[list[tuple[Any, ...]]]:
        """One step of the plan: in the transaction that the plan has begun or begins, else in one of its own: between two,
        another may end the task that holds a unique key."""
        if len(step) == 1 and not self._link.in_transaction():
            ((sql, params),) = step
            return [self._link.alone(psycopg_sql(sql), params, pinned=True).fetchall()]
        with self._link.connected() as connection:
            self._link.pin(connection)
            with connection.pipeline() if len(step) > 1 else nullcontext():
                cursors = []
                for sql, params in step:
                    cursors.append(connection.execute(psycopg_sql(sql), params))
                    if sql == BEGIN and not connection.pinned:
                        bounds(connection, pinned=True)
            return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def get(self, task_id: str) -> TaskView | None:
        found = operate.read_tasks(self._link, "get_task", {"id": task_id}) if is_uuid(task_id) else []
        return rows.task_view(found[0]) if found else None

    def has_trace(self, task_id: str) -> bool:
        return is_uuid(task_id) and bool(self._link.rows("has_trace", {"id": task_id}, pinned=True)[0][0])

    def attempts(self, task_id: str) -> list[AttemptView]:
        found = self._link.rows("get_attempts", {"id": task_id}) if is_uuid(task_id) else []
        return [rows.attempt_view(row) for row in found]

    # ---- the claimer

    def lanes(self, queues: Sequence[str] | None = None) -> list[Lane]:
        wanted = None if queues is None else text_array(queues)
        found = self._link.rows("lanes", {"queues": wanted}, pinned=True)
        return [
            Lane(queue=q, priority=p, concurrency=concurrency, weight=weight, due_at=due_at)
            for q, p, concurrency, weight, due_at in found
        ]

    def exchange(self, request: Exchange) -> Exchanged:
        return exchange(self._link, request, self._now())

    def claim_line(self, ask: ClaimAsk) -> PostgresClaimLine | None:
        return claim_line(self._link, ask, self._now())

    def owned(self, worker_id: str, among: Sequence[str] | None = None) -> list[Owned]:
        given = {"worker_id": worker_id} | ({} if among is None else {"ids": plain_array(among)})
        found = self._link.rows("owned" if among is None else "owned_among", given, pinned=True)
        return [
            Owned(task_id=task_id, fence=fence, status=TaskState(status), cancel_requested=asked)
            for task_id, fence, status, asked in found
        ]

    def cancel_requests(self, worker_id: str) -> list[Lease]:
        found = self._link.rows("cancel_requests", {"worker_id": worker_id}, pinned=True)
        return [Lease(task_id, fence) for task_id, fence in found]

    def fold_ledgers(self, worker_id: str, names: Sequence[str]) -> None:
        # `/0` is nobody else's: the leader of this worker counts under its id.
        given = {"into": f"{worker_id}/0", "names": text_array(names)}
        with self._link.transaction(pinned=True) as connection:
            for query in ("fold_departures_of", "fold_counters_of"):
                run(connection, query, given)

    def set_sleeping(self, worker_id: str, sleeping: bool) -> None:
        self._link.changed("set_sleeping", {"worker_id": worker_id, "sleeping": sleeping}, pinned=True)

    def listener(self, worker_id: str) -> PostgresListener:  # noqa: ARG002  every worker hears the one channel
        return PostgresListener(self._link.address)

    # ---- the heartbeat

    def register(self, worker: WorkerView, timeout_s: float, exclusive: bool) -> int:
        row = {
            "id": worker.id,
            "hostname": worker.hostname,
            "pid": worker.pid,
            "version": worker.version,
            "timeout_s": timeout_s,
            "pool_size": worker.pool_size,
            "active": worker.active,
            "now": self._now(),
        }
        with self._link.connected() as connection, connection.transaction():
            bounds(connection, pinned=True)  # to take over goes through ranges by index, whatever ANALYZE saw last
            run(connection, "register", row)
            return self._upkeep.take_over(connection, worker.id, self._now()) if exclusive else 0

    def beat(self, worker_id: str, active: int, pool_size: int, timeout_s: float) -> bool:
        row = {"worker_id": worker_id, "active": active, "pool_size": pool_size, "timeout_s": timeout_s, "now": self._now()}
        return bool(self._link.rows("beat", row))

    def deregister(self, worker_id: str) -> None:
        self._link.changed("deregister", {"worker_id": worker_id})

    def workers(self) -> list[WorkerView]:
        return [rows.worker_view(row) for row in self._link.rows("workers", {"now": self._now()})]

    # ---- the leader

    def elect(self, worker_id: str, term_s: float) -> Election:
        return self._upkeep.elect(worker_id, term_s, self._now())

    def renew(self, lease: LeaderLease, term_s: float) -> bool:
        return self._upkeep.renew(lease, term_s, self._now())

    def resign(self, lease: LeaderLease) -> None:
        self._upkeep.resign(lease, self._now())

    def recover(self, lease: LeaderLease, limit: int = 500) -> Recovered:
        return self._upkeep.recover(lease, limit, self._now())

    def prune(self, lease: LeaderLease, retention: Retention, limit: int = 5_000) -> int:
        return self._upkeep.prune(lease, retention, limit, self._now())

    def counts(self) -> Counts:
        figures: dict[str, dict[str, int]] = {"pending": {}, "running": {}, "enqueued": {}, "workers": {}, "leader": {}}
        for kind, key, n in self._link.rows("counts", {"now": self._now()}):
            figures[kind][key] = n
        return Counts(
            pending=figures["pending"],
            running=figures["running"],
            enqueued=figures["enqueued"],
            workers=figures["workers"].get("", 0),
            leader=next(iter(figures["leader"]), None),
        )

    def counters(self, worker_id: str) -> list[CounterDelta]:
        found = self._link.rows("counters", {"worker_id": worker_id})
        return [CounterDelta(name=name, labels=labels, value=value) for name, labels, value in found]

    def unknown_types(self, known: Sequence[str]) -> dict[str, int]:
        return dict(self._link.rows("unknown_types", {"known": text_array(known)}))

    # ---- operators

    def list_tasks(self, which: TaskFilter, limit: int, before: str | None = None) -> list[TaskView]:
        return operate.list_tasks(self._link, which, limit, before)

    def status_counts(self) -> dict[tuple[str, str], int]:
        return {(type_, status): n for type_, status, n in self._link.rows("status_counts")}

    def cancel(self, which: TaskFilter) -> Cancelled:
        return operate.cancel(self._link, which, self._now())

    def retry(self, which: TaskFilter) -> int:
        return operate.retry(self._link, which, self._now())

    def delete(self, which: TaskFilter) -> int:
        return operate.delete(self._link, which, self._now())

    def queues(self) -> list[QueueView]:
        return [rows.queue_view(row) for row in self._link.rows("queues", {"now": self._now()})]

    def set_queue(
        self, name: str, *, paused: bool | None = None, concurrency: int | None = None, weight: int | None = None
    ) -> None:
        params = {"name": name, "paused": paused, "concurrency": concurrency, "weight": weight}
        self._link.changed("set_queue", params)
        if paused is False or concurrency is not None:
            self._link.rows("ring")
