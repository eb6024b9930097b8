"""What the claimer asks for and where it sends it: pure decisions, tried over many inputs."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shiftboss.actors.planning import (
    LARGE,
    PREFETCH_WINDOW_S,
    Manner,
    Typical,
    distribute,
    lane_asks,
    order_lanes,
    prefetch_depth,
    round_manner,
)
from shiftboss.store.base import Lane

lanes = st.lists(
    st.builds(
        Lane,
        queue=st.sampled_from("abcd"),
        priority=st.integers(-100, 100),
        concurrency=st.none() | st.integers(1, 5),
        weight=st.integers(1, 1000),
    ),
    max_size=12,
    unique_by=lambda lane: (lane.queue, lane.priority),
)
seconds = st.floats(0, 1000, allow_nan=False)


def lane(queue: str, priority: int = 0, concurrency: int | None = None, weight: int = 1) -> Lane:
    return Lane(queue=queue, priority=priority, concurrency=concurrency, weight=weight)


def first_queues(given_lanes: list[Lane], strategy: str, draws: int = 2_000) -> Counter[str]:
    rng = random.Random(7)
    return Counter(order_lanes(given_lanes, strategy, rng)[0].queue for _ in range(draws))


# ---- the order of lanes


@given(lanes, st.sampled_from(["priority", "weighted_random", "fifo", "lifo"]), st.integers())
def test_ordering_neither_loses_nor_invents_a_lane(given_lanes: list[Lane], strategy: str, seed: int) -> None:
    ordered = order_lanes(given_lanes, strategy, random.Random(seed))
    assert sorted(map(repr, ordered)) == sorted(map(repr, given_lanes))


@given(lanes, st.integers())
def test_larger_priority_comes_first_whatever_the_queue(given_lanes: list[Lane], seed: int) -> None:
    priorities = [one.priority for one in order_lanes(given_lanes, "priority", random.Random(seed))]
    assert priorities == sorted(priorities, reverse=True)


@given(lanes, st.integers())
def test_weighted_random_keeps_a_queue_together_and_its_larger_priority_first(given_lanes: list[Lane], seed: int) -> None:
    ordered = order_lanes(given_lanes, "weighted_random", random.Random(seed))
    runs = [(queue, [one.priority for one in group]) for queue, group in itertools.groupby(ordered, lambda one: one.queue)]
    assert len({queue for queue, _ in runs}) == len(runs)
    assert all(priorities == sorted(priorities, reverse=True) for _, priorities in runs)


def test_queues_of_equal_priority_come_first_equally_often() -> None:
    firsts = first_queues([lane("a"), lane("b"), lane("c")], "priority")
    assert all(550 < firsts[queue] < 790 for queue in "abc"), firsts


def test_a_queue_of_thrice_the_weight_comes_first_thrice_as_often() -> None:
    firsts = first_queues([lane("a", weight=1), lane("b", weight=3)], "weighted_random")
    assert 1_400 < firsts["b"] < 1_600, firsts


def test_weights_count_once_however_many_lanes_a_queue_has() -> None:
    firsts = first_queues([lane("b"), *(lane("a", priority) for priority in range(10))], "weighted_random")
    assert 900 < firsts["a"] < 1_100, firsts


# ---- how much to ask of each


@given(lanes, st.integers(0, 50), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 8)))
def test_a_limited_queue_is_never_asked_for_more_than_it_may_still_run(
    given_lanes: list[Lane], limit: int, held: dict[str, int]
) -> None:
    # One queue has one concurrency, in all of its lanes.
    concurrency = {one.queue: one.concurrency for one in given_lanes}
    same = [Lane(queue=one.queue, priority=one.priority, concurrency=concurrency[one.queue]) for one in given_lanes]
    asks = lane_asks(same, limit, held, {})
    asked = Counter[str]()
    for ask in asks:
        assert 0 < ask.limit <= limit
        asked[ask.queue] += ask.limit
    for queue, allowed in concurrency.items():
        if allowed is not None:
            assert asked[queue] <= max(0, allowed - held.get(queue, 0))


@given(lanes, st.integers(1, 50))
def test_lanes_are_asked_in_their_order_and_unlimited_ones_for_all(given_lanes: list[Lane], limit: int) -> None:
    asks = lane_asks([lane(one.queue, one.priority) for one in given_lanes], limit, {}, {})
    assert [(ask.queue, ask.priority, ask.limit) for ask in asks] == [(one.queue, one.priority, limit) for one in given_lanes]


def test_a_limited_queue_that_is_full_is_not_asked_and_the_others_are() -> None:
    asks = lane_asks([lane("full", concurrency=2), lane("free", concurrency=2), lane("open")], 10, {"full": 2, "free": 1}, {})
    assert [(ask.queue, ask.limit) for ask in asks] == [("free", 1), ("open", 10)]


def test_each_lane_is_read_from_its_own_mark() -> None:
    asks = lane_asks([lane("a", 1), lane("a", 2), lane("b", 1)], 5, {}, {("a", 1): 11.0, ("b", 1): 12.0})
    assert [ask.since for ask in asks] == [11.0, None, 12.0]


# ---- who gets them


def all_rooms() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every (free, room) of up to three executors with up to two free slots and two places beyond them."""
    one = [(free, free + more) for free in range(3) for more in range(3)]
    return [tuple(zip(*combo, strict=True)) for n in (1, 2, 3) for combo in itertools.product(one, repeat=n)]  # type: ignore[misc]


def test_all_that_fits_is_placed_and_nobody_gets_more_than_there_is_room_for() -> None:
    for free, room in all_rooms():
        for count in (0, 1, 2, sum(free), sum(room) // 2, sum(room), sum(room) + 3):
            got = Counter(distribute(count, free, room))
            assert sum(got.values()) == min(count, sum(room)), (count, free, room)
            assert all(got[index] <= room[index] for index in range(len(room))), (count, free, room, got)


def test_free_slots_are_filled_before_anything_waits() -> None:
    for free, room in all_rooms():
        for count in range(sum(room) + 1):
            got = Counter(distribute(count, free, room))
            started = sum(min(got[index], free[index]) for index in range(len(free)))
            assert started == min(count, sum(free)), (count, free, room, got)


def test_first_claims_go_where_most_slots_are_free() -> None:
    assert distribute(4, [1, 3], [1, 3]) == [1, 1, 0, 1]


def test_what_waits_is_spread_when_one_executor_cannot_take_it_all() -> None:
    got = Counter(distribute(900, [0, 0, 0], [400, 400, 400]))
    assert min(got.values()) >= 200, got


def test_nobody_there_takes_nothing() -> None:
    assert distribute(5, [], []) == []


# ---- prefetch


def test_nothing_is_prefetched_before_anything_is_known() -> None:
    assert prefetch_depth(10, None, 1_000) == 0


def test_long_tasks_are_not_hoarded_and_short_ones_wait_in_large_numbers() -> None:
    assert prefetch_depth(4, 60.0, 1_000) == 0
    assert prefetch_depth(4, 0.001, 1_000_000) == 1_000


@given(st.integers(1, 5_000), seconds, st.integers(0, 5_000))
def test_prefetched_work_starts_within_the_window_and_stays_below_the_limit(slots: int, typical_s: float, longest: int) -> None:
    depth = prefetch_depth(slots, typical_s, longest)
    assert 0 <= depth <= longest
    assert depth * typical_s / slots <= PREFETCH_WINDOW_S * 1.000001


# ---- how long an attempt takes


@given(st.lists(seconds, min_size=1))
def test_estimate_never_undercuts_the_last_batch_and_stays_within_what_was_seen(batches: list[float]) -> None:
    typical = Typical()
    for mean_s in batches:
        typical = typical.after(mean_s)
        assert typical.seconds is not None
        assert min(batches) - 1e-6 <= typical.seconds <= max(batches) + 1e-6
        assert typical.seconds >= mean_s - 1e-9


def test_estimate_rises_at_once_and_falls_slowly() -> None:
    risen = Typical().after(0.01).after(5.0)
    assert risen.seconds == 5.0
    fallen = risen.after(0.0)
    assert fallen.seconds is not None and 3.0 < fallen.seconds < 4.0
    for _ in range(30):
        fallen = fallen.after(0.0)
    assert fallen.seconds is not None and fallen.seconds < 0.001


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("outcomes", [0, LARGE - 1, LARGE])
@pytest.mark.parametrize("asked", [0, LARGE - 1, LARGE])
@pytest.mark.parametrize("backlog", [False, True])
def test_how_a_round_is_had(backlog: bool, asked: int, outcomes: int, busy: bool, limited: bool) -> None:
    told = round_manner(flies=True, busy=busy, outcomes=outcomes, asked=asked, backlog=backlog, limited=limited)
    if asked == LARGE and (backlog or outcomes == LARGE):
        assert told is (Manner.FLIES if limited else Manner.CLAIM_FLIES)
    elif outcomes == LARGE:
        assert told is Manner.FLIES
    else:
        assert told is (Manner.NOT_YET if busy else Manner.HERE)


@pytest.mark.parametrize("asked", [0, LARGE])
@pytest.mark.parametrize("outcomes", [0, LARGE])
@pytest.mark.parametrize("busy", [False, True])
def test_what_may_not_fly_is_done_here_or_waits(busy: bool, outcomes: int, asked: int) -> None:
    told = round_manner(flies=False, busy=busy, outcomes=outcomes, asked=asked, backlog=True, limited=False)
    assert told is (Manner.NOT_YET if busy and outcomes < LARGE else Manner.HERE)
