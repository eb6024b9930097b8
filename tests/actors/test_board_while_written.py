"""A board is read while another process writes it: never a mixed id, never half a figure."""

from __future__ import annotations

import os
import time

from test_shared_memory import board_fd, child  # noqa: F401

from shiftboss.actors.board import Board

BUSY_BOARD_WRITER = """
import itertools, sys
from shiftboss.actors.board import Board
board = Board(int(sys.argv[1]))
board.worker_id = "a"
print("ready", flush=True)
for number in itertools.count():
    board.worker_id = "abcdefghij"[number % 10] * (1 + 19 * (number % 11))
"""


def test_a_reader_never_sees_a_mixed_id(board_fd: int) -> None:
    board = Board(os.dup(board_fd))
    seen = set()
    with child(BUSY_BOARD_WRITER, board_fd):
        deadline_s = time.monotonic() + 0.5
        while time.monotonic() < deadline_s:
            seen.add(board.worker_id)
    os.close(board_fd)
    assert len(seen) > 10, "the writer was not writing"
    mixed = [text for text in seen if len(set(text)) != 1 or len(text) % 19 != 1]
    assert not mixed


FIGURE_WRITER = """
import sys, time
from shiftboss.actors.board import Board
board = Board(int(sys.argv[1]))
board.set("claimer_s", 1000.0)
print("ready", flush=True)
while True:
    board.set("claimer_s", time.monotonic())
"""


def test_a_reader_never_sees_half_a_figure(board_fd: int) -> None:
    board = Board(os.dup(board_fd))
    with child(FIGURE_WRITER, board_fd):
        floor, deadline_s = min(1000.0, time.monotonic()), time.monotonic() + 1.0
        while time.monotonic() < deadline_s:
            assert board.get("claimer_s") >= floor
