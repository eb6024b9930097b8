"""Slots: never more attempts than there are, in order, and every one of them ends and is told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from actor_harness import PATIENCE_S, claim_of, eventually, table_memory

from shiftboss.actors import running
from shiftboss.actors.outcomes import Outcomes
from shiftboss.actors.running import Job, Pool
from shiftboss.actors.table import Table
from shiftboss.decorator import Attempt, Task
from shiftboss.logs.context import BoundTask, current_task
from shiftboss.model import Claim, Ended, Outcome

CELLS = 12_000


class Gate:
    """Attempts wait in it, sync or async ones, until a test lets them go; it counts who is inside."""

    def __init__(self) -> None:
        self.entered: queue.Queue[int] = queue.Queue()
        self.most = 0
        self._inside = 0
        self._lock = threading.Lock()
        self._open: dict[int, threading.Event] = {}

    def _event(self, number: int) -> threading.Event:
        with self._lock:
            return self._open.setdefault(number, threading.Event())

    def _enter(self, number: int) -> threading.Event:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        self.entered.put(number)
        return self._event(number)

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1

    def wait_in(self, number: int) -> None:
        event = self._enter(number)
        try:
            assert event.wait(PATIENCE_S)
        finally:
            self._leave()

    async def wait_in_async(self, number: int) -> None:
        event = self._enter(number)
        try:
            while not event.is_set():
                await asyncio.sleep(0.001)
        finally:
            self._leave()

    def close(self, *numbers: int) -> None:
        for number in numbers:
            self._event(number).clear()

    def open(self, *numbers: int) -> None:
        for number in numbers:
            self._event(number).set()

    def next(self) -> int:
        return self.entered.get(timeout=PATIENCE_S)


class Slots:
    """A pool over a real table, and the outcomes in the order they came."""

    def __init__(self, slots: int) -> None:
        self.table = Table(table_memory(CELLS))
        self.ended: queue.Queue[tuple[int, Ended]] = queue.Queue()
        self.progress: queue.Queue[tuple[int, float, str]] = queue.Queue()
        self.short: list[str] = []
        self.pool = Pool(
            slots, self.table, lambda: "worker-1", lambda *end: self.ended.put(end), self._on_progress, self.short.append
        )
        self.gate = Gate()

    def _on_progress(self, claim: Claim, percent: float, note: str) -> None:
        self.progress.put((claim.fence, percent, note))

    def gated(self, number: int, is_async: bool = False) -> Job:
        """A job in cell `number` that waits in the gate under the same number."""
        gate = self.gate

        def wait_in() -> int:
            gate.wait_in(number)
            return number

        async def wait_in_async() -> int:
            await gate.wait_in_async(number)
            return number

        return job_of(wait_in_async if is_async else wait_in, number)

    def run(self, handler: Callable[..., Any], cell: int = 0, **claim: Any) -> Ended:
        """Run one job alone to its end."""
        self.pool.submit([job_of(handler, cell, **claim)])
        return self.outcome(cell)

    def outcome(self, cell: int) -> Ended:
        """The next outcome, which must be that of `cell`."""
        ended_cell, ended = self.ended.get(timeout=PATIENCE_S)
        assert ended_cell == cell
        return ended

    def running(self) -> set[int]:
        """Cells that the table shows as started and not ended."""
        return {cell for cell in range(64) if (read := self.table.read(cell)).started_ns and not read.ended_ns}

    def have_been_short(self) -> None:
        """What has run here took next to no time."""
        self.pool._typical_s = 0.0

    def wait_free(self) -> None:
        eventually(lambda: not self.pool.waiting(), "every slot is free")


def job_of(handler: Callable[..., Any], cell: int, **claim: Any) -> Job:
    return Job(cell, claim_of("test:job", **claim), Task(handler, type="test:job"))


KINDS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


# ---- slots


@pytest.mark.parametrize("were_short", [False, True], ids=["", "after short ones"])
@pytest.mark.parametrize("kinds", [(False,), (True,), (False, True), (True, False, False)], ids=str)
def test_never_more_attempts_than_slots_and_never_fewer_while_some_wait(kinds: tuple[bool, ...], were_short: bool) -> None:
    slots = Slots(3)
    if were_short:
        slots.have_been_short()
    slots.pool.submit([slots.gated(number, kinds[number % len(kinds)]) for number in range(12)])
    inside = {slots.gate.next() for _ in range(3)}
    for _ in range(9):
        assert slots.running() == inside
        over = min(inside)
        slots.gate.open(over)
        slots.outcome(over)
        inside = inside - {over} | {slots.gate.next()}
    slots.gate.open(*inside)
    assert {slots.ended.get(timeout=PATIENCE_S)[0] for _ in range(3)} == inside
    assert slots.gate.most == 3
    slots.wait_free()


@KINDS
def test_tasks_start_in_the_order_in_which_they_came(is_async: bool) -> None:
    slots = Slots(1)
    slots.gate.open(*range(1, 20))
    slots.pool.submit([slots.gated(number, is_async) for number in range(10)])
    slots.pool.submit([slots.gated(number, is_async) for number in range(10, 20)])
    slots.gate.open(0)
    assert [slots.gate.next() for _ in range(20)] == list(range(20))
    assert [slots.ended.get(timeout=PATIENCE_S)[0] for _ in range(20)] == list(range(20))


def test_mixed_kinds_start_in_the_order_in_which_they_came() -> None:
    slots = Slots(1)
    slots.pool.submit([slots.gated(number, number % 3 == 0) for number in range(12)])
    slots.gate.open(*range(12))
    assert [slots.gate.next() for _ in range(12)] == list(range(12))


def test_a_slot_is_used_again_by_later_work() -> None:
    slots = Slots(1)
    for number in range(3):
        slots.gate.open(number)
        slots.pool.submit([slots.gated(number, is_async=number == 1)])
        assert slots.outcome(number).outcome is Outcome.SUCCESS


def by_thread(slots: Slots, count: int, handler: Callable[[], object]) -> list[int]:
    """Run so many; which thread ran each."""
    ran: list[int] = []

    def noting() -> None:
        ran.append(threading.get_ident())
        handler()

    slots.pool.submit([job_of(noting, cell) for cell in range(count)])
    assert sorted(slots.ended.get(timeout=PATIENCE_S)[0] for _ in range(count)) == list(range(count))
    return ran


def test_short_tasks_are_left_to_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """That give up the interpreter for a moment, as for a write: or each of them would cost two changes of threads."""
    monkeypatch.setattr(running, "STUCK_S", 60.0)
    monkeypatch.setattr(running, "SHORT_S", 0.5)  # the machine may be busy with anything
    slots = Slots(4)
    for _ in range(4):
        by_thread(slots, 500, os.sched_yield)
        eventually(lambda: not slots.pool._working, "all threads rest")
    assert len(set(by_thread(slots, 2_000, os.sched_yield))) == 1


def test_tasks_that_take_their_time_are_not_left_to_one_thread() -> None:
    slots = Slots(4)
    slots.have_been_short()
    waits = threading.Event()
    for _ in range(2):
        ran = by_thread(slots, 40, lambda: waits.wait(0.02))
    assert len(set(ran)) == 4
    assert slots.pool._typical_s > running.SHORT_S


def test_short_tasks_behind_a_long_one_do_not_wait_for_it() -> None:
    slots = Slots(2)
    slots.have_been_short()
    slots.pool.submit([slots.gated(0), *(job_of(lambda: None, cell) for cell in range(1, 50))])
    assert [slots.ended.get(timeout=PATIENCE_S)[0] for _ in range(49)] == list(range(1, 50))
    slots.have_been_short()
    slots.pool.submit([job_of(lambda: None, 50)])  # while the long one goes on
    slots.outcome(50)
    slots.gate.open(0)
    slots.outcome(0)
    slots.wait_free()


def test_ten_thousand_no_op_tasks_all_end_once() -> None:
    slots = Slots(4)
    sync_task: Task[..., Any] = Task(lambda: None, type="test:no-op")

    async def nothing() -> None: ...

    async_task: Task[..., Any] = Task(nothing, type="test:no-op")
    for first in range(0, 10_000, 1_000):
        batch = range(first, first + 1_000)
        slots.pool.submit([Job(cell, claim_of(), async_task if cell % 10 == 0 else sync_task) for cell in batch])
    ends = [slots.ended.get(timeout=PATIENCE_S) for _ in range(10_000)]
    assert sorted(cell for cell, _ in ends) == list(range(10_000))
    assert {ended.outcome for _, ended in ends} == {Outcome.SUCCESS}
    slots.wait_free()
    threads = sum(thread.name == "shiftboss-slot" for thread in threading.enumerate())
    assert threads < 100, "a thread for every task"


def test_what_a_handler_does_stands_in_the_table_with_its_fence() -> None:
    slots = Slots(1)
    job = slots.gated(5)
    slots.pool.submit([job])
    slots.gate.next()
    assert slots.table.started_ns(5, job.claim.task_id, job.claim.fence) > 0
    assert slots.table.read(5).ended_ns == 0
    slots.gate.open(5)
    slots.outcome(5)
    assert slots.table.read(5).ended_ns > 0


@KINDS
def test_handlers_that_wait_hold_up_nobody_behind_them_and_none_of_the_quick(is_async: bool) -> None:
    slots = Slots(3)
    gated, quick = {100, 105}, set(range(101, 105)) | set(range(106, 200))
    jobs = [slots.gated(number, is_async) if number in gated else job_of(lambda: None, number) for number in range(100, 200)]
    for _ in range(3):  # with new threads, then with those that there are
        slots.pool.submit(jobs)
        assert {slots.ended.get(timeout=PATIENCE_S)[0] for _ in quick} == quick
        assert {slots.gate.next(), slots.gate.next()} == gated
        slots.gate.open(*gated)
        assert {slots.ended.get(timeout=PATIENCE_S)[0] for _ in gated} == gated
        slots.gate.close(*gated)
        jobs = [Job(job.cell, job.claim, job.task) for job in jobs]


def attempts(fence: int) -> list[Attempt]:
    return [one for one in gc.get_objects() if isinstance(one, Attempt) and one.fence == fence]


@KINDS
def test_an_attempt_that_is_over_leaves_nothing_for_the_garbage_collector(is_async: bool) -> None:
    """Cycles would pile up until it runs, and it would look at all that there is."""
    slots, fence = Slots(1), 777_001 + is_async

    seen: set[int] = set()

    def look(attempt: Attempt) -> None:
        attempt.progress(1)
        seen.add(len(attempts(fence)))

    async def look_async(attempt: Attempt) -> None:
        look(attempt)

    gc.disable()
    try:
        slots.pool.submit([job_of(look_async if is_async else look, cell, fence=fence) for cell in range(12)])
        for cell in range(12):
            assert slots.outcome(cell).outcome is Outcome.SUCCESS
        slots.run(lambda: None, 12)  # what ran before it has left its thread
        eventually(lambda: not attempts(fence), "none is left, though nothing was forgotten")
        assert seen <= {1, 2}, "the one that ran, and perhaps the one before it"
    finally:
        gc.enable()


# ---- what comes back


@KINDS
def test_results_errors_and_progress_come_back(is_async: bool) -> None:
    slots = Slots(1)

    def good(attempt: Attempt, n: int) -> str:
        attempt.progress(50, "half")
        return f"{attempt.worker} {n}"

    async def good_async(attempt: Attempt, n: int) -> str:
        return good(attempt, n)

    def bad() -> None:
        raise ValueError("boom")

    async def bad_async() -> None:
        bad()

    ended = slots.run(good_async if is_async else good, 3, fence=8, args='{"n":7}')
    assert (ended.outcome, bytes(ended.result)) == (Outcome.SUCCESS, b'"worker-1 7"')
    assert slots.progress.get(timeout=PATIENCE_S) == (8, 50.0, "half")
    failed = slots.run(bad_async if is_async else bad)
    assert failed.outcome is Outcome.FAILED
    assert "boom" in str(failed.error) and failed.retry_in_s is not None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda error: type(error).__name__)
@KINDS
def test_a_handler_that_raises_what_ends_programs_ends_its_attempt_only(error: BaseException, is_async: bool) -> None:
    slots = Slots(1)

    def leave() -> None:
        raise error

    async def leave_async() -> None:
        raise error

    assert slots.run(leave_async if is_async else leave).outcome is Outcome.FAILED
    assert slots.run(lambda: None).outcome is Outcome.SUCCESS, "the slot is gone"
    assert slots.run(asyncio_ok).outcome is Outcome.SUCCESS, "the loop is gone"


async def asyncio_ok() -> None:
    await asyncio.sleep(0)


@KINDS
def test_log_lines_of_a_handler_are_marked_with_its_task_and_those_after_it_are_not(is_async: bool) -> None:
    slots, seen = Slots(1), queue.Queue[object]()

    def look() -> None:
        seen.put(current_task())

    async def look_async() -> None:
        look()

    slots.run(look_async if is_async else look, attempt=3)
    bound = seen.get(timeout=PATIENCE_S)
    assert isinstance(bound, BoundTask) and (bound.type, bound.attempt) == ("test:job", 3)


def test_the_deadline_of_an_attempt_is_its_start_and_its_timeout() -> None:
    slots, left = Slots(1), queue.Queue[float | None]()

    def look(attempt: Attempt) -> None:
        left.put(attempt.remaining_s())

    slots.run(look, timeout_s=30.0)
    slots.run(look)
    remaining_s = left.get(timeout=PATIENCE_S)
    assert remaining_s is not None and 20.0 < remaining_s <= 30.0
    assert left.get(timeout=PATIENCE_S) is None


# ---- taking back


@pytest.mark.parametrize("kinds", [(False,), (True,), (False, True), (True, False, False)], ids=str)
def test_only_what_has_not_started_is_taken_back_and_never_runs(kinds: tuple[bool, ...]) -> None:
    slots = Slots(1)
    slots.pool.submit([slots.gated(number, kinds[number % len(kinds)]) for number in range(6)])
    assert slots.gate.next() == 0
    assert [job.cell for job in slots.pool.take_back({0, 2, 4, 99})] == [2, 4]
    assert [job.cell for job in slots.pool.waiting()] == [0, 1, 3, 5]
    assert [job.cell for job in slots.pool.take_back(None)] == [1, 3, 5]
    assert slots.pool.take_back(None) == []
    slots.gate.open(*range(6))
    slots.outcome(0)
    slots.wait_free()
    assert slots.ended.empty() and slots.gate.entered.empty()
    slots.pool.submit([slots.gated(7, kinds[0])])
    slots.gate.open(7)
    slots.outcome(7)


# ---- no thread to be had


class Threads:
    """Stands between the code and the threads it starts: while it is `over`, there are no more for slots."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.over = False
        self.refused = 0
        self._names = names
        self._start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", lambda thread: self._start_some(thread))

    def _start_some(self, thread: threading.Thread) -> None:
        if self.over and thread.name in self._names:
            self.refused += 1
            raise RuntimeError("can't start new thread")  # word for word what Python says at a limit
        self._start(thread)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(monkeypatch, "shiftboss-slot", "shiftboss-async-slots")


def test_without_another_thread_tasks_wait_for_those_that_there_are_in_their_order(threads: Threads) -> None:
    slots = Slots(3)
    slots.pool.submit([slots.gated(0)])
    assert slots.gate.next() == 0
    threads.over = True
    slots.pool.submit([slots.gated(number) for number in range(1, 4)])
    assert threads.refused == 1 and slots.short == ["can't start new thread"]
    assert slots.running() == {0}, "none of them has begun, and none of them holds a slot"
    slots.gate.open(0, 1, 2, 3)
    assert [slots.outcome(number).outcome for number in range(4)] == [Outcome.SUCCESS] * 4
    slots.wait_free()


@KINDS
def test_what_waits_for_a_thread_can_be_taken_back_and_starts_as_soon_as_there_is_one(threads: Threads, is_async: bool) -> None:
    slots = Slots(2)
    threads.over = True
    slots.pool.submit([slots.gated(number, is_async) for number in range(3)])
    assert [job.cell for job in slots.pool.take_back({1})] == [1]
    assert not slots.pool.refill()
    threads.over = False
    assert slots.pool.refill()
    assert {slots.gate.next(), slots.gate.next()} == {0, 2}
    slots.gate.open(0, 2)
    assert {slots.ended.get(timeout=PATIENCE_S)[0] for _ in range(2)} == {0, 2}
    slots.wait_free()


def test_without_a_watcher_short_tasks_wait_for_the_threads_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch, "shiftboss-slots-watch")
    slots = Slots(2)
    slots.pool.submit([slots.gated(0)])
    assert slots.gate.next() == 0
    slots.have_been_short()
    threads.over = True
    slots.pool.submit([job_of(lambda: None, 1)])
    assert threads.refused == 1 and slots.short == ["can't start new thread"]
    threads.over = False
    assert slots.pool.refill(), "as whoever heard of it does"
    slots.outcome(1)
    slots.gate.open(0)
    slots.outcome(0)


def test_an_attempt_that_ends_without_a_thread_for_what_follows_still_ends(threads: Threads) -> None:
    """Its own thread looks for the next task, and must not die of finding no other."""
    slots = Slots(2)
    slots.pool.submit([slots.gated(0, is_async=True)])
    slots.gate.next()
    threads.over = True
    slots.pool.submit([slots.gated(1), slots.gated(2, is_async=True)])
    slots.gate.open(0, 1, 2)
    slots.outcome(0)
    eventually(lambda: threads.refused == 2, "its end has tried again")
    threads.over = False
    assert slots.pool.refill()
    assert {slots.ended.get(timeout=PATIENCE_S)[0] for _ in range(2)} == {1, 2}
    slots.wait_free()


# ---- asking to stop


def wait_until_stopping(attempt: Attempt, entered: Callable[[], object]) -> None:
    entered()
    eventually(lambda: attempt.stopping, "stopping")
    raise RuntimeError("unwound")


CAUSES = pytest.mark.parametrize(
    ("reason", "outcome"), [("timeout", Outcome.TIMEOUT), ("cancel", Outcome.CANCELLED)], ids=["timeout", "cancel"]
)


@CAUSES
def test_a_sync_handler_sees_stopping_and_its_end_counts_as_what_was_asked(reason: str, outcome: Outcome) -> None:
    slots, entered = Slots(2), threading.Event()

    def handler(attempt: Attempt) -> None:
        wait_until_stopping(attempt, entered.set)

    slots.pool.submit([job_of(handler, 0), slots.gated(1)])
    assert entered.wait(PATIENCE_S)
    slots.pool.cancel(0, reason)
    assert slots.outcome(0).outcome is outcome
    slots.gate.open(1)
    assert slots.outcome(1).outcome is Outcome.SUCCESS, "its neighbour was asked too"


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("timeout", Outcome.TIMEOUT),
        ("cancel", Outcome.CANCELLED),
        ("stop", Outcome.INTERRUPTED),
        ("fenced", Outcome.INTERRUPTED),
    ],
)
def test_an_async_handler_is_cancelled_where_it_waits(reason: str, outcome: Outcome) -> None:
    slots, entered = Slots(2), threading.Event()

    async def handler() -> None:
        entered.set()
        await asyncio.sleep(60)

    slots.pool.submit([job_of(handler, 0), slots.gated(1, is_async=True)])
    assert entered.wait(PATIENCE_S)
    slots.pool.cancel(0, reason)
    assert slots.outcome(0).outcome is outcome
    slots.gate.open(1)
    assert slots.outcome(1).outcome is Outcome.SUCCESS, "its neighbour was cancelled too"
    slots.wait_free()


def test_a_handler_that_finishes_in_spite_of_a_cancel_has_succeeded() -> None:
    slots, entered = Slots(1), threading.Event()

    async def stubborn() -> str:
        entered.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
        return "done"

    slots.pool.submit([job_of(stubborn, 0)])
    assert entered.wait(PATIENCE_S)
    slots.pool.cancel(0, "cancel")
    assert bytes(slots.outcome(0).result) == b'"done"'
    assert slots.run(asyncio_ok, 1).outcome is Outcome.SUCCESS, "its slot is gone"


@KINDS
def test_cancelling_what_is_not_there_or_over_does_nothing(is_async: bool) -> None:
    slots = Slots(1)
    slots.pool.cancel(0, "cancel")
    slots.gate.open(0, 1)
    slots.pool.submit([slots.gated(0, is_async)])
    slots.outcome(0)
    slots.wait_free()
    slots.pool.cancel(0, "cancel")
    slots.pool.cancel_all("stop")
    slots.pool.submit([slots.gated(1, is_async)])
    assert slots.outcome(1).outcome is Outcome.SUCCESS


@KINDS
def test_a_job_cancelled_in_the_moment_of_its_start_sees_that_and_frees_its_slot(is_async: bool) -> None:
    slots, saw = Slots(1), queue.Queue[bool]()

    def handler(attempt: Attempt) -> None:
        saw.put(attempt.stopping)

    async def handler_async(attempt: Attempt) -> None:
        saw.put(attempt.stopping)

    for cell in range(50):
        slots.pool.submit([job_of(handler_async if is_async else handler, cell)])
        slots.pool.cancel(cell, "cancel")
        assert slots.outcome(cell).outcome in (Outcome.SUCCESS, Outcome.CANCELLED)
    slots.wait_free()


@KINDS
def test_what_was_asked_to_stop_before_it_has_begun_is_told_as_it_begins(is_async: bool) -> None:
    slots = Slots(1)

    def handler(attempt: Attempt) -> bool:
        return attempt.stopping

    async def handler_async(attempt: Attempt) -> bool:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return attempt.stopping

    slots.pool.submit([slots.gated(0), job_of(handler_async if is_async else handler, 1)])
    slots.gate.next()
    slots.pool.cancel(1, "cancel")
    slots.gate.open(0)
    slots.outcome(0)
    assert bytes(slots.outcome(1).result) == b"true"


def test_cancel_all_asks_everything_that_runs() -> None:
    slots, entered = Slots(3), queue.Queue[int]()

    def handler(attempt: Attempt) -> None:
        wait_until_stopping(attempt, lambda: entered.put(0))

    async def handler_async() -> None:
        entered.put(1)
        await asyncio.sleep(60)

    slots.pool.submit([job_of(handler, 0), job_of(handler_async, 1), job_of(handler_async, 2)])
    for _ in range(3):
        entered.get(timeout=PATIENCE_S)
    slots.pool.cancel_all("stop")
    ends = dict(slots.ended.get(timeout=PATIENCE_S) for _ in range(3))
    assert {cell: ended.outcome for cell, ended in ends.items()} == {
        0: Outcome.FAILED,  # it failed on its own account
        1: Outcome.INTERRUPTED,
        2: Outcome.INTERRUPTED,
    }


@KINDS
def test_stopping_is_seen_by_what_runs_and_by_what_starts_later_and_cancels_nothing(is_async: bool) -> None:
    slots, saw, go_on = Slots(1), queue.Queue[bool](), threading.Event()

    def handler(attempt: Attempt) -> bool:
        saw.put(attempt.stopping)
        assert go_on.wait(PATIENCE_S)
        return attempt.stopping

    async def handler_async(attempt: Attempt) -> bool:
        saw.put(attempt.stopping)
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        return attempt.stopping

    chosen = handler_async if is_async else handler
    slots.pool.submit([job_of(chosen, 0), job_of(chosen, 1)])
    assert saw.get(timeout=PATIENCE_S) is False
    slots.pool.stopping()
    go_on.set()
    assert bytes(slots.outcome(0).result) == b"true"
    assert saw.get(timeout=PATIENCE_S) is True
    assert slots.outcome(1).outcome is Outcome.SUCCESS


@pytest.mark.parametrize("after", ["timeout", "cancel"])
def test_a_timeout_or_a_cancel_is_stronger_than_the_stop_before_it(after: str) -> None:
    slots, entered = Slots(1), threading.Event()

    async def handler() -> None:
        entered.set()
        await asyncio.sleep(60)

    slots.pool.submit([job_of(handler, 0)])
    assert entered.wait(PATIENCE_S)
    slots.pool.stopping()
    slots.pool.cancel(0, after)
    assert slots.outcome(0).outcome is {"timeout": Outcome.TIMEOUT, "cancel": Outcome.CANCELLED}[after]


# ---- batches of outcomes


def end_of(number: int) -> Ended:
    return Ended(task_id=str(number), fence=number, outcome=Outcome.SUCCESS)


def test_an_outcome_goes_out_at_once_when_the_sender_is_idle() -> None:
    sent: queue.Queue[tuple[list[int], list[Ended]]] = queue.Queue()
    outcomes = Outcomes(lambda *batch: sent.put(batch))
    for number in range(3):
        outcomes.put(number, end_of(number))
        assert sent.get(timeout=PATIENCE_S) == ([number], [end_of(number)])


def test_outcomes_gather_while_the_sender_works_and_stay_in_order() -> None:
    sent: queue.Queue[tuple[list[int], list[Ended]]] = queue.Queue()
    busy, go_on = threading.Event(), threading.Event()

    def send(cells: list[int], ended: list[Ended]) -> None:
        sent.put((cells, ended))
        busy.set()
        assert go_on.wait(PATIENCE_S)

    outcomes = Outcomes(send)
    outcomes.put(0, end_of(0))
    assert busy.wait(PATIENCE_S)
    for number in range(1, 6):
        outcomes.put(number, end_of(number))
    go_on.set()
    assert [sent.get(timeout=PATIENCE_S) for _ in range(2)] == [
        ([0], [end_of(0)]),
        ([1, 2, 3, 4, 5], [end_of(number) for number in range(1, 6)]),
    ]
    assert sent.empty()


def test_while_tasks_wait_outcomes_gather_until_a_slot_is_idle() -> None:
    sent: queue.Queue[tuple[list[int], list[Ended]]] = queue.Queue()
    looked, waits = threading.Event(), [True]

    def busy() -> bool:
        looked.set()
        return waits[0]

    outcomes = Outcomes(lambda *batch: sent.put(batch), busy, linger_s=10 * PATIENCE_S)
    for number in range(3):
        outcomes.put(number, end_of(number))
    assert looked.wait(PATIENCE_S) and sent.empty()
    outcomes.hurry()
    assert sent.get(timeout=PATIENCE_S)[0] == [0, 1, 2]
    waits[0] = False
    outcomes.hurry()
    outcomes.put(3, end_of(3))
    assert sent.get(timeout=PATIENCE_S)[0] == [3]


def test_while_tasks_wait_for_long_outcomes_gather_for_a_moment_only() -> None:
    sent: queue.Queue[tuple[list[int], list[Ended]]] = queue.Queue()
    outcomes = Outcomes(lambda *batch: sent.put(batch), lambda: True)
    for number in range(3):
        outcomes.put(number, end_of(number))
        assert sent.get(timeout=PATIENCE_S)[0] == [number]


def test_a_slot_that_has_nothing_to_do_says_so_once_nothing_waits() -> None:
    slots, idle = Slots(2), queue.Queue[bool]()
    slots.pool._on_idle = lambda: idle.put(slots.pool.backlog())
    slots.pool.submit([slots.gated(number, is_async=number % 2 == 0) for number in range(5)])
    slots.gate.open(0, 1, 2)
    assert {slots.gate.next() for _ in range(5)} == set(range(5))
    assert idle.empty() and not slots.pool.backlog()
    for number in (3, 4):
        slots.gate.open(number)
        assert idle.get(timeout=PATIENCE_S) is False


@pytest.mark.parametrize("linger_s", [0.0, 0.00001, 0.001])
def test_outcomes_of_many_threads_are_sent_once_each(linger_s: float) -> None:
    sent: queue.Queue[tuple[list[int], list[Ended]]] = queue.Queue()
    outcomes = Outcomes(lambda *batch: sent.put(batch), lambda: linger_s > 0, linger_s)

    def put(thread: int) -> None:
        for number in range(thread * 500, thread * 500 + 500):
            outcomes.put(number, end_of(number))
            if number % 3 == 0:
                outcomes.hurry()

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    came: list[int] = []
    while len(came) < 2_000:
        cells, ended = sent.get(timeout=PATIENCE_S)
        assert cells and [one.fence for one in ended] == cells
        came += cells
    assert sorted(came) == list(range(2_000))
    assert [cell for cell in came if cell < 500] == list(range(500))
