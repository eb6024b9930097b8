"""What the store suite is written with: a clock that stands still, short names for tasks, claims and ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec

from shiftboss.lease import LeaderLease
from shiftboss.model import (
    Claim,
    Ended,
    Lease,
    NewTask,
    Outcome,
    TaskState,
    TaskView,
    TypeInfo,
    Verdict,
    WorkerView,
)
from shiftboss.store.base import ClaimAsk, Exchange, Exchanged, LaneAsk, Store, TaskFilter

TYPE = "mail:send"
_ids = count(1)  # real ids of one millisecond have no order; a test's have
RawSql = Callable[[str], list[tuple[Any, ...]]]


class ManualClock:
    """A clock that moves only when a test says so."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC).replace(microsecond=0)
        self._monotonic_s = 1_000.0

    def now(self) -> datetime:
        return self._now

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic_s += seconds

    def set_back(self, seconds: float) -> None:
        """Somebody corrects it: it was ahead."""
        self._now -= timedelta(seconds=seconds)


def raw_json(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def new(type_: str = TYPE, **fields: Any) -> NewTask:
    fields.setdefault("id", f"01900000-0000-7000-8000-{next(_ids):012x}")
    fields.setdefault("args", raw_json({"user_id": 1}))
    return NewTask(type=type_, **fields)


def put(store: Store, type_: str = TYPE, **fields: Any) -> str:
    """Enqueue one task; its id."""
    (stored,) = store.enqueue([new(type_, **fields)])
    return stored.id


def info(type_: str = TYPE, **fields: Any) -> TypeInfo:
    return TypeInfo(type=type_, **fields)


def ask(
    store: Store,
    limit: int = 100,
    running: int | None = None,
    types: Sequence[TypeInfo] = (info(),),
    merge: str | None = None,
    lanes: Sequence[LaneAsk] | None = None,
) -> ClaimAsk:
    """A wish for all lanes there are, everything running unless said otherwise."""
    if lanes is None:
        lanes = [LaneAsk(queue=lane.queue, priority=lane.priority, limit=limit) for lane in store.lanes()]
    return ClaimAsk(lanes=lanes, limit=limit, running=limit if running is None else running, types=types, merge=merge)


def take(store: Store, limit: int = 100, worker_id: str = "w1", **wish: Any) -> list[Claim]:
    return list(store.exchange(Exchange(worker_id=worker_id, claim=ask(store, limit, **wish))).claims)


def take_one(store: Store, **wish: Any) -> Claim:
    (claim,) = take(store, 1, **wish)
    return claim


def ended(claim: Claim | Lease, outcome: Outcome = Outcome.SUCCESS, **fields: Any) -> Ended:
    return Ended(task_id=claim.task_id, fence=claim.fence, outcome=outcome, **fields)


def finish(store: Store, *batch: Ended, worker_id: str = "w1") -> list[tuple[Verdict, TaskState | None]]:
    answer: Exchanged = store.exchange(Exchange(worker_id=worker_id, ended=batch))
    assert len(answer.verdicts) == len(answer.states) == len(batch)
    return list(zip(answer.verdicts, answer.states, strict=True))


def finish_one(store: Store, end: Ended) -> tuple[Verdict, TaskState | None]:
    (answer,) = finish(store, end)
    return answer


def lease(claim: Claim) -> Lease:
    return Lease(claim.task_id, claim.fence)


def view(store: Store, task_id: str) -> TaskView:
    found = store.get(task_id)
    assert found is not None, f"task {task_id} is lost"
    return found


def status(store: Store, task_id: str) -> TaskState:
    return view(store, task_id).status


def by_id(*ids: str) -> TaskFilter:
    return TaskFilter(ids=ids)


def worker(worker_id: str, **fields: Any) -> WorkerView:
    epoch = datetime.fromtimestamp(0, UTC)  # the store puts its own times
    given = {
        "hostname": "host",
        "pid": 1,
        "version": "1",
        "started_at": epoch,
        "last_heartbeat": epoch,
        "pool_size": 10,
        "active": 0,
    }
    return WorkerView(id=worker_id, **(given | fields))


def lead(store: Store, worker_id: str = "leader", term_s: float = 30.0) -> LeaderLease:
    lease = store.elect(worker_id, term_s).lease
    assert lease is not None
    return lease


def put_into_history(raw: RawSql, task_id: str, status: str, fence: str = "fence") -> None:
    """By an operator's hand: the task stands in both tables, which no transition leads to."""
    copied = "id, type, queue, priority, args, attempts, enqueued_at, run_at"
    raw(
        f"INSERT INTO task_history ({copied}, status, fence, finished_at, updated_at) "
        f"SELECT {copied}, '{status}', {fence}, updated_at, updated_at FROM tasks WHERE id = '{task_id}'"
    )


@dataclass
class World:
    """A database, our connection to it, a second one, and the operator's."""

    backend: str
    store: Store
    clock: ManualClock
    raw: RawSql
    open: Callable[[], Store] = field(repr=False)
