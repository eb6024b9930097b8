"""Who takes a look that the database takes long to answer, and what happens meanwhile: nothing waits."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from actor_harness import memory

from shiftboss.actors.board import Board
from shiftboss.actors.carrier import Carrier
from shiftboss.actors.lookout import Lookout
from shiftboss.actors.messages import Looked
from shiftboss.actors.outage import Outage
from shiftboss.actors.pace import CHEAP_S, DEAR_PAUSE_S, PAUSE_BY_COST
from shiftboss.actors.scout import Scout
from shiftboss.errors import StoreUnavailable

DEAR_S = DEAR_PAUSE_S / PAUSE_BY_COST + 0.01


class Timer:
    def __init__(self) -> None:
        self.set: list[tuple[str, float]] = []

    def after(self, name: str, delay_s: float) -> None:
        self.set.append((name, delay_s))

    later = after


class Store:
    closed = False

    def close(self) -> None:
        self.closed = True


class Scene:
    def __init__(self, connections: int = 2) -> None:
        self.rounds: list[Any] = [Store() for _ in range(connections)]
        self.scouts: list[Any] = []
        self.mailbox: queue.SimpleQueue[Looked] = queue.SimpleQueue()
        self.carrier = Carrier(self.rounds, lambda _landed: None)
        self.timer: Any = Timer()
        self.outage = Outage(logging.getLogger("test"), Board(memory(4096)))
        self.lookout = Lookout(self.carrier, Scout(self._open, self.mailbox.put), self.timer, self.outage)
        self.told: list[object] = []

    def _open(self) -> Any:
        self.scouts.append(Store())
        return self.scouts[-1]

    def look(self, ask: Callable[[Any], object]) -> None:
        self.lookout.look("name", ask, self.told.append)

    def is_dear(self) -> None:
        for _ in range(2):
            self.look(lambda _store: threading.Event().wait(DEAR_S))
        self.told.clear()
        self.timer.set.clear()

    def comes_back(self) -> None:
        assert self.mailbox.get(timeout=10) == Looked("name")
        self.lookout.back()


def test_a_quick_look_is_taken_at_once_on_a_connection_that_is_there() -> None:
    scene = Scene()
    for _ in range(3):
        scene.look(lambda store: store is scene.rounds[0])
    assert scene.told == [True] * 3
    assert not scene.scouts and not scene.timer.set


def test_a_look_that_is_dear_each_time_is_taken_by_a_scout_and_seldom() -> None:
    scene = Scene()
    scene.is_dear()
    may = threading.Event()
    scene.look(lambda store: (may.wait(10), threading.Event().wait(DEAR_S), store is scene.scouts[0]))
    assert not scene.told, "it was waited for"
    may.set()
    scene.comes_back()
    assert scene.told == [(True, False, True)]
    ((name, pause_s),) = scene.timer.set
    assert name == "name"
    assert pause_s >= DEAR_PAUSE_S


def test_where_there_is_one_connection_there_is_no_scout() -> None:
    """SQLite keeps no entries of what has left an index."""
    scene = Scene(connections=1)
    scene.is_dear()
    scene.look(lambda store: store is scene.rounds[0])
    assert scene.told == [True]


def test_one_look_at_a_time_the_next_one_comes_again() -> None:
    scene = Scene()
    scene.is_dear()
    may = threading.Event()
    scene.look(lambda _store: may.wait(10))
    scene.look(lambda _store: pytest.fail("two at a time"))
    assert scene.timer.set == [("name", DEAR_PAUSE_S)]
    may.set()
    scene.comes_back()
    assert scene.told == [True]


def test_a_scout_without_an_answer_goes_with_a_new_connection_the_next_time() -> None:
    scene = Scene()
    scene.is_dear()

    def refuse(_store: object) -> None:
        raise StoreUnavailable("gone")

    scene.look(refuse)
    scene.comes_back()
    assert not scene.told
    assert scene.scouts[0].closed
    scene.look(lambda store: store is scene.scouts[1])
    scene.comes_back()
    assert scene.told == [True]


def test_its_connection_is_given_back_when_nothing_is_dear_any_more() -> None:
    scene = Scene()
    scene.is_dear()
    scene.look(lambda _store: threading.Event().wait(DEAR_S))
    scene.comes_back()
    scene.lookout.rest()
    assert not scene.scouts[0].closed
    scene.look(lambda _store: None)
    scene.comes_back()
    scene.lookout.rest()
    assert scene.scouts[0].closed
    scene.look(lambda store: store is scene.rounds[0])
    assert scene.told[-1] is True


def test_nothing_is_looked_for_while_the_database_is_away() -> None:
    scene = Scene()
    scene.outage.wait_s(StoreUnavailable("gone"))
    scene.look(lambda _store: pytest.fail("it is away"))
    scene.lookout.now(lambda _store: pytest.fail("it is away"), scene.told.append)
    scene.lookout.send("name", lambda _store: pytest.fail("it is away"), lambda _answer, _seconds: None, pytest.fail)
    assert not scene.told and not scene.timer.set
    assert CHEAP_S < DEAR_S


def test_a_look_without_an_answer_is_not_taken_again_at_once() -> None:
    scene = Scene()
    scene.is_dear()

    def refuse(_store: object) -> None:
        threading.Event().wait(0.1)
        raise StoreUnavailable("statement timeout")

    scene.look(refuse)
    scene.comes_back()
    ((name, pause_s),) = scene.timer.set
    assert name == "name"
    assert pause_s >= PAUSE_BY_COST * 0.1
