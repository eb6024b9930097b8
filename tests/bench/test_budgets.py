"""What a no-op task may cost the claimer and an executor, in turns of a plain loop that runs beside it.

A turn of the loop is what everyday Python does for a record: make it, keep it, find it, write it down. So a slow machine, or
one that is busy with something else, is slow on both sides; the quickest of several rounds counts on each. A budget leaves
half as much again over what was measured when it was set: it is exceeded before a cost has doubled, and not by noise.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import pytest

from bench.handlers import noop, noop_async
from shiftboss.actors.board import Board
from shiftboss.actors.carrier import Carrier
from shiftboss.actors.claimer import Claimer
from shiftboss.actors.layout import CELL_BYTES
from shiftboss.actors.messages import Execute, Hello
from shiftboss.actors.outcomes import Outcomes
from shiftboss.actors.peers import Peer
from shiftboss.actors.running import Job, Pool
from shiftboss.actors.table import Table
from shiftboss.attempt import Attempt, run_sync
from shiftboss.config import Settings
from shiftboss.decorator import Task
from shiftboss.model import Claim, Ended, NewTask, Outcome, TypeInfo, new_task_id
from shiftboss.store.base import Store
from shiftboss.store.open import open_store

pytestmark = pytest.mark.long

# Turns of the plain loop for one task. Measured when they were set: 24, 6.3, 10 and 19.
CLAIMER_POSTGRES: Final = 40
CLAIMER_SQLITE: Final = 10
EXECUTOR: Final = 16
EXECUTOR_ASYNC: Final = 30

TASKS: Final = 15_000
CELLS: Final = 2_048
TURNS: Final = 10_000
EXECUTED: Final = 1_000
ROUNDS: Final = 60
SLICE: Final = 100
SLICES: Final = 500
WORKER: Final = "host-1-budget"


class Record(msgspec.Struct):
    number: int
    name: str
    note: str | None = None


def plain_loop(turns: int) -> float:
    """CPU seconds for one turn."""
    began_s = time.thread_time()
    encode, kept = msgspec.json.encode, {}
    for number in range(turns):
        key = number & 1023
        kept[key] = Record(number, f"record {number}")
        found = kept[key]
        encode((found.number, found.name, found.note))
    return (time.thread_time() - began_s) / turns


def plain_sqlite(turns: int) -> float:
    """The same for SQLite: a row that comes, changes and goes, in memory."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE record (id TEXT PRIMARY KEY, number INTEGER, note TEXT) WITHOUT ROWID")
        names = [(f"record {number}", number) for number in range(turns)]
        began_s = time.thread_time()
        connection.executemany("INSERT INTO record (id, number) VALUES (?1, ?2)", names)
        connection.executemany("UPDATE record SET note = 'changed' WHERE id = ?1 AND number = ?2", names)
        connection.executemany("DELETE FROM record WHERE id = ?1 AND number = ?2", names)
        return (time.thread_time() - began_s) / turns


def turns_for_one(costs: Iterable[float], plain: Callable[[int], float] = plain_loop) -> float:
    """The quickest round of each, one beside the other."""
    (turns,) = turns_for_each(((cost,) for cost in costs), plain, TURNS)
    return turns


def turns_for_each(rounds: Iterable[tuple[float, ...]], plain: Callable[[int], float], turns: int) -> list[float]:
    """The same for several costs in turn, all by the same plain loop: whatever a noisy machine slows down, it slows all of it."""
    ours, beside = [], [plain(turns)]
    for costs in rounds:
        ours.append(costs)
        beside.append(plain(turns))
    assert len(ours) > 2, "too few to judge by"
    return [min(costs) / min(beside) for costs in zip(*ours, strict=True)]


# ---- the claimer


class SentBack:
    """An executor's end of a link, without the executor: written down as on the wire, and over."""

    def __init__(self) -> None:
        self.cells: list[int] = []
        self.claims: list[Claim] = []

    def tell(self, message: object) -> None:
        msgspec.json.encode(message)
        if isinstance(message, Execute):
            self.cells += message.cells
            self.claims += message.claims

    def finish(self) -> tuple[list[int], list[Ended]]:
        """Everything that was sent has run."""
        cells, claims, self.cells, self.claims = self.cells, self.claims, [], []
        return cells, [_ended(claim) for claim in claims]


def _ended(claim: Claim) -> Ended:
    return Ended(
        task_id=claim.task_id, fence=claim.fence, outcome=Outcome.SUCCESS, started_at=1_790_000_000.25, duration_s=0.0001
    )


def _memory(size: int) -> int:
    fd = os.memfd_create("budget", os.MFD_CLOEXEC)
    os.truncate(fd, size)
    return fd


def drain(store: Store, url: str) -> Iterator[float]:
    """CPU seconds for each task of one round of a real claimer after the other, in this thread alone."""
    board = Board(_memory(4096))
    board.worker_id = WORKER
    settings = Settings(database_url=url)
    process: Any = SimpleNamespace(name="claimer", settings=settings, board=board, tell_parent=lambda _message: None)
    claimer = Claimer(process)
    claimer._carrier = Carrier([store], lambda _message: None)
    claimer._is_ready = True
    link = SentBack()
    peer = Peer("executor-1", 1, link, Table(_memory(CELLS * CELL_BYTES)))  # type: ignore[arg-type]
    claimer._roster._peers[peer.name] = peer
    claimer._roster.hello(peer, Hello(5, [TypeInfo(type=noop.type)], []))
    while True:
        claimer._round()
        cells, ended = link.finish()
        if not ended:
            return
        began_s = time.thread_time()
        claimer._finished(peer, cells, ended)
        claimer._round()
        if len(ended) >= CELLS // 4 and len(link.claims) >= CELLS // 4:  # a full one: as many came in as went out
            yield (time.thread_time() - began_s) / len(ended)
        cells, ended = link.finish()
        if ended:
            claimer._finished(peer, cells, ended)


def test_the_claimer_keeps_to_its_budget_on_sqlite(tmp_path: Path) -> None:
    """Here it does all that the database does, too."""
    assert drained(f"sqlite:///{tmp_path}/tasks.db", plain_sqlite) <= CLAIMER_SQLITE


def test_the_claimer_keeps_to_its_budget_on_postgres(pg_database: str) -> None:
    assert drained(pg_database, plain_loop) <= CLAIMER_POSTGRES


def drained(url: str, plain: Callable[[int], float]) -> float:
    store = open_store(url)
    store.migrate()
    store.enqueue([NewTask(id=new_task_id(), type=noop.type, args=msgspec.Raw(b"{}")) for _ in range(TASKS)])
    turns = turns_for_one(drain(store, url), plain)
    store.close()
    print(f"{turns:.1f} turns for a task")
    return turns


# ---- an executor


@pytest.mark.parametrize(("handler", "budget"), [(noop, EXECUTOR), (noop_async, EXECUTOR_ASYNC)], ids=["sync", "async"])
def test_an_executor_keeps_to_its_budget(handler: Task[..., None], budget: int) -> None:
    round_ = run_in_pool(handler)
    turns = turns_for_one(round_() for _ in range(ROUNDS))
    print(f"{turns:.1f} turns for a task")
    assert turns <= budget


def run_in_pool(handler: Task[..., None]) -> Callable[[], float]:
    """Runs tasks in a real pool, with as many slots as by default; CPU seconds of the process for each."""
    table = Table(_memory(CELLS * CELL_BYTES))
    claims = [_claim() for _ in range(EXECUTED)]
    sent, all_sent = [0], threading.Event()

    def send(cells: list[int], _ended: list[Ended]) -> None:
        sent[0] += len(cells)
        if sent[0] == len(claims):
            all_sent.set()

    outcomes = Outcomes(send, lambda: pool.backlog())
    pool = Pool(5, table, lambda: WORKER, outcomes.put, lambda *_: None, lambda _why: None, outcomes.hurry)

    def round_() -> float:
        sent[0] = 0
        all_sent.clear()
        began_s = time.process_time()
        pool.submit([Job(cell, claim, handler) for cell, claim in enumerate(claims)])
        assert all_sent.wait(30)
        return (time.process_time() - began_s) / len(claims)

    return round_


def _claim() -> Claim:
    return Claim(
        task_id=new_task_id(),
        fence=1,
        attempt=1,
        type=noop.type,
        queue="default",
        priority=0,
        args=msgspec.Raw(b"{}"),
        max_attempts=5,
        timeout_s=None,
        running=True,
        enqueued_at=0.0,
        due_at=0.0,
    )


def test_the_measure_sees_a_cost_that_doubles() -> None:
    """In slices of a millisecond: a quiet one is found for each side even where the machine is busy most of the time."""
    claim = _claim()

    def cost(times: int) -> float:
        began_s = time.thread_time()
        for _ in range(SLICE * times):
            run_sync(noop, claim, Attempt(claim, worker=WORKER))
        return (time.thread_time() - began_s) / SLICE

    once, twice = turns_for_each(((cost(1), cost(2)) for _ in range(SLICES)), plain_loop, SLICE)
    print(f"{once:.2f} and {twice:.2f} turns, {twice / once:.2f} times as many")
    assert once * 1.5 < twice < once * 2.7
