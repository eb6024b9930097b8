"""How long a task can hide behind the mark of its lane: one that is put back with an old due time, while newer ones go on."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from shiftboss.actors import lanebook, pace, planning
from shiftboss.actors.lanebook import LaneBook
from shiftboss.model import Claim
from shiftboss.store.base import ClaimAsk, Lane, LaneAsk

HIDDEN_AT_MOST_S = 1.5  # a dead worker's task runs elsewhere within worker_timeout and two seconds, backlog or not
RAW = b"{}"
HIDDEN_AT = 10.0


class Clock:
    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


def claim(due_at: float) -> Claim:
    return Claim(
        task_id="01a00000-0000-7000-8000-000000000001", fence=1, attempt=1, type="t", queue="default", priority=0,
        args=msgspec.Raw(RAW), max_attempts=1, timeout_s=None, running=True, enqueued_at=due_at, due_at=due_at,
    )  # fmt: skip


class Hiding:
    """A store of one lane, at whose beginning stands what nobody claims."""

    def lanes(self, _queues: object) -> list[Lane]:
        return [Lane(queue="default", priority=0, due_at=HIDDEN_AT)]


def asked(book: LaneBook, limit: int = 1) -> ClaimAsk:
    store: Any = Hiding()
    assert book.lanes(store)
    since = book.marks().get(("default", 0))
    return noted(book, since, limit)


def noted(book: LaneBook, since: float | None = None, limit: int = 1) -> ClaimAsk:
    ask = ClaimAsk(lanes=[LaneAsk(queue="default", priority=0, limit=limit, since=since)], limit=limit, running=1, types=[])
    book.asked(ask)
    return ask


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lanebook, "time", made)
    return made


def looks(book: LaneBook, clock: Clock, rounds: int, *, full: bool, took_s: float) -> list[float]:
    """When a lane was read from its beginning; every claim gets all it asked for, or less."""
    seen = []
    for _ in range(rounds):
        clock.now_s += 0.05
        ask = asked(book, 1 if full else 2)
        since = ask.lanes[0].since
        if since is None or since < HIDDEN_AT:
            seen.append(clock.now_s)
        book.learn(ask, [claim(clock.now_s)], took_s)
        book.look_again(rung=True)
    return seen


def gaps(seen: list[float]) -> list[float]:
    return [later - sooner for sooner, later in itertools.pairwise(seen)]


def test_under_a_backlog_a_lane_is_read_from_its_beginning_soon_enough(clock: Clock) -> None:
    seen = looks(LaneBook((), "priority", 1.0), clock, 400, full=True, took_s=0.03)
    assert len(seen) < 40, "no mark was ever used"
    assert max(gaps(seen)) <= HIDDEN_AT_MOST_S


def test_a_lane_that_gave_all_it_had_is_read_from_its_beginning_at_once_while_that_is_cheap(clock: Clock) -> None:
    seen = looks(LaneBook((), "priority", 1.0), clock, 40, full=False, took_s=0.001)
    assert max(gaps(seen)) < 0.11


@pytest.mark.parametrize("took_s", [0.01, 0.1, 0.4])
def test_looking_from_the_beginning_takes_a_twentieth_of_the_time(clock: Clock, took_s: float) -> None:
    """Half of the peak leaves every lane empty after each claim, and a million dead entries before it."""
    seen = looks(LaneBook((), "priority", 1.0), clock, 2_000, full=False, took_s=took_s)
    assert seen, "never"
    assert took_s * 19 <= min(gaps(seen)[1:]) <= max(gaps(seen)) <= took_s * 20 + 0.15


def test_however_dear_it_is_it_is_done_sometimes(clock: Clock) -> None:
    seen = looks(LaneBook((), "priority", 1.0), clock, 20_000, full=False, took_s=17.0)
    assert max(gaps(seen)) <= pace.LONGEST_PAUSE_S + 0.1


class Lanes:
    """A store of one lane; to read it takes a while."""

    def __init__(self, clock: Clock, took_s: float, lanes: int = 1) -> None:
        self.clock, self.took_s = clock, took_s
        self.lanes_s: list[float] = []
        self.found = [Lane(queue="default", priority=0, concurrency=None, weight=1)] * lanes

    def lanes(self, _queues: object) -> list[Lane]:
        self.lanes_s.append(self.clock.now_s)
        self.clock.now_s += self.took_s
        return self.found


def test_what_has_come_back_is_claimed_where_it_stands_not_from_where_the_index_begins(clock: Clock) -> None:
    """Before it there may be all that has left the lane in hours, for as long as somebody holds a snapshot."""
    book = LaneBook((), "priority", 1.0)
    book.learn(asked(book), [claim(clock.now_s)], 0.001)
    clock.now_s += 2.0
    since = asked(book).lanes[0].since
    assert since is not None
    assert HIDDEN_AT - 0.01 < since < HIDDEN_AT


def test_a_lane_with_nothing_before_its_mark_is_claimed_from_its_mark(clock: Clock) -> None:
    book = LaneBook((), "priority", 1.0)
    book.read([Lane(queue="default", priority=0, due_at=clock.now_s)], clock.now_s, 0.001)
    book.learn(noted(book), [claim(clock.now_s)], 0.001)
    clock.now_s += 30.0
    assert book.marks() == {("default", 0): clock.now_s - 30.0 - lanebook.MARK_MARGIN_S}


@pytest.mark.parametrize(("took_s", "least_s", "most_s"), [(0.0005, 0.0, 0.06), (0.01, 0.19, 0.26), (0.1, 1.9, 2.2)])
def test_reading_the_lanes_takes_a_twentieth_of_the_time(clock: Clock, took_s: float, least_s: float, most_s: float) -> None:
    store: Any = Lanes(clock, took_s)
    book = LaneBook((), "priority", 1.0)
    for _ in range(400):
        clock.now_s += 0.05
        book.look_again(rung=True)
        assert book.lanes(store)
    assert least_s <= min(gaps(store.lanes_s)[1:]) <= max(gaps(store.lanes_s)) <= most_s


def test_who_knows_of_no_lane_reads_them_however_dear_that_was(clock: Clock) -> None:
    """Or a task that comes after everything was empty would wait for the pause to end."""
    store: Any = Lanes(clock, 0.1, lanes=0)
    book = LaneBook((), "priority", 1.0)
    for _ in range(3):
        book.look_again(rung=True)
        book.lanes(store)
    assert len(store.lanes_s) == 3


def dear_book(clock: Clock) -> LaneBook:
    """It has claimed from its lane, and to read the lanes takes half a second."""
    book = LaneBook((), "priority", 1.0)
    for _ in range(2):
        book.read([Lane(queue="default", priority=0, due_at=clock.now_s)], clock.now_s, 0.5)
    book.learn(noted(book), [claim(clock.now_s)], 0.001)
    return book


def test_a_lane_that_was_emptied_is_asked_on_from_its_mark_while_lanes_are_dear_to_read(clock: Clock) -> None:
    book = dear_book(clock)
    mark = book.marks()["default", 0]
    book.read([Lane(queue="other", priority=0, due_at=clock.now_s)], clock.now_s, 0.5)
    assert {lane.queue for lane in book.in_order()} == {"default", "other"}
    clock.now_s += 10.0
    assert book.marks()["default", 0] == mark, "no look at what has left it"
    book.read([], clock.now_s, 0.5)
    assert [lane.queue for lane in book.in_order()] == ["default"], "the other has never given anything"
    for _ in range(2):
        book.read([], clock.now_s, 0.001)
    assert book.in_order() == []


def test_where_no_lane_is_known_and_they_are_dear_to_read_a_ring_has_them_read_and_a_poll_waits(clock: Clock) -> None:
    book = LaneBook((), "priority", 1.0)
    for _ in range(2):
        book.read([], clock.now_s, 0.5)
    clock.now_s += 1.0
    book.look_again(rung=False)
    assert not book.is_due()
    book.look_again(rung=True)
    book.look_again(rung=False)
    assert book.is_due()
    book.read([], clock.now_s, 0.5)
    assert not book.is_due()
    clock.now_s += pace.PAUSE_BY_COST * 0.5 + 0.1
    assert book.is_due()


def test_lanes_that_could_not_be_read_are_read_again_later_however_often_somebody_rings(clock: Clock) -> None:
    """A look that ends with a timeout has had the database work for it all the same."""
    book = LaneBook((), "priority", 1.0)
    for _ in range(2):
        book.read([], clock.now_s, 0.5)
    book.missed(clock.now_s, 2.0)
    book.look_again(rung=True)
    clock.now_s += pace.PAUSE_BY_COST * 2.0 - 1.0
    assert not book.is_due()
    clock.now_s += 2.0
    assert book.is_due()
    book.read([], clock.now_s, 0.5)
    book.look_again(rung=True)
    assert book.is_due()


def test_one_slow_look_on_a_busy_machine_changes_nothing() -> None:
    found = pace.Pace()
    for took_s in (0.001, 5.0, 0.001):
        found.taken(10.0, took_s)
        assert found.pause_s == 0.0
        assert found.due(10.001)
    found.taken(11.0, 5.0)
    found.taken(16.0, 4.0)
    assert found.pause_s == pace.LONGEST_PAUSE_S
    assert not found.due(16.0 + pace.LONGEST_PAUSE_S)
    assert found.due(16.1 + pace.LONGEST_PAUSE_S)


def test_an_hour_without_answers_is_no_burden(clock: Clock) -> None:
    book = LaneBook((), "priority", 1.0)
    for _ in range(3_600):
        asked(book)
        clock.now_s += 1.0
    assert len(book._asked) < 10
    book.learn(asked(book), [claim(clock.now_s)], 0.001)
    assert not book._asked


# ---- claiming before the lanes are read, where tasks have come from lately


def a_claim(queue: str, priority: int = 0) -> Claim:
    return msgspec.structs.replace(claim(HIDDEN_AT), queue=queue, priority=priority)


class Known:
    """A store of these lanes; counts how often they are read."""

    def __init__(self, *lanes: Lane) -> None:
        self.found, self.read = list(lanes), 0

    def lanes(self, _queues: object) -> list[Lane]:
        self.read += 1
        return self.found


def went(book: LaneBook, clock: Clock, store: Any, *claims: Claim) -> list[tuple[str, int]]:
    """A claim of ten gets these. Returns the lanes it named, in their order."""
    clock.now_s += 1.0
    lanes = book.lanes(store)
    marks = book.marks()
    asks = [
        LaneAsk(queue=one.queue, priority=one.priority, limit=10, since=marks.get((one.queue, one.priority))) for one in lanes
    ]
    if asks:
        ask = ClaimAsk(lanes=asks, limit=10, running=10, types=[], unread=book.unread, merge=book.merge)
        book.asked(ask)
        book.learn(ask, claims, 0.001)
    else:
        book.drained = True
    return [(one.queue, one.priority) for one in asks]


def idle_after(book: LaneBook, clock: Clock, *claims: Claim) -> None:
    """These were claimed; then there was nothing to do any more."""
    went(book, clock, Known(*(Lane(queue=one.queue, priority=one.priority) for one in claims)), *claims)
    book.look_again(rung=False)
    went(book, clock, Known())
    assert book.drained


def test_who_is_rung_for_claims_from_where_tasks_came_lately_and_reads_the_lanes_after_that(clock: Clock) -> None:
    book = LaneBook((), "priority", 1.0)
    idle_after(book, clock, a_claim("a"), a_claim("b", 5))
    store = Known(Lane(queue="c", priority=9))
    book.look_again(rung=True)
    assert went(book, clock, store, a_claim("b", 5)) == [("b", 5), ("a", 0)]
    assert (store.read, book.drained) == (0, False)
    assert went(book, clock, store, a_claim("c", 9)) == [("c", 9)]
    assert store.read == 1


@pytest.mark.parametrize("dear", [True, False])
def test_where_nothing_was_the_lanes_are_read(clock: Clock, dear: bool) -> None:
    book, store = LaneBook((), "priority", 1.0), Known(Lane(queue="c", priority=0))
    idle_after(book, clock, a_claim("a"))
    for _ in range(2):
        book._looking.taken(clock.now_s, 10.0 if dear else 0.001)
    book.look_again(rung=True)
    assert went(book, clock, store) == [("a", 0)]
    assert not book.drained, "it is not known that there is nothing"
    assert went(book, clock, store) == [("c", 0)]


@pytest.mark.parametrize("why", ["polled", "busy", "first", "merged"])
def test_otherwise_lanes_are_read_before_a_claim(clock: Clock, why: str) -> None:
    book, store = LaneBook((), "fifo" if why == "merged" else "priority", 1.0), Known(Lane(queue="c", priority=0))
    if why != "first":
        idle_after(book, clock, a_claim("a"))
    book.drained = why != "busy"
    book.look_again(rung=why != "polled")
    assert went(book, clock, store) == [("c", 0)]


def test_a_lane_of_a_limited_queue_is_always_read_first(clock: Clock) -> None:
    """How many of its tasks may run is read with it."""
    book = LaneBook((), "priority", 1.0)
    idle_after(book, clock, a_claim("a"), a_claim("b"))
    book.look_again(rung=False)
    went(book, clock, Known(Lane(queue="b", priority=0, concurrency=3)), a_claim("b"))
    went(book, clock, Known())
    book.look_again(rung=False)
    assert went(book, clock, Known()) == []
    book.look_again(rung=True)
    assert went(book, clock, Known()) == [("a", 0)]


def test_only_the_latest_lanes_are_remembered(clock: Clock) -> None:
    book = LaneBook((), "priority", 1.0)
    idle_after(book, clock, *(a_claim(f"q{number}", -number) for number in range(lanebook.LATELY + 2)))
    book.look_again(rung=True)
    assert went(book, clock, Known()) == [(f"q{number}", -number) for number in range(2, lanebook.LATELY + 2)]


def test_what_is_claimed_before_the_lanes_are_read_moves_the_mark(clock: Clock) -> None:
    book = LaneBook((), "priority", 1.0)
    idle_after(book, clock, a_claim("a"))
    book.look_again(rung=True)
    later = msgspec.structs.replace(a_claim("a"), due_at=HIDDEN_AT + 50.0)
    went(book, clock, Known(), later)
    assert book.marks()["a", 0] == pytest.approx(HIDDEN_AT + 50.0 - planning.MARK_MARGIN_S)
    assert book.poll_s == lanebook.FIRST_POLL_S


def test_who_claims_before_the_lanes_are_read_looks_from_their_beginning_after_that(clock: Clock) -> None:
    book, store = LaneBook((), "priority", 1.0), Known(Lane(queue="a", priority=0, due_at=HIDDEN_AT - 5.0))
    idle_after(book, clock, a_claim("a"))
    book.look_again(rung=True)
    went(book, clock, store)
    assert book.lanes(store)
    assert book.marks()["a", 0] < HIDDEN_AT - 5.0
