"""Every call of the store that writes, as a deed: how it is set up, done, done again, and what must be true after that.

Used by the tests that cut its answer off. `check` runs after the deed was sent a second time, as its actor would, whatever
became of the first; whoever looks must see that it was done once.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from shiftboss.lease import LeaderLease
from shiftboss.model import Claim, Ended, Lease, NewTask, Outcome, Progress, TaskState, TypeInfo, Verdict, WorkerView, new_task_id
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk, Retention, Store, TaskFilter

TYPE: Final = "mail:send"
ME: Final = "w1"
_TYPES: Final = (TypeInfo(type=TYPE, max_attempts=3),)
_KEEP_NOTHING: Final = Retention(completed_s=0.0, cancelled_s=0.0, dead_letter_s=0.0, result_s=0.0)
RunSql = Callable[..., list[tuple[Any, ...]]]


@dataclass
class Scene:
    """What one deed is about. `direct` is a store that nobody cuts, `sql` an operator."""

    direct: Store
    sql: RunSql
    ids: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    new: list[NewTask] = field(default_factory=list)
    lease: LeaderLease | None = None
    answers: list[Any] = field(default_factory=list)  # of the calls that were answered

    # ---- setting up

    def put(self, count: int = 1, **options: Any) -> None:
        self.new = [NewTask(id=new_task_id(), type=TYPE, args=msgspec.Raw(b"{}"), **options) for _ in range(count)]
        self.ids += [one.id for one in self.direct.enqueue(self.new)]

    def take(self, running: bool = True, count: int = 1, worker_id: str = ME) -> None:
        self.put(count)
        asked = claim_ask(count, running=count if running else 0)
        self.claims = list(self.direct.exchange(Exchange(worker_id=worker_id, claim=asked)).claims)
        assert len(self.claims) == count

    def bury(self, count: int = 1) -> None:
        """Dead letters."""
        self.take(count=count)
        ends = [end_of(one, Outcome.FAILED) for one in self.claims]
        self.direct.exchange(Exchange(worker_id=ME, ended=ends))

    def lead(self) -> None:
        self.lease = self.direct.elect(ME, 30.0).lease
        assert self.lease is not None

    @property
    def term(self) -> LeaderLease:
        assert self.lease is not None
        return self.lease

    # ---- looking

    def states(self) -> list[TaskState | None]:
        found = [self.direct.get(task_id) for task_id in self.ids]
        return [None if one is None else one.status for one in found]

    def attempts(self) -> list[int]:
        return [view.attempts for view in map(self.direct.get, self.ids) if view is not None]

    def outcomes(self) -> list[list[Outcome]]:
        return [[one.outcome for one in self.direct.attempts(task_id)] for task_id in self.ids]

    def departed(self) -> int:
        """How many have left `tasks`, by the count that metrics are made of."""
        return int(self.sql("SELECT coalesce(sum(n), 0) FROM departures")[0][0])

    def count(self, table: str) -> int:
        return int(self.sql(f"SELECT count(*) FROM {table}")[0][0])

    def counter(self, name: str) -> float:
        return sum(delta.value for delta in self.direct.counters(ME) if delta.name == name)


@dataclass(frozen=True)
class Deed:
    """`statements`: the named queries by which the proxy knows it."""

    name: str
    statements: tuple[str, ...]
    set_up: Callable[[Scene], None]
    do: Callable[[Store, Scene], Any]
    check: Callable[[Scene], None]
    again: Callable[[Store, Scene], Any] | None = None  # when its actor does not simply send the same again


def claim_ask(limit: int, running: int) -> ClaimAsk:
    lanes = [LaneAsk(queue="default", priority=0, limit=limit)]
    return ClaimAsk(lanes=lanes, limit=limit, running=running, types=_TYPES)


def end_of(claim: Claim, outcome: Outcome, retry_in_s: float | None = None) -> Ended:
    return Ended(task_id=claim.task_id, fence=claim.fence, outcome=outcome, retry_in_s=retry_in_s, error=str(outcome))


# ---- producers


def _enqueue(store: Store, scene: Scene) -> None:
    scene.new = scene.new or [
        NewTask(id=new_task_id(), type=TYPE, args=msgspec.Raw(b"{}"), unique_key=key) for key in (None, "k", None)
    ]
    scene.ids = [one.id for one in scene.new]
    scene.answers.append([one.id for one in store.enqueue(scene.new)])


def _is_enqueued(scene: Scene) -> None:
    assert scene.answers[-1] == scene.ids
    assert scene.states() == [TaskState.PENDING] * 3
    assert scene.count("tasks") == 3


# ---- the claimer


def _claim(store: Store, scene: Scene) -> None:
    scene.answers.append(store.exchange(Exchange(worker_id=ME, claim=claim_ask(3, running=2))).claims)


def _claim_in_line(store: Store, _scene: Scene) -> None:
    line = store.claim_line(claim_ask(2, running=2))
    assert line is not None
    try:
        for limit in (2, 1):
            line.send(ME, claim_ask(limit, running=limit), in_turn=True)
        for _ in range(2):
            while line.answer() is None:
                select.select([line], [], [], 1.0)
    finally:
        line.close()


def _reconcile(store: Store, _scene: Scene) -> None:
    """A claim is not sent again: what is ours and nobody knows of is given back, at each heartbeat."""
    unknown = [Lease(one.task_id, one.fence) for one in store.owned(ME)]
    store.exchange(Exchange(worker_id=ME, releases=unknown))


def _is_free_again(scene: Scene) -> None:
    assert scene.states() == [TaskState.PENDING] * 3
    assert scene.attempts() == [0] * 3, "nobody has run it, so nothing is charged"
    claims = scene.direct.exchange(Exchange(worker_id="w2", claim=claim_ask(3, running=3))).claims
    assert sorted(one.task_id for one in claims) == sorted(scene.ids)


def _enqueue_what_completes(store: Store, scene: Scene) -> None:
    """Whatever became of it, a worker without a history completes all that is there before it is sent again."""
    for claim in scene.direct.exchange(Exchange(worker_id=ME, claim=claim_ask(3, running=3))).claims:
        ended = [end_of(claim, Outcome.SUCCESS)]
        scene.direct.exchange(Exchange(worker_id=ME, ended=ended, keep_completed=False))
    _enqueue(store, scene)


def _has_run_or_waits_once(scene: Scene) -> None:
    assert scene.answers[-1] == scene.ids
    assert scene.count("tasks") + scene.departed() == 3


def _ending(outcome: Outcome, retry_in_s: float | None = None, keep: bool = True) -> Callable[[Store, Scene], None]:
    def do(store: Store, scene: Scene) -> None:
        ends = [end_of(one, outcome, retry_in_s) for one in scene.claims]
        scene.answers.append(store.exchange(Exchange(worker_id=ME, ended=ends, keep_completed=keep)).verdicts)

    return do


def _told_the_truth(scene: Scene) -> None:
    assert set(scene.answers[-1]) <= {Verdict.APPLIED, Verdict.ALREADY_APPLIED}, "its own end is never fenced"


def _is_completed(scene: Scene) -> None:
    _told_the_truth(scene)
    assert scene.states() == [TaskState.COMPLETED] * 2
    assert scene.attempts() == [1, 1]
    assert scene.departed() == 2
    assert scene.count("tasks") == 0
    assert scene.count("task_history") == 2
    assert scene.counter("tasks_completed_total") in (0.0, 2.0)


def _is_completed_without_history(scene: Scene) -> None:
    _told_the_truth(scene)
    assert scene.states() == [None] * 2
    assert [scene.direct.has_trace(task_id) for task_id in scene.ids] == [True] * 2
    assert scene.departed() == 2
    assert (scene.count("tasks"), scene.count("task_history"), scene.count("task_traces")) == (0, 0, 1)


def _has_failed(state: TaskState, outcome: Outcome, attempts: int) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        _told_the_truth(scene)
        assert scene.states() == [state] * 2
        assert scene.attempts() == [attempts] * 2
        assert scene.outcomes() == [[outcome]] * 2

    return check


def _start(store: Store, scene: Scene) -> None:
    store.exchange(Exchange(worker_id=ME, starts=[Lease(one.task_id, one.fence) for one in scene.claims]))


def _has_started(scene: Scene) -> None:
    assert scene.states() == [TaskState.RUNNING] * 2
    assert scene.attempts() == [1, 1]


def _release(store: Store, scene: Scene) -> None:
    store.exchange(Exchange(worker_id=ME, releases=[Lease(one.task_id, one.fence) for one in scene.claims]))


def _release_after_others(store: Store, scene: Scene) -> None:
    """Meanwhile another worker has claimed what was given back: the second request must not touch that."""
    scene.answers.append(scene.direct.exchange(Exchange(worker_id="w2", claim=claim_ask(2, running=2))).claims)
    _release(store, scene)


def _is_released(scene: Scene) -> None:
    others = {one.task_id for claims in scene.answers for one in claims}  # at the first time or at the second
    for task_id, attempts in zip(scene.ids, scene.attempts(), strict=True):
        assert attempts == (task_id in others)
        view = scene.direct.get(task_id)
        assert view is not None
        assert (view.status, view.worker_id) == ((TaskState.RUNNING, "w2") if task_id in others else (TaskState.PENDING, None))


def _progress(store: Store, scene: Scene) -> None:
    made = [Progress(task_id=one.task_id, fence=one.fence, percent=40, note="half way") for one in scene.claims]
    store.exchange(Exchange(worker_id=ME, progress=made))


def _shows_progress(scene: Scene) -> None:
    assert scene.count("tasks WHERE progress IS NOT NULL") == 2


# ---- the heartbeat and the leader


def _worker(worker_id: str) -> WorkerView:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return WorkerView(
        id=worker_id, hostname="h", pid=1, version="1", started_at=moment, last_heartbeat=moment, pool_size=4, active=0
    )


def _is_registered(scene: Scene) -> None:
    assert [one.id for one in scene.direct.workers()] == [ME]


def _hold_for_a_dead_worker(scene: Scene) -> None:
    scene.lead()
    scene.take(count=2, worker_id="dead")


def _recover(store: Store, scene: Scene) -> None:
    scene.answers.append(store.recover(scene.term))


def _is_recovered(scene: Scene) -> None:
    assert scene.states() == [TaskState.PENDING] * 2
    assert scene.attempts() == [1, 1]
    assert scene.outcomes() == [[Outcome.LOST]] * 2
    assert scene.answers[-1].pending in (0, 2)


def _elect(store: Store, scene: Scene) -> None:
    lease = store.elect(ME, 30.0).lease
    assert lease is not None
    scene.answers.append(lease.term)
    scene.lease = lease


def _leads_once(scene: Scene) -> None:
    assert set(scene.answers) == {1}
    assert scene.direct.elect("w2", 30.0).lease is None
    assert scene.direct.renew(scene.term, 30.0)


def _renew(store: Store, scene: Scene) -> None:
    scene.answers.append(store.renew(scene.term, 30.0))


def _still_leads(scene: Scene) -> None:
    assert scene.answers == [True]
    assert scene.direct.elect("w2", 30.0).lease is None


def _nobody_leads(scene: Scene) -> None:
    lease = scene.direct.elect("w2", 30.0).lease
    assert lease is not None
    assert lease.term == 2


def _bury_and_lead(scene: Scene) -> None:
    scene.bury(2)
    scene.lead()


def _prune(store: Store, scene: Scene) -> None:
    scene.answers.append(store.prune(scene.term, _KEEP_NOTHING))


def _is_pruned(scene: Scene) -> None:
    assert scene.states() == [None, None]
    assert scene.departed() == 2
    assert scene.count("task_attempts") == 0


# ---- operators


def _which(scene: Scene) -> TaskFilter:
    return TaskFilter(ids=scene.ids)


def _is_cancelled(scene: Scene) -> None:
    assert scene.states() == [TaskState.CANCELLED] * 2
    assert scene.departed() == 2
    assert scene.count("task_history") == 2


def _is_retried(scene: Scene) -> None:
    assert scene.states() == [TaskState.PENDING] * 2
    assert scene.attempts() == [0, 0]
    assert scene.departed() == 0


def _cancel_first(scene: Scene) -> None:
    scene.put(2)
    scene.direct.cancel(_which(scene))


def _is_deleted(scene: Scene) -> None:
    assert scene.states() == [None, None]
    assert scene.departed() == 2


def _is_paused(scene: Scene) -> None:
    (queue,) = scene.direct.queues()
    assert queue.paused


def _two(running: bool) -> Callable[[Scene], None]:
    return lambda scene: scene.take(running=running, count=2)


def _nothing(_scene: Scene) -> None:
    """Needs no setting up."""


DEEDS: Final[Sequence[Deed]] = (
    Deed("enqueue", ("enqueue",), _nothing, _enqueue, _is_enqueued),
    Deed("enqueue what completes", ("enqueue",), _nothing, _enqueue, _has_run_or_waits_once, _enqueue_what_completes),
    Deed("claim", ("claim",), lambda scene: scene.put(3), _claim, _is_free_again, _reconcile),
    Deed("claim in line", ("claim",), lambda scene: scene.put(3), _claim_in_line, _is_free_again, _reconcile),
    Deed("finish", ("complete_tasks",), _two(True), _ending(Outcome.SUCCESS), _is_completed),
    Deed("finish unstarted", ("complete_tasks",), _two(False), _ending(Outcome.SUCCESS), _is_completed),
    Deed(
        "finish without a history",
        ("forget_completed",),
        _two(True),
        _ending(Outcome.SUCCESS, keep=False),
        _is_completed_without_history,
    ),
    Deed("fail", ("end_attempts",), _two(True), _ending(Outcome.FAILED, 60.0), _has_failed(TaskState.PENDING, Outcome.FAILED, 1)),
    Deed("bury", ("end_attempts",), _two(True), _ending(Outcome.FAILED), _has_failed(TaskState.DEAD_LETTER, Outcome.FAILED, 1)),
    Deed(
        "snooze",
        ("end_attempts",),
        _two(True),
        _ending(Outcome.SNOOZED, 60.0),
        _has_failed(TaskState.PENDING, Outcome.SNOOZED, 0),
    ),
    Deed("release", ("end_attempts",), _two(False), _release, _is_released, _release_after_others),
    Deed("start", ("start_tasks",), _two(False), _start, _has_started),
    Deed("progress", ("store_progress",), _two(True), _progress, _shows_progress),
    Deed("register", ("register",), _nothing, lambda s, _: s.register(_worker(ME), 30.0, exclusive=False), _is_registered),
    Deed(
        "register alone",
        ("register",),
        _hold_for_a_dead_worker,
        lambda s, _: s.register(_worker(ME), 30.0, exclusive=True),
        lambda scene: (scene.answers.append(scene.direct.recover(scene.term)), _is_recovered(scene))[1],
    ),
    Deed(
        "heartbeat",
        ("beat",),
        lambda scene: scene.direct.register(_worker(ME), 30.0, exclusive=False) and None,
        lambda s, scene: scene.answers.append(s.beat(ME, 0, 4, 30.0)),
        lambda scene: _is_registered(scene),
    ),
    Deed("elect", ("elect",), _nothing, _elect, _leads_once),
    Deed("renew", ("renew",), Scene.lead, _renew, _still_leads),
    Deed("resign", ("resign",), Scene.lead, lambda s, scene: s.resign(scene.term), _nobody_leads),
    # Passed again and again: rows that an older pass of ours still holds are left to the next one.
    Deed("recover", ("end_attempts",), _hold_for_a_dead_worker, _recover, _is_recovered, _recover),
    Deed("prune", ("prune_dead_letters",), _bury_and_lead, _prune, _is_pruned, _prune),
    Deed("cancel", ("cancel",), lambda scene: scene.put(2), lambda s, scene: s.cancel(_which(scene)), _is_cancelled),
    Deed(
        "retry dead letters", ("retry_dead_letters",), lambda c: c.bury(2), lambda s, scene: s.retry(_which(scene)), _is_retried
    ),
    Deed("retry cancelled", ("retry_cancelled",), _cancel_first, lambda s, scene: s.retry(_which(scene)), _is_retried),
    Deed("delete", ("delete_tasks",), lambda scene: scene.put(2), lambda s, scene: s.delete(_which(scene)), _is_deleted),
    Deed("pause", ("set_queue",), _nothing, lambda s, _: s.set_queue("default", paused=True), _is_paused),
)
