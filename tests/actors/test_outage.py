"""How an actor waits for a database that is away: more and more patiently, and never so that it comes back late."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import Any

import pytest

from shiftboss.actors.board import Board
from shiftboss.actors.carrier import Carrier
from shiftboss.actors.claimer import Claimer
from shiftboss.actors.outage import Outage
from shiftboss.config import Settings
from shiftboss.errors import StoreUnavailable
from shiftboss.model import Lease

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


class Away:
    """A database that nobody reaches."""

    exchanges_at_once = 1

    def __getattr__(self, name: str) -> Any:
        def refuse(*_arguments: object) -> None:
            raise StoreUnavailable(f"no {name}")

        return refuse


def test_a_tick_that_comes_late_does_not_take_the_place_of_the_next_try(board: Board) -> None:
    board.worker_id = "worker-1"
    process: Any = SimpleNamespace(name="claimer", settings=Settings(), board=board, tell_parent=lambda _message: None)
    claimer = Claimer(process)
    store: Any = Away()
    claimer._carrier = Carrier([store], lambda _message: None)
    claimer._outbox.release(Lease("01900000-0000-7000-8000-000000000001", 1))
    for _ in range(2):  # the second was in the mailbox when the first found out
        claimer._due_round()
    names = {claimer.actor_inbox.get(timeout=10).message.name for _ in range(2)}  # of the first round of this worker, too
    assert names == {"reconcile", "round"}
