"""The rule machine: Hypothesis chooses what happens next, a real store and the oracle both do it, and everything is compared.

Workers forget answers, send things twice, late and after they were declared dead; claims are kept for ever, so most of what is
reported is stale. Two workers, few tasks and few unique keys, so that everything meets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shiftboss.lease import LeaderLease
from shiftboss.model import MAX_REFUNDS, Ended, Lease, NewTask, Outcome, TaskState, TypeInfo, WorkerView
from shiftboss.store.base import TRACE_S, ClaimAsk, Exchange, LaneAsk, Retention, TaskFilter
from tests.model.oracle import TYPE, TYPE_ATTEMPTS, Oracle
from tests.model.world import Line, World

# Half seconds: no two moments that are compared ever fall together, since the databases may differ about the very instant.
WORKER_TIMEOUT_S: Final = 30.5
TERM_S: Final = 60.5
DURATION_S: Final = 0.5
KEEP_S: Final = {TaskState.COMPLETED: 100.5, TaskState.CANCELLED: 100.5, TaskState.DEAD_LETTER: 200.5}
RETENTION: Final = Retention(completed_s=100.5, cancelled_s=100.5, dead_letter_s=200.5, result_s=50.5)
SPENT: Final = (0, 0, MAX_REFUNDS - 1, MAX_REFUNDS)
MAX_TASKS: Final = 6
REMEMBERED: Final = 8

_Task: TypeAlias = tuple[str | None, int | None, int]  # unique key, max_attempts, refunds used already

_LANE: Final = LaneAsk(queue="default", priority=0, limit=10)
_INFO: Final = TypeInfo(type=TYPE, max_attempts=TYPE_ATTEMPTS)
_ARGS: Final = msgspec.Raw(b"{}")
_BROKEN_JSON: Final = msgspec.Raw(b"{not json")

# What a worker says of a lease: an outcome with its delay, or a word that is not an end.
ENDS: Final[dict[str, tuple[Outcome, float | None]]] = {
    "success": (Outcome.SUCCESS, None),
    "failed": (Outcome.FAILED, 20.0),
    "failed for good": (Outcome.FAILED, None),
    "timeout": (Outcome.TIMEOUT, 0.0),
    "crashed": (Outcome.CRASHED, 0.0),
    "interrupted": (Outcome.INTERRUPTED, None),
    "snoozed": (Outcome.SNOOZED, 20.0),
    "snoozed for nothing": (Outcome.SNOOZED, 0.0),
    "cancelled": (Outcome.CANCELLED, None),
}
POISON: Final = "success that cannot be stored"
WORDS: Final = ("start", "release", "start", "release", POISON, *ENDS)
DELIVERIES: Final = ("now", "now", "now", "now and unheard", "twice", "late", "now and late")

_two: Final = st.integers(0, 1)
_any_task: Final = st.integers(0, MAX_TASKS - 1)
_any_lease: Final = st.integers(0, REMEMBERED - 1)
_task: Final = st.tuples(st.sampled_from((None, None, "k")), st.sampled_from((None, 1, 3)), st.sampled_from(SPENT))
_reports: Final = st.lists(st.tuples(_any_lease, st.sampled_from(WORDS)), min_size=1, max_size=3)


class Rules(RuleBasedStateMachine):
    """One run. Subclasses say on which world, and where to count what was seen."""

    world: World
    seen: Counter[tuple[object, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.world.wipe()
        self.oracle = Oracle(self.seen, attempts_leave_early=self.world.backend == "postgres")
        self.ids: list[str] = []
        self.sent: list[NewTask] = []
        self.claims: list[Lease] = [Lease("01900000-0000-7000-8000-ffffffffffff", 1)]  # one of which nobody knows
        self.knows: dict[str, set[Lease]] = {}
        self.late: list[Exchange] = []
        self.leases: list[LeaderLease] = [LeaderLease("nobody", 1)]
        self.fences: dict[str, int] = {}
        self.minted = 0
        self.keepers: set[str] = set()
        self.workers = [self._new_worker(), self._new_worker()]

    def _new_worker(self, exclusive: bool = False) -> str:
        self.minted += 1
        name = f"worker-{self.minted}"
        self.knows[name] = set()
        if self.minted % 2:  # the others keep no history of completed tasks
            self.keepers.add(name)
        epoch = self.world.clock.start
        row = WorkerView(id=name, hostname="h", pid=1, version="1", started_at=epoch, last_heartbeat=epoch, pool_size=1, active=0)
        recovered = self.world.store.register(row, WORKER_TIMEOUT_S, exclusive)
        assert recovered == self.oracle.register(name, WORKER_TIMEOUT_S, exclusive)
        return name

    # ---- producers and operators

    @initialize(tasks=st.lists(_task, min_size=1, max_size=3))
    def begin(self, tasks: list[_Task]) -> None:
        for key, attempts, refunds in tasks:
            self._enqueue(key, attempts, refunds, None)
        self._compare()

    @precondition(lambda self: len(self.ids) < MAX_TASKS)
    @rule(task=_task, later=st.booleans())
    def enqueue(self, task: _Task, later: bool) -> None:
        self._enqueue(*task, 20.0 if later else None)
        self._compare()

    def _enqueue(self, key: str | None, attempts: int | None, refunds: int, delay_s: float | None) -> None:
        task_id = f"01900000-0000-7000-8000-{len(self.ids) + 1:012x}"
        task = NewTask(id=task_id, type=TYPE, args=_ARGS, unique_key=key, max_attempts=attempts, delay_s=delay_s)
        self.ids.append(task.id)
        self.sent.append(task)
        for _ in range(2):  # the second time as if no answer had come
            assert self.world.store.enqueue([task]) == self.oracle.enqueue([task])
        if refunds and task.id in self.oracle.rows:
            self.world.run(f"UPDATE tasks SET refunds = {refunds} WHERE id = '{task.id}'")
            self.oracle.rows[task.id].refunds = refunds

    @precondition(lambda self: self.sent)
    @rule(indexes=st.lists(_any_task, min_size=1, max_size=3, unique=True))
    def enqueue_again(self, indexes: list[int]) -> None:
        tasks = [self.sent[index] for index in indexes if index < len(self.sent)]
        assert self.world.store.enqueue(tasks) == self.oracle.enqueue(tasks)
        self._compare()

    @rule(task=_any_task)
    def cancel(self, task: int) -> None:
        task_id = self._task(task)
        done = self.world.store.cancel(TaskFilter(ids=[task_id]))
        assert (done.cancelled, done.requested) == self.oracle.cancel(task_id)
        self._compare()

    @rule(task=_any_task)
    def retry(self, task: int) -> None:
        task_id = self._task(task)
        assert self.world.store.retry(TaskFilter(ids=[task_id])) == self.oracle.retry(task_id)
        self._compare()

    @precondition(lambda self: any(row.status is TaskState.DEAD_LETTER for row in self.oracle.rows.values()))
    @rule(delete=st.booleans(), task=_any_task)
    def operate_by_hand(self, delete: bool, task: int) -> None:
        if delete:
            task_id = self._task(task)
            assert self.world.store.delete(TaskFilter(ids=[task_id])) == self.oracle.delete(task_id)
            self.fences.pop(task_id, None)
        else:
            self.world.run(
                "UPDATE tasks SET status = 'pending', attempts = 0, next_retry_at = NULL "
                "WHERE status = 'dead_letter' AND unique_key IS NULL"
            )
            self.oracle.revive_by_hand()
        self._compare()

    def _task(self, index: int) -> str:
        return self.ids[index % len(self.ids)] if self.ids else self.claims[0].task_id

    # ---- workers

    @rule(who=_two, limit=st.integers(1, 3), running=st.integers(0, 2), heard=st.sampled_from((True, True, True, False)))
    def claim(self, who: int, limit: int, running: int, heard: bool) -> None:
        request = Exchange(worker_id=self.workers[who], claim=_ask(limit, running))
        self._send(request, heard)
        self._compare()

    @rule(who=_two, running=_two, word=st.sampled_from(WORDS), delivery=st.sampled_from(DELIVERIES), waited=st.booleans())
    def work(self, who: int, running: int, word: str, delivery: str, waited: bool) -> None:
        if waited:
            self.time_passes(25.0)
        self._send(Exchange(worker_id=self.workers[who], claim=_ask(1, running)), heard=True)
        self._deliver(self._request(self.workers[who], [(0, word)], 0), delivery)
        self._compare()

    @rule(who=_two, running=_two, before=st.sampled_from(("timeout", "interrupted", "release")), word=st.sampled_from(WORDS))
    def outlive(self, who: int, running: int, before: str, word: str) -> None:
        """A worker speaks of a lease when another one has the task."""
        worker, other = self.workers[who], self.workers[1 - who]
        self._send(Exchange(worker_id=worker, claim=_ask(1, 1)), heard=True)
        self._send(self._request(worker, [(0, before)], 0), heard=True)
        self._send(Exchange(worker_id=other, claim=_ask(1, running)), heard=True)
        self._send(self._request(worker, [(1, word)], 0), heard=True)
        self._compare()

    @rule(who=_two, reports=_reports, delivery=st.sampled_from(DELIVERIES), limit=_two)
    def report(self, who: int, reports: list[tuple[int, str]], delivery: str, limit: int) -> None:
        self._deliver(self._request(self.workers[who], reports, limit), delivery)
        self._compare()

    @precondition(lambda self: self.world.backend == "postgres")
    @rule(who=_two, task=_any_task, reports=_reports)
    def report_past_a_lock(self, who: int, task: int, reports: list[tuple[int, str]]) -> None:
        """An operator's open transaction holds a row: it comes back as LATER, and holds up nothing else."""
        task_id = self._task(task)
        request = msgspec.structs.replace(self._request(self.workers[who], reports, 1), cautious=True)
        self.world.run("BEGIN")
        held = self.world.run(f"SELECT id FROM tasks WHERE id = '{task_id}' FOR UPDATE")
        try:
            self._send(request, heard=True, locked=task_id if held else None)
        finally:
            self.world.run("ROLLBACK")
        self._compare()

    def _deliver(self, request: Exchange, delivery: str) -> None:
        if delivery.endswith("late"):
            self.late.append(msgspec.structs.replace(request, claim=request.claim if delivery == "late" else None))
        if delivery != "late":
            self._send(request, heard=delivery != "now and unheard")
        if delivery in ("twice", "now and unheard"):
            self._send(msgspec.structs.replace(request, claim=None), heard=True)

    @precondition(lambda self: self.late)
    @rule(index=st.integers(0, 9))
    def arrive_late(self, index: int) -> None:
        self._send(self.late.pop(index % len(self.late)), heard=False)
        self._compare()

    @rule(who=_two)
    def sweep(self, who: int) -> None:
        worker = self.workers[who]
        owned = self.world.store.owned(worker)
        expected = sorted(
            (row.id, row.fence, row.status, row.asked)
            for row in self.oracle.rows.values()
            if row.worker == worker and row.status in (TaskState.CLAIMED, TaskState.RUNNING)
        )
        assert [(it.task_id, it.fence, it.status, it.cancel_requested) for it in owned] == expected
        asked = [Lease(task_id, fence) for task_id, fence, _, wanted in expected if wanted]
        assert self.world.store.cancel_requests(worker) == asked
        unknown = [lease for it in owned if (lease := Lease(it.task_id, it.fence)) not in self.knows[worker]]
        self._send(Exchange(worker_id=worker, releases=unknown), heard=True)
        self._compare()

    @rule(who=_two, what=st.sampled_from(("beat", "beat", "beat", "start anew", "start alone", "leave")))
    def live(self, who: int, what: str) -> None:
        worker = self.workers[who]
        if what == "beat":
            assert self.world.store.beat(worker, 0, 1, WORKER_TIMEOUT_S) == self.oracle.beat(worker, WORKER_TIMEOUT_S)
        elif what == "leave":
            self.world.store.deregister(worker)
            self.oracle.workers.pop(worker, None)
        else:
            self.workers[who] = self._new_worker(exclusive=what == "start alone")
        self._compare()

    @rule(seconds=st.sampled_from((1.0, 20.0, 40.0, 110.0)))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.passed_s += seconds
        self.oracle.now += seconds

    # ---- the leader

    @rule(who=_two, what=st.sampled_from(("elect", "renew", "resign")), old=_two)
    def lead(self, who: int, what: str, old: int) -> None:
        store, lease = self.world.store, self._lease(old)
        match what:
            case "elect":
                self._elect(who)
            case "renew":
                assert store.renew(lease, TERM_S) == self.oracle.renew(lease, TERM_S)
            case _:
                store.resign(lease)
                if self.oracle.leads(lease):
                    self.oracle.leader = (lease.worker_id, lease.term, self.oracle.now)
        self._compare()

    @rule(who=_two, elect=st.booleans(), old=_two)
    def recover(self, who: int, elect: bool, old: int) -> None:
        if elect:
            self._elect(who)
        lease = self._lease(old)
        found = self.world.store.recover(lease)
        assert (sorted(found.workers), found.pending, found.dead_letter) == self.oracle.recover(lease)
        self._compare()

    @rule(who=_two, elect=st.booleans(), old=_two, seconds=st.sampled_from((0.0, 110.0, 210.0, TRACE_S)))
    def prune(self, who: int, elect: bool, old: int, seconds: float) -> None:
        self.time_passes(seconds)
        if elect:
            self._elect(who)
        lease = self._lease(old)
        self.world.store.prune(lease, RETENTION)
        self.oracle.prune(lease, KEEP_S)
        self.fences = {task_id: fence for task_id, fence in self.fences.items() if task_id in self.oracle.rows}
        self._compare()

    def _elect(self, who: int) -> None:
        won = self.world.store.elect(self.workers[who], TERM_S).lease
        term = self.oracle.elect(self.workers[who], TERM_S)
        assert won == (None if term is None else LeaderLease(self.workers[who], term))
        self.leases += [] if won is None else [won]

    def _lease(self, old: int) -> LeaderLease:
        return self.leases[-1 - old % len(self.leases)]

    # ---- one exchange

    def _request(self, worker: str, reports: Sequence[tuple[int, str]], limit: int) -> Exchange:
        said = [(self.claims[-1 - index % len(self.claims)], word) for index, word in reports]
        return Exchange(
            worker_id=worker,
            ended=[_ended(lease, word) for lease, word in said if word not in ("start", "release")],
            starts=[lease for lease, word in said if word == "start"],
            releases=[lease for lease, word in said if word == "release"],
            claim=_ask(limit, limit) if limit else None,
        )

    def _send(self, request: Exchange, heard: bool, locked: str | None = None) -> None:
        keep = request.worker_id in self.keepers
        answer = self.world.store.exchange(msgspec.structs.replace(request, keep_completed=keep))
        poisoned = any(ended.result == _BROKEN_JSON for ended in request.ended)
        expected = self.oracle.end(request.worker_id, request.ended, keep, locked)
        assert list(zip(answer.verdicts, answer.states, strict=True)) == expected, request
        self.seen["poisoned", poisoned] += 1
        self.oracle.start(lease for lease in request.starts if lease.task_id != locked)
        self.oracle.release(lease for lease in request.releases if lease.task_id != locked)
        ask = request.claim
        claimed = [] if ask is None else self.oracle.claim(request.worker_id, ask.limit, ask.running, locked)
        assert [(it.task_id, it.fence, it.attempt, it.max_attempts, it.running) for it in answer.claims] == claimed
        self._remember(request, [Lease(it.task_id, it.fence) for it in answer.claims], heard)

    def _remember(self, request: Exchange, claims: Sequence[Lease], heard: bool) -> None:
        known = self.knows.setdefault(request.worker_id, set())
        known.difference_update(request.releases, [Lease(ended.task_id, ended.fence) for ended in request.ended])
        if heard:
            known.update(claims)
        self.claims = [*self.claims, *claims][-REMEMBERED:]

    # ---- what must be equal

    def _compare(self) -> None:
        found = self.world.lines()
        broken = [line for line in found if line[0] == "broken"]
        assert not broken, broken
        expected = _lines(self.oracle)
        assert found == expected, (
            f"only stored: {sorted(found - expected, key=str)}, only expected: {sorted(expected - found, key=str)}"
        )
        for task_id, row in self.oracle.rows.items():
            assert row.fence >= self.fences.get(task_id, 0)
            self.fences[task_id] = row.fence

    def teardown(self) -> None:
        counts = self.world.store.counts()
        assert counts.enqueued.get(TYPE, 0) == self.oracle.enqueued
        pending = sum(row.status is TaskState.PENDING for row in self.oracle.rows.values())
        assert counts.pending.get(TYPE, 0) == pending


def _ask(limit: int, running: int) -> ClaimAsk:
    return ClaimAsk(lanes=[_LANE], limit=limit, running=running, types=[_INFO])


def _ended(lease: Lease, word: str) -> Ended:
    if word == POISON:
        return Ended(task_id=lease.task_id, fence=lease.fence, outcome=Outcome.SUCCESS, result=_BROKEN_JSON)
    outcome, retry_in_s = ENDS[word]
    return Ended(
        task_id=lease.task_id,
        fence=lease.fence,
        outcome=outcome,
        error=None if outcome is Outcome.SUCCESS else "said",
        retry_in_s=retry_in_s,
        duration_s=DURATION_S,
    )


def _lines(oracle: Oracle) -> set[Line]:
    """What `World.lines` reads when all is well."""
    lines: set[Line] = set()
    for row in oracle.rows.values():
        limit = None if row.max_attempts is None else str(row.max_attempts)
        ended = row.status in (TaskState.COMPLETED, TaskState.CANCELLED)
        if ended:
            worker = row.worker if row.status is TaskState.COMPLETED else None
            lines.add(("ended", row.id, str(row.status), str(row.attempts), str(row.fence), None, worker, None, limit))
        else:
            asked = "asked" if row.asked else None
            shown = (str(row.attempts), str(row.fence), str(row.refunds), row.worker, asked, limit)
            lines.add(("task", row.id, str(row.status), *shown))
    for (task_id, fence), it in oracle.log.items():
        lines.add(("attempt", task_id, str(it.outcome), str(it.attempt), str(fence), None, None, None, None))
    lines |= {("worker", name, None, None, None, None, None, None, None) for name in oracle.workers}
    if oracle.leader is not None:
        lines.add(("leader", oracle.leader[0], None, None, str(oracle.leader[1]), None, None, None, None))
    for (worker_id, name, labels), value in oracle.counters.items():
        lines.add(("counter", worker_id, name, labels, str(int(value * 2)), None, None, None, None))
    return lines
