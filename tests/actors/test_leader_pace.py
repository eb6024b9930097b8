"""A leader that looks for the dead in vain: how soon it looks again; and one that cannot reach the database."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from actor_harness import memory

from shiftboss.actors.board import Board
from shiftboss.actors.leader import LONGEST_WAIT_S, RECOVER_LIMIT, Leader
from shiftboss.config import Settings
from shiftboss.errors import StoreUnavailable
from shiftboss.lease import LeaderLease
from shiftboss.store.base import Election, Recovered


class Store:
    """Answers after a while."""

    def __init__(self, *took_s: float, **found: Any) -> None:
        self.took_s, self.found = iter(took_s), found

    def recover(self, _lease: object, _limit: int) -> Recovered:
        threading.Event().wait(next(self.took_s))
        return Recovered(next_in_s=0.5, **self.found)


LEASE = LeaderLease("w1", 1)


def leader_of(store: Any) -> Leader:
    process: Any = SimpleNamespace(name="leader", settings=Settings(), board=Board(memory(4096)))
    leader = Leader(process)
    leader._store = store
    return leader


def test_a_look_that_is_dear_each_time_is_taken_more_seldom() -> None:
    """It walks over every entry that a snapshot somewhere keeps in the index, and a core with it."""
    leader = leader_of(Store(0.0, 0.8, 0.0, 0.8, 0.8))
    waits_s = [leader._recover(LEASE) for _ in range(5)]
    assert max(waits_s[:4]) < 1.0, "once is no habit"
    assert waits_s[4] > LONGEST_WAIT_S


def test_the_tasks_of_the_dead_are_recovered_one_batch_after_the_other() -> None:
    leader = leader_of(Store(0.1, 0.1, 0.1, pending=RECOVER_LIMIT))
    assert [leader._recover(LEASE) for _ in range(3)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("found", [{"workers": ["w1"]}, {"pending": 3}, {"dead_letter": 1}])
def test_whoever_finds_something_looks_again_as_soon_as_ever(found: dict[str, Any]) -> None:
    leader = leader_of(Store(0.3, 0.3, 0.3, **found))
    assert max(leader._recover(LEASE) for _ in range(3)) < 1.0


class Away:
    """A store whose database does not answer."""

    def elect(self, _worker_id: str, _term_s: float) -> Election:
        raise StoreUnavailable("the database is away")


@pytest.mark.parametrize("duty", ["recover", "prune"])
def test_a_duty_of_who_leads_does_not_say_for_another_that_the_database_is_back(duty: str) -> None:
    leader = leader_of(Away())
    leader._tick("lead")
    leader._tick(duty)
    assert leader._outage.lasting
