"""Rare orders of events in the small modules, played in one process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter

from actor_harness import eventually, memory, table_memory
from test_running import Slots, job_of
from test_shared_memory import killed_before_line

from shiftboss.actors.board import Board
from shiftboss.actors.planning import distribute
from shiftboss.actors.table import Table
from shiftboss.model import Outcome


def test_an_executor_with_fewer_free_cells_than_free_slots_gets_no_more_than_it_has_room_for() -> None:
    got = Counter(distribute(6, [5, 2], [2, 4]))
    assert got[0] <= 2 and sum(got.values()) == 6, got


def test_a_cell_that_is_used_again_before_its_slot_is_free_costs_no_slot() -> None:
    """The outcome is told before the slot is given up; a quick claimer may have stored it and sent the next task by then."""
    slots = Slots(2)
    slots.gate.open(0)
    told = threading.Event()

    def on_ended(cell: int, ended: object) -> None:
        slots.ended.put((cell, ended))  # type: ignore[arg-type]
        if not told.is_set():
            told.set()
            again = slots.gated(1)
            again.cell = 0
            slots.pool.submit([again])
            assert [slots.gate.next(), slots.gate.next()] == [0, 1]

    slots.pool._on_ended = on_ended  # type: ignore[assignment]
    slots.pool.submit([slots.gated(0)])
    slots.outcome(0)
    eventually(lambda: slots.pool._idle, "its thread is idle")
    slots.pool.submit([slots.gated(2), slots.gated(3), slots.gated(4)])
    deadline_s = time.monotonic() + 0.5
    while time.monotonic() < deadline_s and slots.gate.most <= 2:
        pass
    slots.gate.open(1, 2, 3, 4)
    assert slots.gate.most == 2


def test_an_async_job_cancelled_before_its_first_step_is_cancelled_where_it_waits() -> None:
    slots = Slots(1)

    async def handler() -> None:
        await asyncio.sleep(60)

    slots.pool.submit([job_of(lambda: None, 9)])
    slots.outcome(9)
    slots.wait_free()
    slots.pool.submit([job_of(handler, 0)])
    slots.pool.cancel_all("stop")
    assert slots.outcome(0).outcome is Outcome.INTERRUPTED


def test_readers_go_on_after_a_writer_was_killed_in_the_middle_of_a_write() -> None:
    """The next heartbeat reads the id first: were it to wait for a writer that is dead, no one would ever write again."""
    fd, deaths = memory(4096), 0
    board = Board(os.dup(fd))
    while True:
        fresh = Board(os.dup(fd))
        fresh.worker_id = "first"
        if not killed_before_line(deaths, "worker_id", lambda: setattr(board, "worker_id", "second")):
            break
        deaths += 1
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(2)
            os._exit(0 if Board(os.dup(fd)).worker_id in ("first", "second", "") else 1)
        assert os.waitpid(pid, 0)[1] == 0, f"killed before line {deaths - 1}: a reader hangs or reads nonsense"


def test_a_start_read_while_the_cell_is_written_is_never_the_start_of_the_task_before() -> None:
    """Between the reader's look at the time and its look at the head the writer may have replaced both."""
    import shiftboss.actors.table as module

    fd = table_memory(1)
    writer, table = Table(os.dup(fd)), Table(fd)
    writer.start(0, "a" * 36, 1)
    before_ns, head = time.monotonic_ns(), module._HEAD

    class WriterIsQuicker:
        size, pack_into = head.size, head.pack_into

        def unpack_from(self, buffer: object, offset: int = 0) -> tuple[object, ...]:
            module._HEAD = head  # type: ignore[misc]
            writer.start(0, "b" * 36, 2)
            return head.unpack_from(buffer, offset)  # type: ignore[arg-type]

    module._HEAD = WriterIsQuicker()  # type: ignore[misc, assignment]
    started_ns = table.started_ns(0, "b" * 36, 2)
    assert started_ns == 0 or started_ns >= before_ns
