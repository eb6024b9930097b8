"""The table and the board: written in one process, read in another, also when the writer is killed half-way."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from actor_harness import memory, table_memory

from shiftboss.actors.board import Board
from shiftboss.actors.layout import CELL_BYTES
from shiftboss.actors.table import Table
from shiftboss.model import new_task_id


@contextmanager
def child(code: str, fd: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process with `fd` as descriptor number `sys.argv[1]`; killed at the end. It prints a line when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(fd), *arguments],
        pass_fds=(fd,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def killed_before_line(number: int, function: str, act: Callable[[], object]) -> bool:
    """Fork, and let the child kill itself before line `number` (from 0) of `function` while it does `act`.

    Returns False when `act` was over before.
    """
    pid = os.fork()
    if pid == 0:
        left = number

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal left
            if event == "line" and frame.f_code.co_name == function:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            act()
        finally:
            os._exit(0)
    _pid, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


# ---- the table

KILLED_WRITER = """
import sys
from shiftboss.actors.table import Table
table = Table(int(sys.argv[1]))
table.start(0, sys.argv[2], 3)
table.end(0)
table.start(2, sys.argv[3], 9)
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_mappings_of_one_memory_see_the_same() -> None:
    fd, task_id = table_memory(4), new_task_id()
    ours, theirs = Table(os.dup(fd)), Table(fd)
    before_ns = time.monotonic_ns()
    started_ns = ours.start(1, task_id, 7)
    assert before_ns <= started_ns <= time.monotonic_ns()
    assert theirs.started_ns(1, task_id, 7) == started_ns
    assert theirs.read(1) == (7, task_id, started_ns, 0)
    ours.end(1)
    assert started_ns <= theirs.read(1).ended_ns <= time.monotonic_ns()


def test_a_table_takes_its_descriptor_over_and_knows_its_size() -> None:
    fd = table_memory(5)
    assert Table(fd).cells == 5
    with pytest.raises(OSError):
        os.fstat(fd)


def test_new_memory_shows_nothing_started() -> None:
    table = Table(table_memory(3))
    assert list(table.started()) == []
    assert table.started_ns(0, new_task_id(), 1) == 0
    assert table.started_ns(0, "", 0) == 0


def test_a_cell_that_shows_the_task_before_says_not_started() -> None:
    table, before, after = Table(table_memory(1)), new_task_id(), new_task_id()
    table.start(0, before, 4)
    table.end(0)
    assert table.started_ns(0, after, 4) == 0, "another task with the same fence"
    assert table.started_ns(0, before, 5) == 0, "the same task, claimed again"


def test_a_reused_cell_shows_the_new_task_as_not_ended() -> None:
    table, after = Table(table_memory(1)), new_task_id()
    table.start(0, new_task_id(), 4)
    table.end(0)
    started_ns = table.start(0, after, 5)
    assert table.read(0) == (5, after, started_ns, 0)


def test_cells_do_not_touch_each_other() -> None:
    table = Table(table_memory(8))
    ids = [new_task_id() for _ in range(8)]
    starts = [table.start(cell, task_id, cell + 1) for cell, task_id in enumerate(ids)]
    assert [(cell.task_id, cell.fence, cell.started_ns) for cell in table.started()] == [
        (task_id, cell + 1, starts[cell]) for cell, task_id in enumerate(ids)
    ]
    with pytest.raises((struct.error, IndexError)):
        table.start(8, ids[0], 1)


def test_what_was_started_can_be_read_after_the_writer_was_killed() -> None:
    fd, done, running = table_memory(4), new_task_id(), new_task_id()
    with child(KILLED_WRITER, fd, done, running) as writer:
        writer.send_signal(signal.SIGKILL)
        assert writer.wait(10) == -signal.SIGKILL
    first, second = Table(fd).started()
    assert (first.task_id, first.fence, first.ended_ns >= first.started_ns) == (done, 3, True)
    assert (second.task_id, second.fence, second.ended_ns) == (running, 9, 0)
    assert 0 < second.started_ns <= time.monotonic_ns(), "not the machine's monotonic clock"


def test_a_writer_killed_at_any_line_of_a_start_leaves_a_whole_cell_or_none() -> None:
    before, after = new_task_id(), new_task_id()
    deaths, shown = 0, set()
    while True:
        table = Table(table_memory(1))
        table.start(0, before, 1)
        table.end(0)
        ended_ns = table.read(0).ended_ns
        if not killed_before_line(deaths, "start", lambda table=table: table.start(0, after, 2)):  # type: ignore[misc]
            break
        deaths += 1
        for cell in table.started():
            shown.add((cell.task_id, cell.fence))
            assert cell.fence == 1 or cell.started_ns > ended_ns, "the new task with the start of the one before"
    assert deaths >= 4
    assert (before, 1) in shown, "it was never killed before it wrote"
    assert shown <= {(before, 1), (after, 2)}


# ---- the board


@pytest.fixture
def board_fd() -> int:
    return memory(4096)


def test_a_new_board_names_nobody_and_counts_nothing(board_fd: int) -> None:
    board = Board(board_fd)
    assert board.worker_id == ""
    assert [board.get(figure) for figure in ("capacity", "active", "beat_s", "claimer_s")] == [0, 0, 0, 0]


def test_what_one_process_writes_another_reads(board_fd: int) -> None:
    ours, theirs = Board(os.dup(board_fd)), Board(board_fd)
    ours.worker_id = "høst-1-abcd"
    figures = {"capacity": 10.0, "active": 3.0, "beat_s": 1234.5678, "claimer_s": 0.1}
    for figure, value in figures.items():
        ours.set(figure, value)
    assert theirs.worker_id == "høst-1-abcd"
    assert {figure: theirs.get(figure) for figure in figures} == figures


def test_a_shorter_id_leaves_nothing_of_the_longer_one(board_fd: int) -> None:
    board = Board(board_fd)
    board.worker_id = "a-long-host-name-1-abcdef"
    board.worker_id = "b"
    assert board.worker_id == "b"


def test_a_writer_killed_at_any_line_does_not_hinder_the_next_one(board_fd: int) -> None:
    board, deaths = Board(board_fd), 0
    while True:
        board.worker_id = "first"
        if not killed_before_line(deaths, "worker_id", lambda: setattr(board, "worker_id", "second")):
            break
        deaths += 1
        assert board.worker_id in ("first", "second")
        board.worker_id = f"next-{deaths}"
        assert board.worker_id == f"next-{deaths}"
    assert deaths >= 3


def test_nothing_on_the_board_overlaps(board_fd: int) -> None:
    board = Board(board_fd)
    board.worker_id = "x" * 200
    for number, figure in enumerate(("capacity", "active", "beat_s", "claimer_s"), start=1):
        board.set(figure, number)
    assert board.worker_id == "x" * 200
    assert [board.get(f) for f in ("capacity", "active", "beat_s", "claimer_s")] == [1, 2, 3, 4]


def test_cells_are_as_wide_as_the_layout_says() -> None:
    fd = memory(CELL_BYTES * 2 + CELL_BYTES // 2)
    assert Table(fd).cells == 2, "half a cell is none"


def test_the_file_of_the_database_is_known_to_all_once_it_is_noted(board_fd: int) -> None:
    board, other = Board(os.dup(board_fd)), Board(os.dup(board_fd))
    assert board.database_file is None
    board.database_file = (1 << 40, (1 << 63) + 1)
    assert other.database_file == (1 << 40, (1 << 63) + 1)
    assert other.worker_id == "" and other.get("claimer_away_s") == 0.0 and other.process_groups() == []
    os.close(board_fd)


def test_a_new_worker_id_is_seen_by_those_who_have_read_the_one_before() -> None:
    fd = memory(4096)
    reader, writer = Board(os.dup(fd)), Board(fd)
    assert reader.worker_id == ""
    for worker_id in ("host-1-a", "host-1-b", "host-1-c"):
        writer.worker_id = worker_id
        assert (reader.worker_id, reader.worker_id, writer.worker_id) == (worker_id,) * 3
