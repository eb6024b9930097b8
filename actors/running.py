"""Runs attempts: sync handlers in threads, async ones on one uvloop loop; together never more than there are slots.

Tasks start in the order in which they came. A thread that has finished one takes the next at once; other threads are
woken only for work that would otherwise wait. When there is no thread to be had, tasks wait for those that there are.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from shiftboss.actors.table import Table
from shiftboss.attempt import run_async, run_sync
from shiftboss.context import Attempt
from shiftboss.decorator import Task
from shiftboss.logs import bind_task
from shiftboss.model import Claim, Ended, Outcome

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("shiftboss.executor")

_REASONS: Final = {
    "timeout": Outcome.TIMEOUT,
    "cancel": Outcome.CANCELLED,
    "stop": Outcome.INTERRUPTED,
    "fenced": Outcome.INTERRUPTED,
}


class Job:
    """One task in this process, from its arrival to its outcome."""

    __slots__ = ("asked", "attempt", "cell", "claim", "future", "task")

    def __init__(self, cell: int, claim: Claim, task: Task[..., object]) -> None:
        self.cell, self.claim, self.task = cell, claim, task
        self.attempt: Attempt | None = None
        self.future: asyncio.Task[None] | None = None  # of an async handler
        self.asked: str | None = None  # to stop, and why, before it had begun


class Pool:
    """Slots, and what runs or waits in them.

    Args:
        on_ended: called with (cell, outcome) in the thread that ran the attempt; must be quick and thread-safe.
        on_progress: called with (job, percent, note), likewise.
        on_short: called with the reason when a task waits for want of a thread, with the pool's lock held; likewise. Whoever
            hears it calls `refill` later: perhaps nothing runs whose end would try again.
    """

    def __init__(
        self,
        slots: int,
        table: Table,
        worker_id: Callable[[], str],
        on_ended: Callable[[int, Ended], None],
        on_progress: Callable[[Job, float, str], None],
        on_short: Callable[[str], None],
    ) -> None:
        self.slots = slots
        self._table, self._worker_id, self._on_ended, self._on_progress = table, worker_id, on_ended, on_progress
        self._on_short = on_short
        self._lock = threading.Lock()
        self._ready: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._idle: list[threading.Semaphore] = []
        self._handed: dict[threading.Semaphore, Job] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    def submit(self, jobs: list[Job]) -> None:
        """Run these as slots become free."""
        with self._lock:
            self._ready.extend(jobs)
            self._fill()

    def refill(self) -> bool:
        """Try again to start what waits; whether none of it waits for a thread any more."""
        with self._lock:
            return self._fill()

    def take_back(self, cells: set[int] | None) -> list[Job]:
        """Remove what has not started, all of it or those of `cells`; returns what was removed."""
        with self._lock:
            removed = [job for job in self._ready if cells is None or job.cell in cells]
            if removed:
                self._ready = deque(job for job in self._ready if job not in removed)
            return removed

    def waiting(self) -> list[Job]:
        with self._lock:
            return [*self._running.values(), *self._ready]

    def cancel(self, cell: int, reason: str) -> None:
        """Ask one attempt to stop: its `stopping` turns true, an async handler is cancelled. `reason`: see CancelAttempt."""
        with self._lock:
            job = self._running.get(cell)
        if job is not None:
            self._cancel(job, reason)

    def cancel_all(self, reason: str) -> None:
        with self._lock:
            jobs = list(self._running.values())
        for job in jobs:
            self._cancel(job, reason)

    def stopping(self) -> None:
        """`attempt.stopping` turns true for what runs and what is still to start; nothing is cancelled."""
        with self._lock:
            self._stopping = True
            jobs = list(self._running.values())
        for job in jobs:
            if job.attempt is not None:
                job.attempt.stop(Outcome.INTERRUPTED)

    def _cancel(self, job: Job, reason: str) -> None:
        if job.task.is_async:
            self._ensure_loop().call_soon_threadsafe(self._cancel_here, job, reason)
        else:
            self._cancel_here(job, reason)

    def _cancel_here(self, job: Job, reason: str) -> None:
        """In the loop's thread for an async job: one that has not begun is told when it does (cancelled before its first
        step, it would never run, and its slot would never be free again)."""
        job.asked = reason
        if job.attempt is not None:
            _ask(job.attempt, reason)
            if job.future is not None:
                job.future.cancel()

    # ---- slots; everything down to the next heading is called with the lock held

    def _fill(self) -> bool:
        """Start what waits while slots are free. False: there was no thread for the first of it, so all of it waits on."""
        starting: list[Job] = []
        short = ""
        while self._ready and len(self._running) < self.slots and not short:
            job = self._ready.popleft()
            self._running[job.cell] = job
            try:
                if job.task.is_async:
                    self._ensure_loop()
                    starting.append(job)
                else:
                    self._hand_to_thread(job)
            except (RuntimeError, MemoryError) as error:  # at a limit on threads or memory; it has not begun, and may wait
                del self._running[job.cell]
                self._ready.appendleft(job)
                short = str(error) or type(error).__name__
        if starting:
            self._ensure_loop().call_soon_threadsafe(self._start_async, starting)
        if short:
            self._on_short(short)
        return not short

    def _hand_to_thread(self, job: Job) -> None:
        if self._idle:
            wake = self._idle.pop()
            self._handed[wake] = job
            wake.release()
        else:
            threading.Thread(target=self._work, args=(job,), name="shiftboss-slot", daemon=True).start()

    def _next_for(self, done: Job, want_async: bool) -> Job | None:
        """The slot of `done` is free: the next task if it is of the kind that the caller can run, else others start it."""
        if self._running.get(done.cell) is done:  # a quick claimer may have sent the next task for this cell already
            del self._running[done.cell]
        if self._ready and self._ready[0].task.is_async == want_async and len(self._running) < self.slots:
            job = self._ready.popleft()
            self._running[job.cell] = job
            return job
        self._fill()
        return None

    def _ensure_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            import uvloop  # with asyncio, which those who run no async handler need not carry

            loop = uvloop.new_event_loop()
            try:
                threading.Thread(target=loop.run_forever, name="shiftboss-async-slots", daemon=True).start()
            except BaseException:
                loop.close()
                raise
            self._loop = loop
        return self._loop

    # ---- running

    def _begin(self, job: Job) -> Attempt:
        started_ns = self._table.start(job.cell, job.claim.task_id, job.claim.fence)
        timeout_s = job.claim.timeout_s

        def progress(percent: float, note: str) -> None:
            self._on_progress(job, percent, note)

        attempt = Attempt(
            job.claim,
            worker_id=self._worker_id(),
            deadline_s=None if timeout_s is None else started_ns / 1e9 + timeout_s,
            on_progress=progress,
        )
        job.attempt = attempt
        if job.asked is not None:
            _ask(attempt, job.asked)
        elif self._stopping:
            attempt.stop(Outcome.INTERRUPTED)
        return attempt

    def _work(self, job: Job | None) -> None:
        """One thread: runs what it is handed, then what is next, then waits to be handed more."""
        wake = threading.Semaphore(0)
        while True:
            while job is not None:
                claim = job.claim
                attempt = self._begin(job)
                with bind_task(claim.task_id, claim.type, claim.attempt, claim.queue):
                    ended = run_sync(job.task, claim, attempt)
                self._table.end(job.cell)
                self._on_ended(job.cell, ended)
                with self._lock:
                    job = self._next_for(job, want_async=False)
                    if job is None:
                        self._idle.append(wake)
            wake.acquire()
            with self._lock:
                job = self._handed.pop(wake)

    def _start_async(self, jobs: list[Job]) -> None:
        assert self._loop is not None
        for job in jobs:
            job.future = self._loop.create_task(self._run_async(job))

    async def _run_async(self, job: Job) -> None:
        claim = job.claim
        attempt = self._begin(job)
        if job.asked is not None and job.future is not None:
            job.future.cancel()  # was too early then; now it arrives where the handler first waits
        with bind_task(claim.task_id, claim.type, claim.attempt, claim.queue):
            ended = await run_async(job.task, claim, attempt)
        self._table.end(job.cell)
        self._on_ended(job.cell, ended)
        with self._lock:
            following = self._next_for(job, want_async=True)
        if following is not None:
            self._start_async([following])


def _ask(attempt: Attempt, reason: str) -> None:
    if reason in ("timeout", "cancel"):
        attempt.stop_outcome = None  # stronger than a stop asked for before
    attempt.stop(_REASONS[reason])


class Outcomes:
    """Gathers outcomes of many threads and sends them in batches from one.

    An outcome is sent at once when the sender is idle; while it works, others gather.
    """

    def __init__(self, send: Callable[[list[int], list[Ended]], None]) -> None:
        self._send = send
        self._cells: list[int] = []
        self._ended: list[Ended] = []
        self._lock = threading.Lock()
        self._some = threading.Semaphore(0)
        self._signalled = False
        threading.Thread(target=self._run, name="shiftboss-outcomes", daemon=True).start()

    def put(self, cell: int, ended: Ended) -> None:
        with self._lock:
            self._cells.append(cell)
            self._ended.append(ended)
            if not self._signalled:
                self._signalled = True
                self._some.release()

    def _run(self) -> None:
        while True:
            self._some.acquire()
            with self._lock:
                cells, ended = self._cells, self._ended
                self._cells, self._ended, self._signalled = [], [], False
            self._send(cells, ended)
