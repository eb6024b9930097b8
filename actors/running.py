"""Runs attempts: sync handlers in threads, async ones on one uvloop loop; together never more than there are slots.

Tasks start in the order in which they came. A thread that has finished one takes the next at once, without a lock, and only
one thread at a time is being woken for work that would otherwise wait: having begun, it wakes the next. So tasks that do
nothing are run by few threads, which would only fight for the interpreter, while a handler that waits for something lets the
next thread in at that moment. Once tasks have turned out to be very short, those that wait are left to a thread that is at
work, and another is woken when that one gets stuck. When there is no thread to be had, tasks wait for those that there are.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec

from shiftboss.actors.table import Table
from shiftboss.attempt import run_async, run_sync
from shiftboss.context import Attempt
from shiftboss.decorator import Task
from shiftboss.model import Claim, Ended, Outcome

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("shiftboss.executor")

# Tasks that take no longer are run by one thread: 20,000 a second, as many as are claimed. One that writes a few bytes gives up
# the interpreter for a moment, and to let another thread in and to have it back costs more than the task.
SHORT_S: Final = 50e-6
STUCK_S: Final = 0.002  # a thread that ends no task for so long while some wait
_UNKNOWN_S: Final = 1.0
_SMOOTH: Final = 1 / 64  # so one long task among the short ones is enough to wake the next thread at once again

_IS_ASYNC: Final = attrgetter("task.is_async")
_REASONS: Final = {
    "timeout": Outcome.TIMEOUT,
    "cancel": Outcome.CANCELLED,
    "stop": Outcome.INTERRUPTED,
    "fenced": Outcome.INTERRUPTED,
}


class Job(msgspec.Struct, eq=False, gc=False):
    """One task in this process, from its arrival until its outcome is stored."""

    cell: int
    claim: Claim
    task: Task[..., object]
    attempt: Attempt | None = None  # while it runs
    future: asyncio.Task[None] | None = None  # of an async handler
    asked: str | None = None  # to stop, and why, before it had begun
    ended: Ended | None = None


class Pool:
    """Slots, and what runs or waits in them. All methods are for one thread, the owner's.

    Args:
        on_ended: called with (cell, outcome) in the thread that ran the attempt; must be quick and thread-safe.
        on_progress: called with (claim, percent, note), likewise.
        on_short: called with the reason when a task waits for want of a thread, with the pool's lock held; likewise. Whoever
            hears it calls `refill` later: perhaps nothing runs whose end would try again.
        on_idle: called when a slot has nothing to do, with the pool's lock held; likewise.

    Attributes:
        jobs: by cell, whatever was submitted and neither taken back nor forgotten.
    """

    def __init__(
        self,
        slots: int,
        table: Table,
        worker_id: Callable[[], str],
        on_ended: Callable[[int, Ended], None],
        on_progress: Callable[[Claim, float, str], None],
        on_short: Callable[[str], None],
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.slots = slots
        self.jobs: dict[int, Job] = {}
        self._table, self._on_ended, self._on_progress = table, on_ended, on_progress
        self._worker_id, self._worker = worker_id, ""
        self._on_short, self._on_idle = on_short, on_idle
        self._lock = threading.Lock()
        self._free = slots
        # What waits: first those of one kind that are next, taken without the lock by whoever holds a slot and can run them
        # (`popleft` is atomic); put there under the lock, and only when both are empty. Then runs of either kind in turn.
        self._sync: deque[Job] = deque()
        self._async: deque[Job] = deque()
        self._later: deque[tuple[bool, list[Job]]] = deque()
        self._idle: list[threading.Lock] = []
        self._waking = False  # a thread that has a slot already and has not yet looked for work
        self._working = 0  # threads that have a slot
        self._typical_s = _UNKNOWN_S  # how long a function takes, lately; another with each one, by any thread, without the lock
        self._watch: threading.Semaphore | None = None  # released to have the watcher's thread look after a thread at work
        self._watching = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    def submit(self, jobs: list[Job]) -> None:
        """Run these as slots become free."""
        self._worker = self._worker_id()  # who has claimed them: asked once for all
        self.jobs.update([(job.cell, job) for job in jobs])
        runs = [(is_async, list(run)) for is_async, run in groupby(jobs, _IS_ASYNC)]
        with self._lock:
            self._later.extend(runs)
            self._fill()

    def refill(self) -> bool:
        """Try again to start what waits; whether none of it waits for a thread any more."""
        with self._lock:
            return self._fill()

    def take_back(self, cells: set[int] | None) -> list[Job]:
        """Remove what has not started, all of it or those of `cells`; returns what was removed."""
        with self._lock:
            removed = []
            for ready in (self._sync, self._async):
                for job in tuple(ready):
                    if cells is None or job.cell in cells:
                        try:
                            ready.remove(job)
                        except ValueError:
                            continue  # it has just been taken
                        removed.append(job)
            for _is_async, run in self._later:
                removed += [job for job in run if cells is None or job.cell in cells]
                run[:] = [job for job in run if not (cells is None or job.cell in cells)]
        for job in removed:
            del self.jobs[job.cell]
        return removed

    def forget(self, cells: Iterable[int]) -> None:
        """The outcomes of these are stored."""
        for cell in cells:
            self.jobs.pop(cell, None)

    def waiting(self) -> list[Job]:
        """What runs or will."""
        return [job for job in self.jobs.values() if job.ended is None]

    def backlog(self) -> bool:
        """Whether anything waits for a slot; for any thread."""
        return bool(self._sync or self._async or self._later)

    def cancel(self, cell: int, reason: str) -> None:
        """Ask one attempt to stop: its `stopping` turns true, an async handler is cancelled. `reason`: see CancelAttempt."""
        job = self.jobs.get(cell)
        if job is not None:
            self._cancel(job, reason)

    def cancel_all(self, reason: str) -> None:
        for job in self.jobs.values():
            self._cancel(job, reason)

    def stopping(self) -> None:
        """`attempt.stopping` turns true for what runs and what is still to start; nothing is cancelled."""
        self._stopping = True  # before the look at each attempt, as those are there before they look at this
        for job in self.jobs.values():
            attempt = job.attempt  # gone as soon as it has ended
            if attempt is not None:
                attempt.stop(Outcome.INTERRUPTED)

    def _cancel(self, job: Job, reason: str) -> None:
        if job.ended is not None:
            return
        if job.task.is_async:
            with self._lock:
                if self._loop is None:  # none has ever begun
                    job.asked = reason
                else:
                    self._loop.call_soon_threadsafe(self._cancel_here, job, reason)
        else:
            self._cancel_here(job, reason)

    def _cancel_here(self, job: Job, reason: str) -> None:
        """In the loop's thread for an async job: one that has not begun is told when it does (cancelled before its first
        step, it would never run, and its slot would never be free again)."""
        job.asked = reason
        attempt = job.attempt  # gone as soon as it has ended
        if attempt is not None:
            _ask(attempt, reason)
            if job.future is not None:
                job.future.cancel()

    # ---- slots; everything down to the next heading is called with the lock held

    def _fill(self) -> bool:
        """Start what waits while slots are free. False: there was no thread for the first of it, so all of it waits on."""
        starting: list[Job] = []
        short = ""
        while self._free and not short:
            self._turn()
            try:
                if self._async:
                    self._ensure_loop()
                    starting.append(self._async.popleft())
                elif self._sync and not self._waking and not self._is_left_to_one():
                    self._wake_one()
                else:
                    break
                self._free -= 1
            except IndexError:  # the loop was quicker
                continue
            except (RuntimeError, MemoryError) as error:  # at a limit on threads or memory; it has not begun, and may wait
                short = str(error) or type(error).__name__
        if starting:
            self._ensure_loop().call_soon_threadsafe(self._start_async, starting)
        if short:
            self._on_short(short)
        return not short

    def _turn(self) -> None:
        """Bring up the next run, of whichever kind, once all before it have been taken."""
        while self._later and not self._sync and not self._async:
            is_async, run = self._later.popleft()
            (self._async if is_async else self._sync).extend(run)

    def _wake_one(self) -> None:
        if self._idle:
            self._idle.pop().release()
        else:
            threading.Thread(target=self._work, name="shiftboss-slot", daemon=True).start()
        self._waking = True
        self._working += 1

    def _is_left_to_one(self) -> bool:
        """Whether what waits can be left to a thread that is at work."""
        if not self._working or self._typical_s > SHORT_S:
            return False
        if self._watch is None:
            watch = threading.Semaphore(0)
            threading.Thread(target=self._watch_work, args=(watch,), name="shiftboss-slots-watch", daemon=True).start()
            self._watch = watch
        if not self._watching:
            self._watching = True
            self._watch.release()
        return True

    def _next(self, ready: deque[Job], wake: threading.Lock | None = None) -> Job | None:
        """The next task for whoever has a slot and can run these. Without one the slot is free for what others can run; a
        thread is idle then, and woken by `wake`."""
        self._turn()
        try:
            return ready.popleft()
        except IndexError:
            if wake is not None:
                self._idle.append(wake)
                self._working -= 1
            self._free += 1
            self._fill()
            if self._free and not self.backlog():
                self._on_idle()
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
        claim = job.claim
        started_ns = self._table.start(job.cell, claim.task_id, claim.fence)
        deadline_s = None if claim.timeout_s is None else started_ns / 1e9 + claim.timeout_s
        job.attempt = attempt = Attempt(claim, self._worker, deadline_s, self._on_progress)
        if job.asked is not None:
            _ask(attempt, job.asked)
        elif self._stopping:
            attempt.stop(Outcome.INTERRUPTED)
        return attempt

    def _end(self, job: Job, ended: Ended) -> None:
        self._table.end(job.cell)
        job.ended = ended
        job.attempt = None  # the next one then has the same memory, which is still near
        self._on_ended(job.cell, ended)

    def _work(self) -> None:
        """One thread: runs what is next, one after the other, then waits to be woken for more."""
        wake, ready = threading.Lock(), self._sync
        wake.acquire()
        while True:
            with self._lock:
                self._waking = False
                job = self._next(ready, wake)
                if job is not None:
                    self._fill()
            while job is not None:
                ended = run_sync(job.task, job.claim, self._begin(job))
                self._typical_s += (ended.duration_s - self._typical_s) * _SMOOTH
                self._end(job, ended)
                try:
                    job = ready.popleft()
                except IndexError:
                    with self._lock:
                        job = self._next(ready, wake)
            wake.acquire()

    def _watch_work(self, watch: threading.Semaphore) -> None:
        """The watcher: as long as something waits for a thread at work, see to it that it ends one task after the other."""
        tick = threading.Event()
        while watch.acquire():
            before_s = -1.0
            while self._watching:
                tick.wait(STUCK_S)
                with self._lock:
                    if before_s == self._typical_s:
                        self._typical_s = max(self._typical_s, 2 * SHORT_S)
                    self._watching = bool(self._free and self._sync) and self._typical_s <= SHORT_S
                    if not self._watching:
                        self._fill()
                    before_s = self._typical_s

    def _start_async(self, jobs: list[Job]) -> None:
        assert self._loop is not None
        for job in jobs:
            job.future = self._loop.create_task(self._run_async(job))

    async def _run_async(self, job: Job) -> None:
        attempt = self._begin(job)
        if job.asked is not None and job.future is not None:
            job.future.cancel()  # was too early then; now it arrives where the handler first waits
        self._end(job, await run_async(job.task, job.claim, attempt))
        following: Job | None
        try:
            following = self._async.popleft()
        except IndexError:
            with self._lock:
                following = self._next(self._async)
        if following is not None:
            self._start_async([following])


def _ask(attempt: Attempt, reason: str) -> None:
    if reason in ("timeout", "cancel"):
        attempt.stop_outcome = None  # stronger than a stop asked for before
    attempt.stop(_REASONS[reason])
