"""How an actor waits for a database that is away: more and more patiently, and never so that it comes back late."""

from __future__ import annotations

import logging
import os

import pytest

from shiftboss.actors.board import Board
from shiftboss.actors.outage import Outage

AWAY = ConnectionError("the database is away")
BACK_WITHIN_S = 2.0  # claims go on this soon after the database is back; connecting takes its part
MOST_TRIES_PER_S = 2.0


@pytest.fixture
def board() -> Board:
    fd = os.memfd_create("board")
    os.ftruncate(fd, 4096)
    return Board(fd)


def test_after_a_long_outage_the_next_try_is_soon_and_nobody_hammers(board: Board) -> None:
    outage = Outage(logging.getLogger("test"), board)
    waits = [outage.wait_s(AWAY) for _ in range(200)]
    assert waits[0] <= 0.1
    assert max(waits) <= BACK_WITHIN_S - 0.5
    assert min(waits[20:]) >= 1 / MOST_TRIES_PER_S
    assert len(set(waits[20:])) > 100, "without jitter all workers come at once"
    outage.over()
    assert outage.wait_s(AWAY) <= 0.1
