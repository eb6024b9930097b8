"""The contract that both databases keep; one behavioural suite in tests/store runs on each.

Rules of every implementation:

* The database's clock decides about heartbeats, terms and due times, unless the store was opened with a test clock.
* "Mine" is id *and* fence, and the row is claimed or running. A write that is not mine changes nothing.
* `exchange` is one transaction. A batch never fails because of one row: it falls back to row by row, and an error text
  that cannot be stored is replaced by a sanitised one. A verdict is read by a second statement, with a fresh snapshot.
* A row that somebody else has locked (an operator's open transaction) holds up nothing but itself: the rest of the batch is
  stored, and it comes back as `LATER`. Only PostgreSQL has such locks.
* A database that cannot be reached raises `StoreUnavailable`; whatever was under way then has an unknown outcome.
  Sending the same `Ended` again is always right. The next call reconnects by itself.
* A store object belongs to one thread, except where a method says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final, Protocol

import msgspec

from shiftboss.lease import LeaderLease
from shiftboss.model import (
    AttemptView,
    Claim,
    Ended,
    Enqueued,
    Lease,
    NewTask,
    Progress,
    QueueView,
    TaskState,
    TaskView,
    TypeInfo,
    Verdict,
    WorkerView,
)


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One (queue, priority) that has pending tasks, with its queue's settings. Paused queues have no lanes.

    `due_at`: Unix seconds; what is due first in it was, or will be, due then. Minus infinity where that was not looked for.
    """

    queue: str
    priority: int
    concurrency: int | None = None
    weight: int = 1
    due_at: float = -math.inf


class LaneAsk(msgspec.Struct, frozen=True, kw_only=True):
    """How much to claim from one lane. `since`: Unix seconds; rows due before it are not looked at (`None`: all are).

    The claimer remembers where a lane's live range starts, so that dead rows before it cost nothing. What comes to stand before
    that is seen by whoever reads the lanes (`Lane.due_at`).
    """

    queue: str
    priority: int
    limit: int
    since: float | None = None


class ClaimAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for tasks. Lanes are drained in their order; `merge` takes the oldest or newest due over all lanes instead."""

    lanes: Sequence[LaneAsk]
    limit: int  # in all
    running: int  # how many of them, the first ones, are stored as running (a slot is free) instead of claimed
    types: Sequence[TypeInfo]  # only these are claimed; they also fill in max_attempts and timeout where the row has none
    merge: str | None = None  # None, "fifo" or "lifo"
    unread: bool = False  # nobody has just read the lanes: nothing from queues that have a concurrency by now


class CounterDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What to add to one of this worker's counters, stored in the transaction of what it counts, so it is always true.

    Counts of outcomes are made by the store itself, from those that were applied (`store.counting.outcome_counters`, called
    inside the same transaction, before its commit). `Exchange.counters` carries what else the worker counts, as it stands.

    `name` is a metric's name, `labels` its label values as a JSON object with sorted keys (`{"type":"mail:send"}`).
    """

    name: str
    labels: str
    value: float


# How long the trace of a task that completed without a history is kept: so long an end or an enqueue may be sent again.
TRACE_S: Final = 3_600.0


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """All that one worker wants written and claimed in one transaction. Order: ended, starts, releases, progress, claim.

    `cautious`: wait for no row that somebody else has locked; for a worker that has just been told `LATER`.
    `ledger`: whose rows count what this one does: the worker's own when empty, else `worker id/n` (n from 1), so that exchanges
    of one worker that go on at the same time do not wait for each other, and no row is changed too often (`fold_ledgers`).
    `keep_completed`: whether tasks that complete move to the history. Else only a trace is left of each, its id and fence, for
    `TRACE_S`: for this long an end or an enqueue that is sent again is known.
    """

    worker_id: str
    ended: Sequence[Ended] = ()
    starts: Sequence[Lease] = ()  # claimed -> running, attempts + 1
    releases: Sequence[Lease] = ()  # never started: back to pending, nothing charged (running ones get their attempt back)
    progress: Sequence[Progress] = ()
    counters: Sequence[CounterDelta] = ()
    claim: ClaimAsk | None = None
    cautious: bool = False
    ledger: str = ""
    keep_completed: bool = True


class Exchanged(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `verdicts[i]` and `states[i]` belong to `ended[i]`; `states[i]` is where an applied one led to, else `None`.

    `later`: ids of the tasks whose rows somebody else has locked. Nothing of this request was written to them, neither ends
    (their verdict is `LATER`) nor starts, releases and progress.
    """

    verdicts: Sequence[Verdict]
    states: Sequence[TaskState | None]
    claims: Sequence[Claim]
    later: AbstractSet[str] = frozenset()


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """A task that the database says this worker holds."""

    task_id: str
    fence: int
    status: TaskState
    cancel_requested: bool


class Election(msgspec.Struct, frozen=True, kw_only=True):
    """The result of trying to lead: a lease, or how long the present leader's term has left."""

    lease: LeaderLease | None
    retry_in_s: float


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass over the dead did. `next_in_s`: when the next living worker could expire; `None`: there is none."""

    workers: Sequence[str] = ()  # removed
    pending: int = 0  # tasks that run again
    dead_letter: int = 0
    next_in_s: float | None = None


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long ended tasks are kept, in seconds. `result_s` clears only the result of a completed task.

    Traces (see `Exchange`) are kept for `TRACE_S`, whatever stands here.
    """

    completed_s: float = 7 * 86_400.0
    cancelled_s: float = 7 * 86_400.0
    dead_letter_s: float = 30 * 86_400.0
    result_s: float = 86_400.0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the whole database for gauges, read in one snapshot."""

    pending: Mapping[str, int] = {}  # by type
    running: Mapping[str, int] = {}  # by type, claimed ones not included
    enqueued: Mapping[str, int] = {}  # by type, ever: never falls while tasks are only removed by Shiftboss
    workers: int = 0
    leader: str | None = None  # worker id of the present leader


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks; every field that is given must match."""

    ids: Sequence[str] | None = None
    status: TaskState | None = None
    type: str | None = None
    queue: str | None = None
    worker_id: str | None = None
    tag: str | None = None


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks were cancelled at once (pending) and how many were asked to stop (claimed, running)."""

    cancelled: int = 0
    requested: int = 0


class MigrationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `migrate` would do: versions and their SQL, in order."""

    current: int
    target: int
    steps: Sequence[tuple[int, str, str]] = ()  # (version, name, sql)


class Listener(Protocol):
    """Wakes a claimer. Used by one thread; `close` may be called from another and ends a `wait` under way."""

    def wait(self, timeout_s: float) -> bool:
        """Block until someone rang or `timeout_s` passed; whether someone rang.

        Raises:
            StoreUnavailable: the connection is gone (noticed by probing too); make a new listener.
        """
        ...

    def close(self) -> None: ...


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What a claim that asked for its turn is told.

    `mine`: no other claim has its turn just now in the lane that this one names first. `alone`: no other worker has a row.
    """

    mine: bool
    alone: bool


class ClaimAnswer(Protocol):
    """What a claim got. `turn`: `None` for one that did not ask; one whose turn it was not has got nothing."""

    @property
    def turn(self) -> Turn | None: ...

    def claims(self) -> list[Claim]: ...


class ClaimLine(Protocol):
    """Claims, each committed by itself, of which the next is on its way before the one before has been answered. Used by one
    thread. After an error it is closed, and what was claimed by those without an answer is not known.

    Every method raises as `Store.exchange` does.
    """

    def fileno(self) -> int:
        """Readable when `answer`, after it has had nothing, may have something: answers may come together."""
        ...

    def send(self, worker_id: str, ask: ClaimAsk, in_turn: bool) -> None:
        """`in_turn`: get nothing while another worker that asked for its turn is claiming. Nobody waits for a turn."""
        ...

    def answer(self) -> ClaimAnswer | None:
        """To the oldest that has none yet, if it has come; does not wait."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """One open database.

    Attributes:
        exchanges_at_once: how many exchanges of one worker are worth while at the same time, each by a store of its own; 1
            where there is one writer at a time.
    """

    exchanges_at_once: int

    # ---- life

    def check_schema(self) -> None:
        """Raises `SchemaError` with the command to run unless the schema is the one this version works with."""
        ...

    def migration_plan(self) -> MigrationPlan: ...

    def migrate(self) -> MigrationPlan:
        """Bring the schema up to date; safe when many call it at once. Returns what was done."""
        ...

    def close(self) -> None: ...

    # ---- producers

    def enqueue(self, tasks: Sequence[NewTask], *, fresh: bool = False) -> list[Enqueued]:
        """Store all of them in one transaction; wakes sleeping claimers. In the order given.

        Args:
            fresh: their ids were made for this call and nobody has sent them before, so none of them can have ended.
        """
        ...

    def get(self, task_id: str) -> TaskView | None:
        """The task, alive or ended; `None` when there is none."""
        ...

    def has_trace(self, task_id: str) -> bool:
        """Whether the task completed in a worker without a history, and that was less than about `TRACE_S` ago."""
        ...

    def attempts(self, task_id: str) -> list[AttemptView]:
        """Its unsuccessful attempts, oldest first."""
        ...

    # ---- the claimer

    def lanes(self, queues: Sequence[str] | None = None) -> list[Lane]:
        """Every (queue, priority) with a pending task, largest priority first, of queues not paused (and in `queues`)."""
        ...

    def exchange(self, request: Exchange) -> Exchanged: ...

    def claim_line(self, ask: ClaimAsk) -> ClaimLine | None:
        """A line for claims with the `merge` of this one; until it is closed this store can do nothing else.

        `None`: claims go by `exchange` here.
        """
        ...

    def owned(self, worker_id: str, among: Sequence[str] | None = None) -> list[Owned]:
        """All that the database says `worker_id` holds; `among`: only of these ids."""
        ...

    def cancel_requests(self, worker_id: str) -> list[Lease]:
        """Held by `worker_id` and asked to stop."""
        ...

    def fold_ledgers(self, worker_id: str, names: Sequence[str]) -> None:
        """Add what was counted under these names (`Exchange.ledger`), which no exchange uses any more, under one."""
        ...

    def set_sleeping(self, worker_id: str, sleeping: bool) -> None:
        """Say whether this worker's claimer waits to be woken: producers ring only when one does."""
        ...

    def listener(self, worker_id: str) -> Listener:
        """A new listener with its own connection or socket; may be used in another thread than the store."""
        ...

    # ---- the heartbeat

    def register(self, worker: WorkerView, timeout_s: float, exclusive: bool) -> int:
        """Insert the worker's row (times are the database's).

        `exclusive` (single instance): in the same transaction remove every other worker, end their lead and recover what
        they held.
        Returns how many tasks were recovered.
        """
        ...

    def beat(self, worker_id: str, active: int, pool_size: int, timeout_s: float) -> bool:
        """Renew the worker's row, and what a reload may have changed in it. `False`: it is gone, this worker is fenced.

        Args:
            active: attempts that run.
            pool_size: slots.
            timeout_s: silent for so long from now on, the worker is gone.
        """
        ...

    def deregister(self, worker_id: str) -> None:
        """Remove the worker's row at the end of a clean stop; what it still holds is recovered by the leader."""
        ...

    def workers(self) -> list[WorkerView]: ...

    # ---- the leader

    def elect(self, worker_id: str, term_s: float) -> Election:
        """Take the lead if nobody's term is running, with a new term; a call by the holder of a running term renews it."""
        ...

    def renew(self, lease: LeaderLease, term_s: float) -> bool:
        """Extend a term that is still ours. `False`: it is not; stop leading at once."""
        ...

    def resign(self, lease: LeaderLease) -> None:
        """End our term now, so that another may lead; the term's number is never reused."""
        ...

    def recover(self, lease: LeaderLease, limit: int = 500) -> Recovered:
        """Remove expired workers and recover up to `limit` tasks whose worker's row is gone.

        Guarded by the term in the same transaction: a leader that has been replaced changes nothing.
        """
        ...

    def prune(self, lease: LeaderLease, retention: Retention, limit: int = 5_000) -> int:
        """Remove what is older than its retention, and prepare what the coming days need. Rows (or partitions') count."""
        ...

    def counts(self) -> Counts: ...

    def counters(self, worker_id: str) -> list[CounterDelta]:
        """This worker's counters as they stand."""
        ...

    def unknown_types(self, known: Sequence[str]) -> dict[str, int]:
        """Pending tasks of types that are not in `known`: type -> count."""
        ...

    # ---- operators

    def list_tasks(self, which: TaskFilter, limit: int, before: str | None = None) -> list[TaskView]:
        """Newest first (by id); `before`: the id to go on from."""
        ...

    def status_counts(self) -> dict[tuple[str, str], int]:
        """(type, status) -> count, of `tasks` and `task_history`."""
        ...

    def cancel(self, which: TaskFilter) -> Cancelled: ...

    def retry(self, which: TaskFilter) -> int:
        """Dead letters and cancelled tasks that match become pending with attempts 0 and their fence kept. How many.

        One whose unique key is taken meanwhile stays as it is.
        """
        ...

    def delete(self, which: TaskFilter) -> int:
        """Remove ended or pending tasks that match; claimed and running ones stay. How many."""
        ...

    def queues(self) -> list[QueueView]: ...

    def set_queue(
        self, name: str, *, paused: bool | None = None, concurrency: int | None = None, weight: int | None = None
    ) -> None:
        """Create or change a queue's settings; `None` leaves a setting alone, concurrency 0 means no limit."""
        ...

    def now(self) -> datetime:
        """The database's clock."""
        ...
