"""What the store is doing while its disk is recorded: producers, claimers, a leader and operators, by a seeded dice.

All of them take turns in one thread, each with a store of its own, so that after each call the whole database can be
written down. A power cut must then give back the state after the last acknowledged call, or the one after the call that
was under way: no other.
"""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from shiftboss.lease import LeaderLease
from shiftboss.model import Claim, Ended, Lease, NewTask, Outcome, Progress, TaskState, TypeInfo, WorkerView
from shiftboss.store.base import ClaimAsk, CounterDelta, Exchange, LaneAsk, Retention, TaskFilter
from shiftboss.store.sqlite import SqliteStore, open_sqlite
from shiftboss.store.sqlite.statements import SQL
from tests.chaos.power.disk import Image, Operation
from tests.chaos.power.vfs import Recorder

FILE: Final = "tasks.db"
CHECKPOINT_PAGES: Final = 100  # the product's 4,000 would give no checkpoint, the most delicate moment, in a short recording
MAX_TASKS: Final = 120  # alive at a time: a small file makes a quick cut
TYPES: Final = (TypeInfo(type="mail"), TypeInfo(type="scan"))
Dump: TypeAlias = tuple[str, ...]  # the whole database as SQL, a line a row


@dataclass(slots=True)
class Step:
    """One call of the store, by the number of disk operations before it and after it, and the database after it."""

    name: str
    begun_at: int
    acknowledged_at: int
    after: Dump


@dataclass(slots=True)
class Recording:
    """Everything about one stretch of work.

    Attributes:
        before: the database at its start.
        image: the files at its start.
        written: the files at its end, as the operating system has them.
        index_file: the -shm file as it was in the middle: after a cut it may hold anything.
    """

    before: Dump
    image: Image
    steps: list[Step] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    written: Image = field(default_factory=dict)
    index_file: bytes = b""


class _Clock:
    """Moves by calls only, so that a seed gives the same work every time."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def monotonic_s(self) -> float:
        return self._now.timestamp()

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


def record(folder: Path, image: Image, seed: str, steps: int, round_number: int = 0) -> Recording:
    """Let the store work in `folder` for so many calls, starting from `image` (empty: no database yet)."""
    for name, content in image.items():
        (folder / name).write_bytes(content)
    recorder = Recorder(folder)
    with recorder.recording():
        work = _Work(folder / FILE, recorder, random.Random(seed), round_number)
        recording = Recording(before=work.dump(), image=image)
        with contextlib.closing(work):
            for number in range(steps):
                work.step(recording)
                if number == steps // 2:
                    recording.index_file = (folder / f"{FILE}-shm").read_bytes()
    recording.operations = recorder.operations
    recording.written = {file.name: file.read_bytes() for file in folder.iterdir() if file.name in (FILE, f"{FILE}-wal")}
    return recording


def synchronous(level: str) -> None:
    """Break the product on purpose: `NORMAL` or `OFF` in the place of FULL, in this process."""
    _replace("PRAGMA synchronous = FULL", f"PRAGMA synchronous = {level}")


def checkpoint_often() -> None:
    """Make checkpoints come every `CHECKPOINT_PAGES`, in this process."""
    _replace("PRAGMA wal_autocheckpoint = 4000", f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


def _replace(old: str, new: str) -> None:
    assert isinstance(SQL, dict)
    assert old in SQL["open_connection"] or new in SQL["open_connection"], f"the store no longer says {old}"
    SQL["open_connection"] = SQL["open_connection"].replace(old, new)


class _Work:
    """The players and what they hold."""

    def __init__(self, path: Path, recorder: Recorder, rng: random.Random, round_number: int) -> None:
        self._path, self._recorder, self._rng = path, recorder, rng
        self._clock = _Clock(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=round_number))
        self._stores = {name: open_sqlite(path, self._clock) for name in ("producer", "w1", "w2", "leader", "reader")}
        self._held: dict[str, list[Claim]] = {"w1": [], "w2": []}
        self._lease: LeaderLease | None = None
        self._reader = contextlib.ExitStack()
        self._plan = self._moves()

    def close(self) -> None:
        self._reader.close()
        for store in self._stores.values():
            store.close()

    def dump(self) -> Dump:
        return dump(self._stores["producer"])

    def step(self, recording: Recording) -> None:
        """One call, and what the database is after it."""
        act = self._next()
        begun_at = len(self._recorder.operations)
        act()
        acknowledged_at = len(self._recorder.operations)
        self._clock.advance(self._rng.uniform(0.01, 3.0))
        recording.steps.append(Step(act.__name__.strip("_"), begun_at, acknowledged_at, self.dump()))

    def _moves(self) -> list[tuple[float, Callable[[], None]]]:
        return [
            (20, self._enqueue),
            (30, self._exchange),
            (4, self._beat),
            (3, self._elect),
            (3, self._recover),
            (4, self._cancel),
            (4, self._retry),
            (4, self._delete),
            (3, self._prune),
            (2, self._set_queue),
            (4, self._come_or_go),
            (3, self._restart),
            (3, self._read_for_a_while),
        ]

    def _next(self) -> Callable[[], None]:
        if self._stores["producer"].migration_plan().steps:
            return self._migrate
        if len(self._ids()) > MAX_TASKS:
            return self._delete
        weights, acts = [one for one, _act in self._plan], [act for _one, act in self._plan]
        return self._rng.choices(acts, weights=weights)[0]

    # ---- the players

    def _migrate(self) -> None:
        self._stores["producer"].migrate()

    def _enqueue(self) -> None:
        self._stores["producer"].enqueue([self._new() for _ in range(self._rng.choice((1, 1, 1, 5, 20)))])

    def _new(self) -> NewTask:
        rng = self._rng
        size = rng.choice((10, 10, 10, 200, 3_000, 20_000)) if rng.random() < 0.3 else 10
        return NewTask(
            id=str(uuid.UUID(int=rng.getrandbits(128))),
            type=rng.choice(("mail", "scan")),
            queue=rng.choice(("default", "bulk")),
            priority=rng.randint(-1, 1),
            max_attempts=rng.randint(1, 4),
            args=msgspec.Raw(msgspec.json.encode({"text": rng.randbytes(size // 2).hex()})),
            unique_key=f"key-{rng.randrange(8)}" if rng.random() < 0.1 else None,
        )

    def _exchange(self) -> None:
        rng, worker = self._rng, self._rng.choice(("w1", "w2"))
        held, store = self._held[worker], self._stores[worker]
        over = [held.pop() for _ in range(rng.randint(0, len(held)))]
        back = [Lease(one.task_id, one.fence) for one in held if not one.running and rng.random() < 0.3]
        asks = [LaneAsk(queue=lane.queue, priority=lane.priority, limit=8) for lane in store.lanes()]
        answer = store.exchange(
            Exchange(
                worker_id=worker,
                ended=[self._ended(one) for one in over],
                releases=back,
                progress=[Progress(task_id=one.task_id, fence=one.fence, percent=50.0, note="half") for one in held[:2]],
                counters=[CounterDelta(name="rounds", labels="{}", value=1.0)],
                claim=ClaimAsk(
                    lanes=asks, limit=8, running=rng.randint(0, 8), types=[TypeInfo(type="mail"), TypeInfo(type="scan")]
                ),
            )
        )
        given_back = {one.task_id for one in back}
        self._held[worker] = [one for one in held if one.task_id not in given_back] + list(answer.claims)

    def _ended(self, claim: Claim) -> Ended:
        outcome = self._rng.choices(list(Outcome), weights=[10 if one is Outcome.SUCCESS else 1 for one in Outcome])[0]
        failed = outcome is not Outcome.SUCCESS
        return Ended(
            task_id=claim.task_id,
            fence=claim.fence,
            outcome=outcome,
            error="it failed" if failed else None,
            traceback="x" * self._rng.choice((10, 5_000)) if failed else None,
            retry_in_s=self._rng.choice((0.0, 5.0)) if failed else None,
        )

    def _beat(self) -> None:
        self._stores["w1"].beat("w1", 1, 8, 20.0)

    def _come_or_go(self) -> None:
        """A worker's row: removed if it is there, else made."""
        name, now = self._rng.choice(("w1", "w2")), self._clock.now()
        store = self._stores[name]
        if name in {one.id for one in store.workers()}:
            store.deregister(name)
            return
        worker = WorkerView(
            id=name, hostname="host", pid=1, version="1", started_at=now, last_heartbeat=now, pool_size=8, active=0
        )
        store.register(worker, 20.0, exclusive=False)

    def _elect(self) -> None:
        self._lease = self._stores["leader"].elect(self._rng.choice(("w1", "w2")), 10.0).lease

    def _recover(self) -> None:
        if self._lease is not None:
            self._stores["leader"].recover(self._lease)

    def _prune(self) -> None:
        if self._lease is not None:
            self._stores["leader"].prune(
                self._lease, Retention(completed_s=30.0, cancelled_s=30.0, dead_letter_s=30.0, result_s=10.0)
            )

    def _ids(self) -> list[str]:
        return [one.id for one in self._stores["producer"].list_tasks(TaskFilter(), MAX_TASKS + 50)]

    def _some(self) -> TaskFilter:
        ids = self._ids()
        return TaskFilter(ids=self._rng.sample(ids, min(len(ids), 6)))

    def _cancel(self) -> None:
        self._stores["producer"].cancel(self._some())

    def _retry(self) -> None:
        self._stores["producer"].retry(TaskFilter(status=self._rng.choice((TaskState.DEAD_LETTER, TaskState.CANCELLED))))

    def _delete(self) -> None:
        self._stores["producer"].delete(TaskFilter(ids=self._ids()[:40]))

    def _set_queue(self) -> None:
        self._stores["producer"].set_queue("bulk", paused=self._rng.random() < 0.3, weight=self._rng.randint(1, 5))

    def _restart(self) -> None:
        """All processes close the file, which checkpoints it and removes its log; then they open it again."""
        self.close()
        self._stores = {name: open_sqlite(self._path, self._clock) for name in self._stores}

    def _read_for_a_while(self) -> None:
        """A snapshot that stays open over some calls: the log cannot be started anew before it ends."""
        self._reader.close()
        if self._rng.random() < 0.6:
            self._reader.enter_context(self._stores["reader"]._database.read()).execute(SQL["get_leader"]).fetchone()


def dump(store: SqliteStore) -> Dump:
    """The whole database as SQL."""
    with store._database.read() as connection:
        return tuple(connection.iterdump())
