"""What the stores must do, in plain Python over dictionaries: the other side of the rule machine.

Written from `TASK_TRANSITIONS` and the contract in `shiftboss.store.base`, not from the stores: every change of a state goes
through `_move`, which refuses what the table does not have. Times are seconds since the clock's start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shiftboss.lease import LeaderLease
from shiftboss.model import (
    LEASED_STATES,
    MAX_REFUNDS,
    TASK_TRANSITIONS,
    Ended,
    Enqueued,
    Lease,
    NewTask,
    Outcome,
    TaskEvent,
    TaskState,
    Verdict,
)
from shiftboss.store.base import TRACE_S
from shiftboss.store.counting import Applied, outcome_counters

TYPE: Final = "model:run"
TYPE_ATTEMPTS: Final = 2  # of a task that says nothing itself
PENDING, CLAIMED, RUNNING = TaskState.PENDING, TaskState.CLAIMED, TaskState.RUNNING
COMPLETED, CANCELLED, DEAD = TaskState.COMPLETED, TaskState.CANCELLED, TaskState.DEAD_LETTER
UNFINISHED: Final = frozenset({PENDING, CLAIMED, RUNNING})
ENDED_BY: Final = {
    Outcome.SUCCESS: TaskEvent.SUCCEED,
    Outcome.FAILED: TaskEvent.FAIL,
    Outcome.TIMEOUT: TaskEvent.FAIL,
    Outcome.CRASHED: TaskEvent.FAIL,
    Outcome.INTERRUPTED: TaskEvent.INTERRUPT,
    Outcome.SNOOZED: TaskEvent.SNOOZE,
    Outcome.CANCELLED: TaskEvent.CANCEL,
}


@dataclass(slots=True)
class Row:
    """One task, alive or ended."""

    id: str
    run_at: float
    key: str | None = None
    max_attempts: int | None = None
    status: TaskState = PENDING
    attempts: int = 0
    refunds: int = 0
    fence: int = 0
    worker: str | None = None
    asked: bool = False
    next_retry_at: float | None = None
    updated_at: float = 0.0

    @property
    def due_at(self) -> float:
        return self.run_at if self.next_retry_at is None else self.next_retry_at

    @property
    def charged(self) -> int:
        """The number of the attempt under way."""
        return self.attempts + (self.status is CLAIMED)

    @property
    def limit(self) -> int:
        return self.max_attempts or TYPE_ATTEMPTS


@dataclass(frozen=True, slots=True)
class Logged:
    """One row of the attempt history."""

    attempt: int
    outcome: Outcome
    ended_at: float


@dataclass(slots=True)
class Oracle:
    """The whole database. `seen` counts what has happened, over all runs."""

    seen: Counter[tuple[object, ...]]
    attempts_leave_early: bool = False  # PostgreSQL forgets attempts by age alone, once their task has left `tasks`
    now: float = 0.0
    rows: dict[str, Row] = field(default_factory=dict)
    log: dict[tuple[str, int], Logged] = field(default_factory=dict)
    traces: dict[str, tuple[int, float]] = field(default_factory=dict)  # of a task that completed without a history: fence, when
    workers: dict[str, tuple[float, float]] = field(default_factory=dict)
    leader: tuple[str, int, float] | None = None
    counters: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    enqueued: int = 0

    # ---- producers

    def enqueue(self, tasks: Sequence[NewTask]) -> list[Enqueued]:
        return [self._enqueue(task) for task in tasks]

    def _enqueue(self, task: NewTask) -> Enqueued:
        if task.id in self.rows or task.id in self.traces:
            return Enqueued(id=task.id, existing=True)
        holder = self._holder(task.unique_key)
        if holder is not None:
            return Enqueued(id=holder, existing=True)
        self.seen[None, TaskEvent.ENQUEUE, PENDING] += 1
        run_at = self.now + (task.delay_s or 0.0)
        self.rows[task.id] = Row(task.id, run_at, task.unique_key, task.max_attempts, updated_at=self.now)
        self.enqueued += 1
        return Enqueued(id=task.id)

    def _holder(self, key: str | None) -> str | None:
        found = (row.id for row in self.rows.values() if row.key == key and row.status in UNFINISHED)
        return None if key is None else next(found, None)

    # ---- the claimer

    def end(
        self, worker: str, batch: Iterable[Ended], keep_completed: bool, locked: str | None = None
    ) -> list[tuple[Verdict, TaskState | None]]:
        """A verdict and a state for each; `locked` is a task whose row somebody else holds."""
        return [self._end(worker, ended, ended.task_id == locked, keep_completed) for ended in batch]

    def _end(self, worker: str, ended: Ended, locked: bool, keep_completed: bool) -> tuple[Verdict, TaskState | None]:
        if locked:
            self.seen["locked", ended.outcome is Outcome.SUCCESS] += 1
            return Verdict.LATER, None
        row = self._mine(ended.task_id, ended.fence)
        stood = self.rows[ended.task_id].status if ended.task_id in self.rows else None
        if row is None:
            verdict, state = (Verdict.ALREADY_APPLIED if self._ended_before(ended) else Verdict.FENCED), None
        else:
            verdict, state = Verdict.APPLIED, self._apply(worker, row, ended)
            if state is COMPLETED and not keep_completed:
                del self.rows[row.id]
                self.traces[row.id] = row.fence, self.now
        self.seen[ended.outcome, verdict] += 1
        self.seen["row was", stood, verdict] += 1
        return verdict, state

    def _mine(self, task_id: str, fence: int) -> Row | None:
        row = self.rows.get(task_id)
        return row if row is not None and row.fence == fence and row.status in LEASED_STATES else None

    def _ended_before(self, ended: Ended) -> bool:
        row, logged = self.rows.get(ended.task_id), self.log.get((ended.task_id, ended.fence))
        completed = row is not None and row.status is COMPLETED and row.fence == ended.fence
        completed |= self.traces.get(ended.task_id, (None,))[0] == ended.fence
        stored = Outcome.SUCCESS if completed else logged.outcome if logged is not None else None
        return stored is ended.outcome

    def _apply(self, worker: str, row: Row, ended: Ended) -> TaskState:
        charged = row.charged
        delay_s = ended.retry_in_s
        if ended.outcome is not Outcome.SUCCESS:
            self.log[row.id, row.fence] = Logged(charged, ended.outcome, self.now)
        match ended.outcome:
            case Outcome.SUCCESS:
                self._finish(row, TaskEvent.SUCCEED, COMPLETED)
            case Outcome.CANCELLED:
                self._finish(row, TaskEvent.CANCEL, CANCELLED)
            case Outcome.SNOOZED:
                self._refund(row, TaskEvent.SNOOZE, self.now + (delay_s or 0.0))
            case Outcome.INTERRUPTED:
                self._refund(row, TaskEvent.INTERRUPT, None)
            case _:
                row.next_retry_at = None if delay_s is None else self.now + delay_s
                self._spend(row, TaskEvent.FAIL, final=delay_s is None)
        self._count(worker, [Applied(TYPE, charged, ended.outcome, row.status, ended.duration_s)])
        return row.status

    def start(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            row = self._mine(*lease_key(lease))
            if row is not None and row.status is CLAIMED:
                row.attempts += 1
                self._move(row, TaskEvent.START, RUNNING)

    def release(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            row = self._mine(*lease_key(lease))
            if row is not None and row.status is RUNNING:
                charged, refunded = row.charged, row.refunds < MAX_REFUNDS
                self._refund(row, TaskEvent.RELEASE, row.next_retry_at)
                if not refunded:
                    self.log[row.id, row.fence] = Logged(charged, Outcome.INTERRUPTED, self.now)
            elif row is not None:
                self._again(row, TaskEvent.RELEASE)

    def claim(self, worker: str, limit: int, running: int, locked: str | None = None) -> list[tuple[str, int, int, int, bool]]:
        """(id, fence, attempt, max_attempts, running) of each; a row that somebody else holds is passed over."""
        due = [row for row in self.rows.values() if row.status is PENDING and row.due_at <= self.now and row.id != locked]
        due.sort(key=lambda row: (row.due_at, row.id))
        return [self._claim(row, worker, index < running) for index, row in enumerate(due[:limit])]

    def _claim(self, row: Row, worker: str, running: bool) -> tuple[str, int, int, int, bool]:
        self._move(row, TaskEvent.CLAIM, RUNNING if running else CLAIMED)
        row.fence, row.worker, row.asked = row.fence + 1, worker, False
        row.max_attempts = max(row.limit, row.attempts + 1)
        row.attempts += running
        return row.id, row.fence, row.charged, row.max_attempts, running

    # ---- what becomes of it

    def _refund(self, row: Row, event: TaskEvent, next_retry_at: float | None) -> None:
        row.next_retry_at = next_retry_at
        if row.refunds >= MAX_REFUNDS:
            self._spend(row, event)
            return
        row.attempts, row.refunds = row.charged - 1, row.refunds + 1
        self._again(row, event)

    def _spend(self, row: Row, event: TaskEvent, final: bool = False) -> None:
        row.attempts = row.charged
        if row.attempts < row.limit and not final:
            self._again(row, event)
        else:
            row.next_retry_at = None
            self._move(row, event, DEAD)
            row.asked = False

    def _again(self, row: Row, event: TaskEvent) -> None:
        if row.asked:
            self._move(row, TaskEvent.CANCEL, CANCELLED)
        else:
            self._move(row, event, PENDING)
            row.worker = None
        row.asked = False

    def _finish(self, row: Row, event: TaskEvent, state: TaskState) -> None:
        row.attempts = row.charged
        self._move(row, event, state)

    def _move(self, row: Row, event: TaskEvent, state: TaskState) -> None:
        assert state in TASK_TRANSITIONS[row.status, event], f"{row.status} -{event}-> {state} is not in the table"
        self.seen[row.status, event, state] += 1
        row.status, row.updated_at = state, self.now

    def _count(self, worker: str, applied: Iterable[Applied]) -> None:
        for delta in outcome_counters(applied):
            self.counters[worker, delta.name, delta.labels] += delta.value  # type: ignore[assignment]

    # ---- workers and the leader

    def register(self, worker: str, timeout_s: float, exclusive: bool) -> int:
        self.workers[worker] = (self.now, timeout_s)
        if not exclusive:
            return 0
        self.workers = {worker: self.workers[worker]}
        if self.leader is not None and self.leader[0] != worker and self.leader[2] > self.now:
            self.leader = (*self.leader[:2], self.now)
        return len(self._recover_orphans(worker))

    def beat(self, worker: str, timeout_s: float) -> bool:
        if worker not in self.workers:
            return False
        self.workers[worker] = (self.now, timeout_s)
        return True

    def elect(self, worker: str, term_s: float) -> int | None:
        """The term, if it is led."""
        holder, term, until = self.leader or ("", 0, self.now)
        runs = until > self.now
        if runs and holder != worker:
            return None
        self.leader = (worker, term + (not runs), self.now + term_s)
        return self.leader[1]

    def leads(self, lease: LeaderLease) -> bool:
        led = self.leader is not None and self.leader[:2] == (lease.worker_id, lease.term) and self.leader[2] > self.now
        self.seen["leads", led] += 1
        return led

    def renew(self, lease: LeaderLease, term_s: float) -> bool:
        if not self.leads(lease):
            return False
        self.leader = (lease.worker_id, lease.term, self.now + term_s)
        return True

    def recover(self, lease: LeaderLease) -> tuple[list[str], int, int]:
        """The workers removed, how many tasks went back and how many were dead letters."""
        if not self.leads(lease):
            return [], 0, 0
        gone = sorted(worker for worker, (beat, timeout_s) in self.workers.items() if beat + timeout_s < self.now)
        self.workers = {worker: row for worker, row in self.workers.items() if worker not in gone}
        states = self._recover_orphans(lease.worker_id)
        return gone, states.count(PENDING), states.count(DEAD)

    def _recover_orphans(self, counted_by: str) -> list[TaskState]:
        orphans = [row for row in self.rows.values() if row.status in LEASED_STATES and row.worker not in self.workers]
        for row in orphans:
            charged = row.charged
            if row.status is CLAIMED and row.refunds < MAX_REFUNDS:
                row.refunds += 1
                self._again(row, TaskEvent.RECOVER)
                continue
            row.next_retry_at = None
            self.log[row.id, row.fence] = Logged(charged, Outcome.LOST, self.now)
            self._spend(row, TaskEvent.RECOVER)
            self._count(counted_by, [Applied(TYPE, charged, Outcome.LOST, row.status, 0.0)])
        return [row.status for row in orphans]

    def prune(self, lease: LeaderLease, keep_s: dict[TaskState, float]) -> None:
        if not self.leads(lease):
            return
        for row in list(self.rows.values()):
            if row.status in keep_s and row.updated_at < self.now - keep_s[row.status]:
                self._remove(row)
                self.seen[row.status, TaskEvent.PRUNE, None] += 1
        old = {task_id for task_id, (_, ended_at) in self.traces.items() if ended_at < self.now - TRACE_S}
        self.traces = {task_id: it for task_id, it in self.traces.items() if task_id not in old}
        if self.attempts_leave_early:
            before = self.now - max(keep_s.values())
            alive = {row.id for row in self.rows.values() if row.status not in (COMPLETED, CANCELLED)}
            self.log = {key: it for key, it in self.log.items() if key[0] in alive or it.ended_at >= before}
        else:
            self.log = {key: it for key, it in self.log.items() if key[0] not in old}
        self.counters = Counter({key: n for key, n in self.counters.items() if key[0] in self.workers})

    # ---- operators

    def cancel(self, task_id: str) -> tuple[int, int]:
        """How many were cancelled, and how many asked to stop."""
        row = self.rows.get(task_id)
        if row is not None and row.status is PENDING:
            self._move(row, TaskEvent.CANCEL, CANCELLED)
            return 1, 0
        if row is not None and row.status in LEASED_STATES:
            self._move(row, TaskEvent.CANCEL, row.status)
            row.asked = True
            return 0, 1
        return 0, 0

    def retry(self, task_id: str) -> int:
        row = self.rows.get(task_id)
        if row is None or row.status not in (DEAD, CANCELLED) or self._holder(row.key) is not None:
            return 0
        self._move(row, TaskEvent.RETRY, PENDING)
        row.attempts, row.refunds, row.worker, row.asked, row.next_retry_at = 0, 0, None, False, None
        row.run_at = min(row.run_at, self.now)
        return 1

    def delete(self, task_id: str) -> int:
        row = self.rows.get(task_id)
        if row is None or row.status in LEASED_STATES:
            return 0
        self._remove(row)
        return 1

    def revive_by_hand(self) -> None:
        """The statement that the pages promise to operators, for tasks without a unique key."""
        for row in self.rows.values():
            if row.status is DEAD and row.key is None:
                row.status, row.attempts, row.next_retry_at = PENDING, 0, None

    def _remove(self, row: Row) -> None:
        del self.rows[row.id]
        self.log = {key: it for key, it in self.log.items() if key[0] != row.id}


def lease_key(lease: Lease) -> tuple[str, int]:
    return lease.task_id, lease.fence
