"""What the threads that carry rounds do: claims in line, and what becomes of them when the line breaks."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from actor_harness import claim_of, eventually

from shiftboss.actors import flight as actors_flight
from shiftboss.actors.flight import LATEST_S, PATIENCE_S, SOONEST_S, Flight, Orders, Turns, fly
from shiftboss.actors.outbox import Outbox
from shiftboss.errors import StoreError, StoreUnavailable
from shiftboss.model import Claim
from shiftboss.store.base import ClaimAsk, CounterDelta, Exchange, Exchanged, Turn

MINE, ANOTHERS = Turn(mine=True, alone=False), Turn(mine=False, alone=False)


class Line:
    """One whose answers come when a test says so; readable while there is one."""

    def __init__(self, store: Store) -> None:
        self.store, self.bell = store, os.eventfd(0, os.EFD_NONBLOCK)
        self.answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.looks, self.may_look = threading.Semaphore(0), threading.Event()
        self.may_look.set()

    def fileno(self) -> int:
        return self.bell

    def send(self, _worker_id: str, ask: ClaimAsk, in_turn: bool) -> None:
        self.store.said.put(f"sent {ask.limit}{' in turn' if in_turn else ''}")

    def answer(self) -> Any:
        self.looks.release()
        assert self.may_look.wait(10)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        if self.answers.empty():
            return None
        given = self.answers.get()
        if isinstance(given, Exception):
            raise given
        if isinstance(given, Turn):
            return SimpleNamespace(claims=lambda: [claim_of()] if given.mine else [], turn=given)
        return SimpleNamespace(claims=given, turn=None)

    def close(self) -> None:
        self.store.said.put("closed")

    def give(self, *answers: object) -> None:
        """At once, as they come over a socket: it is readable until somebody has looked."""
        for answer in answers:
            self.answers.put(answer)
        os.eventfd_write(self.bell, 1)


class Store:
    def __init__(self) -> None:
        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.line: Any = Line(self)

    def claim_line(self, _ask: ClaimAsk) -> Any:
        if isinstance(self.line, Exception):
            raise self.line
        return self.line

    def exchange(self, request: Exchange) -> Exchanged:
        assert request.claim is not None
        self.said.put(f"exchanged {request.claim.limit}")
        return Exchanged(verdicts=[], states=[], claims=[claim_of()])


class Scene:
    def __init__(self) -> None:
        self.store = Store()
        self.orders = Orders()
        self.landed: queue.SimpleQueue[None] = queue.SimpleQueue()
        given: Any = (self.store, self.orders, lambda: self.landed.put(None))
        threading.Thread(target=fly, args=given, daemon=True).start()

    def send(self, limit: int, *, in_turn: bool = False, **more: Any) -> Flight:
        claim = ClaimAsk(lanes=[], limit=limit, running=0, types=[])
        flight = Flight(1, Exchange(worker_id="w1", claim=claim, **more), Outbox().nothing(), in_turn)
        self.orders.put(flight)
        return flight

    def says(self, *words: str) -> None:
        for word in words:
            assert self.store.said.get(timeout=10) == word

    def has_read(self) -> None:
        """Wait until all that was given has been dealt with."""
        line = self.store.line
        eventually(line.answers.empty, "it is read")
        while line.looks.acquire(blocking=False):
            pass
        self.orders.ring()
        assert line.looks.acquire(timeout=10)

    def lands(self) -> None:
        self.landed.get(timeout=10)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def asks_again_after(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Who has no turn."""
    monkeypatch.setattr(actors_flight, "SOONEST_S", seconds)
    monkeypatch.setattr(actors_flight, "LATEST_S", seconds)


def claims_of(flight: Flight) -> int:
    return len(flight.answer().claims)


def got(*counts: int) -> list[Callable[[], list[Claim]]]:
    return [lambda count=count: [claim_of() for _ in range(count)] for count in counts]  # type: ignore[misc]


def test_the_next_claim_is_sent_before_the_last_is_answered(scene: Scene) -> None:
    first = scene.send(1)
    scene.says("sent 1")
    second = scene.send(2)
    scene.says("sent 2")
    for answer in got(1, 2):
        scene.store.line.give(answer)
    for _ in range(2):
        scene.lands()
    assert (claims_of(first), claims_of(second)) == (1, 2)
    scene.says("closed")


def test_answers_that_come_together_are_read_together(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have been read from the socket then, which has nothing more to say."""
    monkeypatch.setattr(actors_flight, "_LOOK_MS", 60_000)
    flights = [scene.send(1), scene.send(2)]
    scene.says("sent 1", "sent 2")
    scene.store.line.give(*got(1, 2))
    for _ in flights:
        scene.lands()
    assert [claims_of(flight) for flight in flights] == [1, 2]


def test_the_next_claim_is_sent_before_the_last_answer_is_read(scene: Scene) -> None:
    """Or the server would have nothing to do meanwhile."""
    first = scene.send(1)
    scene.says("sent 1")

    def read() -> list[Claim]:
        scene.says("sent 2")
        return [claim_of()]

    line = scene.store.line
    line.may_look.clear()
    os.eventfd_write(scene.orders.fileno(), 1)
    assert line.looks.acquire(timeout=10)
    second = scene.send(2)  # both are there when it looks
    line.give(read)
    line.may_look.set()
    line.give(got(1)[0])
    for _ in range(2):
        scene.lands()
    assert (claims_of(first), claims_of(second)) == (1, 1)


def test_the_line_is_closed_before_the_last_one_lands(scene: Scene) -> None:
    """Whoever hears of it may use the connection at once."""
    closed: list[bool] = []
    scene.store.line.close = lambda: closed.append(scene.landed.empty())
    scene.send(1)
    scene.says("sent 1")
    scene.store.line.give(got(1)[0])
    scene.lands()
    assert closed == [True]


def test_when_the_line_breaks_the_end_of_all_that_are_in_it_is_unknown(scene: Scene) -> None:
    first, second, third = (scene.send(limit) for limit in (1, 2, 3))
    scene.says("sent 1", "sent 2", "sent 3")
    scene.store.line.give(got(1)[0])
    scene.lands()
    scene.store.line.give(StoreUnavailable("gone"))
    for _ in range(2):
        scene.lands()
    assert claims_of(first) == 1
    for flight in (second, third):
        with pytest.raises(StoreUnavailable):
            flight.answer()
    scene.says("closed")


def test_what_is_refused_goes_the_ordinary_way(scene: Scene) -> None:
    """Which finds out which value it was, and leaves it out."""
    first, second = scene.send(1), scene.send(2)
    scene.says("sent 1", "sent 2")
    scene.store.line.give(StoreError("refused"))
    for _ in range(2):
        scene.lands()
    scene.says("closed", "exchanged 1", "exchanged 2")
    assert (claims_of(first), claims_of(second)) == (1, 1)


@pytest.mark.parametrize("line", [None, StoreError("refused")])
def test_without_a_line_a_claim_goes_the_ordinary_way(scene: Scene, line: object) -> None:
    scene.store.line = line
    flights = [scene.send(1), scene.send(2)]
    for _ in range(2):
        scene.lands()
    scene.says("exchanged 1", "exchanged 2")
    assert [claims_of(flight) for flight in flights] == [1, 1]


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ZeroDivisionError()])
def test_whatever_goes_wrong_before_there_is_a_line_the_actor_hears_of_it(scene: Scene, error: Exception) -> None:
    """And the thread goes on."""
    line, scene.store.line = scene.store.line, error
    flight = scene.send(1)
    scene.lands()
    with pytest.raises(type(error)):
        flight.answer()
    scene.store.line = line
    scene.send(2)
    scene.says("sent 2")


def test_what_counts_something_is_no_claim_for_the_line(scene: Scene) -> None:
    flight = scene.send(1, counters=[CounterDelta(name="n", labels="{}", value=1.0)])
    scene.lands()
    scene.says("exchanged 1")
    assert claims_of(flight) == 1


def test_whatever_goes_wrong_the_actor_hears_of_it(scene: Scene) -> None:
    flight = scene.send(1)
    scene.says("sent 1")
    scene.store.line.give(lambda: 1 // 0)
    scene.lands()
    with pytest.raises(ZeroDivisionError):
        flight.answer()
    again = scene.send(2)
    scene.says("closed", "sent 2")
    scene.store.line.give(got(2)[0])
    scene.lands()
    assert claims_of(again) == 2


# ---- turns


def test_a_claim_whose_turn_it_is_not_is_sent_again_until_it_is(scene: Scene) -> None:
    flight = scene.send(1, in_turn=True)
    for _ in range(3):
        scene.says("sent 1 in turn")
        assert scene.landed.empty()
        scene.store.line.give(ANOTHERS)
    scene.says("sent 1 in turn")
    scene.store.line.give(MINE)
    scene.lands()
    assert (claims_of(flight), flight.refused, flight.alone) == (1, False, False)
    scene.says("closed")


def test_a_claim_that_does_not_ask_for_a_turn_says_nothing_about_others(scene: Scene) -> None:
    flight = scene.send(1)
    scene.says("sent 1")
    scene.store.line.give(got(1)[0])
    scene.lands()
    assert (flight.alone, flight.refused) == (None, False)


def test_whoever_has_had_a_turn_for_long_is_not_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be frozen, and would keep it."""
    monkeypatch.setattr(actors_flight, "PATIENCE_S", 0.0)
    flight = scene.send(1, in_turn=True)
    scene.says("sent 1 in turn")
    scene.store.line.give(ANOTHERS)
    scene.says("sent 1")
    scene.store.line.give(got(1)[0])
    scene.lands()
    assert claims_of(flight) == 1
    scene.send(2, in_turn=True)
    scene.says("closed", "sent 2 in turn")


def test_a_claim_that_waits_for_its_turn_can_be_recalled(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop does not wait for it."""
    asks_again_after(monkeypatch, 60.0)
    flight = scene.send(1, in_turn=True)
    scene.says("sent 1 in turn")
    scene.store.line.give(ANOTHERS)
    scene.has_read()
    flight.recalled = True
    scene.orders.ring()
    scene.lands()
    assert flight.refused
    assert claims_of(flight) == 0
    scene.says("closed")


def test_a_claim_under_way_that_is_recalled_has_its_answer(scene: Scene) -> None:
    flight = scene.send(1, in_turn=True)
    scene.says("sent 1 in turn")
    flight.recalled = True
    scene.orders.ring()
    scene.store.line.give(MINE)
    scene.lands()
    assert (claims_of(flight), flight.refused) == (1, False)


@pytest.mark.parametrize("late", [True, False])
def test_nobody_stands_behind_a_claim_that_waits_for_its_turn(scene: Scene, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """It would be answered first. `late`: it comes while the other one waits already."""
    asks_again_after(monkeypatch, 60.0)
    first = scene.send(1, in_turn=True)
    scene.says("sent 1 in turn")
    if late:
        scene.store.line.give(ANOTHERS)
        scene.has_read()
    second = scene.send(2, in_turn=True)
    scene.says("sent 2 in turn")
    if not late:
        scene.store.line.give(ANOTHERS)
    scene.lands()
    assert first.refused
    scene.store.line.give(MINE)
    scene.lands()
    assert (claims_of(first), claims_of(second), second.refused) == (0, 1, False)
    scene.says("closed")


def test_the_time_that_a_claim_waits_for_its_turn_is_not_the_databases(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asks_again_after(monkeypatch, 0.5)
    flight = scene.send(1, in_turn=True)
    scene.says("sent 1 in turn")
    scene.store.line.give(ANOTHERS)
    scene.says("sent 1 in turn")
    scene.store.line.give(MINE)
    scene.lands()
    assert flight.seconds < 0.4


def test_who_stands_behind_a_claim_that_had_no_turn_begins_when_that_is_answered(scene: Scene) -> None:
    scene.send(1, in_turn=True)
    second = scene.send(2, in_turn=True)
    scene.says("sent 1 in turn", "sent 2 in turn")
    threading.Event().wait(0.5)
    scene.store.line.give(ANOTHERS)
    scene.lands()
    scene.store.line.give(MINE)
    scene.lands()
    assert second.seconds < 0.4


def test_the_more_others_there_are_the_later_is_asked_again() -> None:
    turns = Turns()
    turns.had(0.02)
    assert [turns.refused(now_s) for now_s in (1.0, 1.1, 1.2)] == pytest.approx([0.01, 0.02, 0.03])
    turns.had(0.002)
    assert turns.refused(2.0) == SOONEST_S
    turns.had(10.0)
    assert turns.refused(3.0) == LATEST_S


def test_patience_begins_anew_with_each_claim() -> None:
    turns = Turns()
    assert turns.worth(0.0)
    turns.refused(1.0)
    turns.refused(1.5)
    assert turns.worth(1.0 + PATIENCE_S - 0.01)
    assert not turns.worth(1.0 + PATIENCE_S)
    turns.had(0.01)
    assert turns.worth(1.0 + PATIENCE_S)
