"""What is claimed, in which order, and how it is handed over."""

from __future__ import annotations

import math
from datetime import timedelta
from threading import Thread

import msgspec
import pytest
from store_harness import World, ask, ended, finish_one, info, new, put, raw_json, take, take_one, view

from shiftboss.model import DEFAULT_MAX_ATTEMPTS, Lease, Outcome, Progress, TaskState, new_task_id
from shiftboss.store.base import ClaimAsk, Exchange, Lane, LaneAsk, Store
from shiftboss.store.sqlite.store import SqliteStore


def test_a_claim_carries_what_an_executor_needs(world: World) -> None:
    task_id = put(
        world.store,
        args=raw_json({"user_id": 7, "note": "æ\u2028"}),
        queue="mail",
        priority=5,
        max_attempts=3,
        timeout_s=2.5,
        tags=("x",),
        meta=raw_json({"trace": "1"}),
    )
    claim = take_one(world.store)
    assert (claim.task_id, claim.fence, claim.attempt, claim.running) == (task_id, 1, 1, True)
    assert (claim.type, claim.queue, claim.priority, claim.max_attempts, claim.timeout_s) == ("mail:send", "mail", 5, 3, 2.5)
    assert bytes(claim.args) == bytes(raw_json({"user_id": 7, "note": "æ\u2028"}))
    assert claim.meta is not None
    assert (claim.tags, bytes(claim.meta).replace(b" ", b"")) == (("x",), b'{"trace":"1"}')
    assert claim.enqueued_at == claim.due_at == world.clock.now().timestamp()


def test_arguments_come_back_to_the_letter(store: Store) -> None:
    text = b'{"b": 1.10, "a": 12345678901234567890123, "a": 1e2, "s": "\\u0041\\ud83d\\ude00"}'
    task_id = put(store, args=msgspec.Raw(text))
    claim = take_one(store)
    assert bytes(claim.args) == text
    finish_one(store, ended(claim))
    assert bytes(view(store, task_id).args) == text


def test_the_first_ones_run_and_the_rest_are_prefetched(store: Store) -> None:
    ids = [put(store) for _ in range(5)]
    claims = take(store, 4, running=2)
    assert [claim.task_id for claim in claims] == ids[:4]
    assert [claim.running for claim in claims] == [True, True, False, False]
    assert [view(store, task_id).status for task_id in ids] == [
        TaskState.RUNNING,
        TaskState.RUNNING,
        TaskState.CLAIMED,
        TaskState.CLAIMED,
        TaskState.PENDING,
    ]
    assert [view(store, task_id).attempts for task_id in ids] == [1, 1, 0, 0, 0]
    assert [claim.attempt for claim in claims] == [1, 1, 1, 1]


def test_the_type_fills_in_what_the_task_leaves_open(store: Store) -> None:
    open_, own = put(store), put(store, max_attempts=2, timeout_s=1.0)
    claims = {claim.task_id: claim for claim in take(store, types=[info(max_attempts=7, timeout_s=30.0)])}
    assert (claims[open_].max_attempts, claims[open_].timeout_s) == (7, 30.0)
    assert (claims[own].max_attempts, claims[own].timeout_s) == (2, 1.0)
    assert view(store, open_).max_attempts == 7
    finish_one(store, ended(claims[open_], Outcome.FAILED, retry_in_s=0.0))
    assert take_one(store, types=[info(max_attempts=1)]).max_attempts == 7  # filled in once


def test_without_a_word_from_anyone_the_default_holds(store: Store) -> None:
    put(store)
    assert take_one(store).max_attempts == DEFAULT_MAX_ATTEMPTS


def test_only_known_types_are_claimed_and_the_others_are_reported(store: Store) -> None:
    put(store, "other:type")
    mine = put(store)
    put(store, "other:type")
    assert [claim.task_id for claim in take(store)] == [mine]
    assert store.unknown_types(["mail:send"]) == {"other:type": 2}
    assert store.unknown_types(["mail:send", "other:type"]) == {}


def test_a_task_runs_when_it_is_due(world: World) -> None:
    store, clock = world.store, world.clock
    delayed = put(store, delay_s=10.0)
    dated = put(store, run_at=clock.now() + timedelta(seconds=20))
    past = put(store, run_at=clock.now() - timedelta(hours=1))
    assert [claim.task_id for claim in take(store)] == [past]
    clock.advance(10.0)
    assert [claim.task_id for claim in take(store)] == [delayed]
    clock.advance(9.9)
    assert take(store) == []
    clock.advance(0.1)
    assert [claim.task_id for claim in take(store)] == [dated]


def test_a_delay_wins_over_a_date(world: World) -> None:
    task_id = put(world.store, delay_s=5.0, run_at=world.clock.now() + timedelta(days=1))
    assert view(world.store, task_id).run_at == world.clock.now() + timedelta(seconds=5)


# ---- lanes


def test_lanes_are_what_has_pending_tasks_largest_priority_first(store: Store) -> None:
    for queue, priority in (("b", 0), ("a", 0), ("a", 0), ("a", 10), ("a", -5), ("b", 7)):
        put(store, queue=queue, priority=priority)
    put(store, queue="later", delay_s=100.0)
    lanes = [(lane.queue, lane.priority) for lane in store.lanes()]
    assert [priority for _, priority in lanes] == [10, 7, 0, 0, 0, -5]
    assert set(lanes) == {("a", 10), ("b", 7), ("a", 0), ("b", 0), ("later", 0), ("a", -5)}
    assert [(lane.queue, lane.priority) for lane in store.lanes(["b"])] == [("b", 7), ("b", 0)]
    assert store.lanes([]) == []
    take(store)
    assert [lane.queue for lane in store.lanes()] == ["later"]


def test_there_are_no_lanes_in_an_empty_database(store: Store) -> None:
    assert store.lanes() == []


def test_a_paused_queue_has_no_lanes_and_the_settings_ride_along(store: Store) -> None:
    put(store, queue="a")
    put(store, queue="b")
    store.set_queue("a", concurrency=2, weight=9)
    store.set_queue("b", paused=True)
    assert settings(store) == [Lane(queue="a", priority=0, concurrency=2, weight=9)]
    store.set_queue("b", paused=False)
    store.set_queue("a", concurrency=0)
    assert settings(store) == [Lane(queue="a", priority=0, weight=9), Lane(queue="b", priority=0)]


def settings(store: Store) -> list[Lane]:
    """The lanes without their times."""
    return [msgspec.structs.replace(lane, due_at=-math.inf) for lane in store.lanes()]


def test_a_lane_begins_where_its_first_task_is_due_or_that_was_not_looked_for(world: World) -> None:
    now_s = world.clock.now().timestamp()
    for queue, delays_s in {"a": (7.0, 0.0, 3.0), "b": (60.0, 5.0)}.items():
        for delay_s in delays_s:
            put(world.store, queue=queue, delay_s=delay_s)
    begins = {lane.queue: lane.due_at for lane in world.store.lanes()}
    if isinstance(world.store, SqliteStore):
        assert set(begins.values()) == {-math.inf}
    else:
        assert begins == {"a": pytest.approx(now_s, abs=1e-3), "b": pytest.approx(now_s + 5.0, abs=1e-3)}


def test_of_what_a_worker_holds_it_may_ask_for_some(store: Store) -> None:
    for _ in range(3):
        put(store)
    mine, also_mine = take(store, 2)
    (others,) = take(store, 1, worker_id="w2")
    assert {one.task_id for one in store.owned("w1")} == {mine.task_id, also_mine.task_id}
    found = store.owned("w1", [mine.task_id, others.task_id, new_task_id()])
    assert [(one.task_id, one.fence, one.status) for one in found] == [(mine.task_id, 1, TaskState.RUNNING)]
    assert store.owned("w1", []) == []


@pytest.mark.parametrize("merge", [None, "fifo", "lifo"])
def test_a_queue_that_was_paused_since_its_lanes_were_read_gives_nothing(store: Store, merge: str | None) -> None:
    """A claimer does not read the lanes before every claim."""
    put(store, queue="a")
    there = put(store, queue="b")
    store.set_queue("a", paused=True)
    lanes = [LaneAsk(queue=queue, priority=0, limit=5) for queue in ("a", "b")]
    ask = ClaimAsk(lanes=lanes, limit=5, running=5, types=[info()], merge=merge)
    assert [claim.task_id for claim in store.exchange(Exchange(worker_id="w1", claim=ask)).claims] == [there]
    store.set_queue("a", paused=False)
    assert len(store.exchange(Exchange(worker_id="w1", claim=ask)).claims) == 1


@pytest.mark.parametrize("merge", [None, "lifo"])
def test_who_has_not_read_the_lanes_gets_nothing_from_a_queue_that_has_a_limit(store: Store, merge: str | None) -> None:
    """It may have got it since they were read, and how many of its tasks run was not counted."""
    put(store, queue="a")
    there = put(store, queue="b")
    store.set_queue("a", concurrency=2)
    store.set_queue("b", weight=2)
    lanes = [LaneAsk(queue=queue, priority=0, limit=5) for queue in ("a", "b")]
    ask = ClaimAsk(lanes=lanes, limit=5, running=5, types=[info()], merge=merge, unread=True)
    assert [claim.task_id for claim in store.exchange(Exchange(worker_id="w1", claim=ask)).claims] == [there]
    read = msgspec.structs.replace(ask, unread=False)
    assert len(store.exchange(Exchange(worker_id="w1", claim=read)).claims) == 1


def test_lanes_are_drained_in_the_order_asked_and_oldest_first(world: World) -> None:
    store = world.store
    ids = {}
    for queue in ("a", "b"):
        for n in range(2):
            ids[queue, n] = put(store, queue=queue)
            world.clock.advance(1.0)
    lanes = [LaneAsk(queue="b", priority=0, limit=10), LaneAsk(queue="a", priority=0, limit=10)]
    claims = take(store, 3, lanes=lanes)
    assert [claim.task_id for claim in claims] == [ids["b", 0], ids["b", 1], ids["a", 0]]


def test_a_lane_gives_no_more_than_its_limit(store: Store) -> None:
    for queue in ("a", "a", "a", "b"):
        put(store, queue=queue)
    lanes = [LaneAsk(queue="a", priority=0, limit=1), LaneAsk(queue="b", priority=0, limit=5)]
    assert [claim.queue for claim in take(store, 10, lanes=lanes)] == ["a", "b"]
    assert take(store, 10, lanes=[LaneAsk(queue="a", priority=0, limit=0)]) == []


def test_what_was_due_before_since_is_not_looked_at(world: World) -> None:
    put(world.store)
    world.clock.advance(10.0)
    young = put(world.store)
    now = world.clock.now().timestamp()
    assert [c.task_id for c in take(world.store, lanes=[LaneAsk(queue="default", priority=0, limit=9, since=now)])] == [young]
    assert len(take(world.store, lanes=[LaneAsk(queue="default", priority=0, limit=9, since=now - 10.0)])) == 1


@pytest.mark.parametrize(("merge", "order"), [("fifo", [0, 1, 2]), ("lifo", [3, 2, 1])])
def test_fifo_and_lifo_go_over_all_lanes(world: World, merge: str, order: list[int]) -> None:
    ids = []
    for queue, priority in (("a", 0), ("b", 50), ("a", 0), ("b", -50)):
        ids.append(put(world.store, queue=queue, priority=priority))
        world.clock.advance(1.0)
    claims = take(world.store, 3, running=1, merge=merge)
    assert [claim.task_id for claim in claims] == [ids[n] for n in order]
    assert [claim.running for claim in claims] == [True, False, False]


def test_nothing_is_claimed_without_room_lanes_or_types(store: Store) -> None:
    put(store)
    assert take(store, 0, lanes=[LaneAsk(queue="default", priority=0, limit=5)]) == []
    assert take(store, lanes=[]) == []
    assert take(store, types=[]) == []
    assert len(take(store)) == 1


def test_two_claimers_never_get_the_same_task(world: World) -> None:
    stores = [world.store, world.open()]
    world.store.enqueue([new() for _ in range(400)])
    wish = ClaimAsk(lanes=[LaneAsk(queue="default", priority=0, limit=10)], limit=10, running=10, types=[info()])
    got: list[list[str]] = [[], []]

    def drain(index: int) -> None:
        while claims := stores[index].exchange(Exchange(worker_id=f"w{index}", claim=wish)).claims:
            got[index] += [claim.task_id for claim in claims]

    threads = [Thread(target=drain, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got[0]) + len(got[1]) == len({*got[0], *got[1]}) == 400


# ---- what a worker holds


def test_owned_is_what_the_database_says(store: Store) -> None:
    for _ in range(2):
        put(store)
    first, second = take(store, 2, running=1)
    put(store)
    take(store, worker_id="w2")
    found = {owned.task_id: owned for owned in store.owned("w1")}
    assert set(found) == {first.task_id, second.task_id}
    assert (found[first.task_id].fence, found[first.task_id].status) == (1, TaskState.RUNNING)
    assert found[second.task_id].status is TaskState.CLAIMED
    finish_one(store, ended(first))
    assert [owned.task_id for owned in store.owned("w1")] == [second.task_id]
    assert store.owned("nobody") == []


def test_a_claim_whose_reply_was_lost_is_given_back(store: Store) -> None:
    task_id = put(store)
    take_one(store)  # and we never hear of it
    (owned,) = store.owned("w1")
    store.exchange(Exchange(worker_id="w1", releases=[Lease(owned.task_id, owned.fence)]))
    found = view(store, task_id)
    assert (found.status, found.attempts) == (TaskState.PENDING, 0)


def test_progress_is_kept_for_its_owner_only(store: Store) -> None:
    task_id = put(store)
    claim = take_one(store)
    note = Progress(task_id=task_id, fence=claim.fence, percent=40.0, note='half "way"')
    store.exchange(Exchange(worker_id="w1", progress=[note]))
    stored = view(store, task_id).progress
    assert stored is not None
    assert msgspec.json.decode(stored) == {"percent": 40.0, "note": 'half "way"'}


def test_a_dead_letter_set_pending_without_its_attempts_gets_one_more_run(world: World) -> None:
    task_id = put(world.store, max_attempts=1)
    finish_one(world.store, ended(take_one(world.store), Outcome.FAILED))
    world.raw(f"UPDATE tasks SET status = 'pending' WHERE id = '{task_id}'")
    claim = take_one(world.store)
    assert (claim.attempt, claim.max_attempts) == (2, 2)
    assert finish_one(world.store, ended(claim, Outcome.FAILED, retry_in_s=0.0))[1] is TaskState.DEAD_LETTER


def test_one_wish_for_many_lanes_of_many_types(store: Store) -> None:
    store.enqueue([new(f"t{n % 5}", queue=f"q{n % 7}", priority=n % 3) for n in range(210)])
    claims = take(store, 210, types=[info(f"t{n}") for n in range(4)])
    assert len(claims) == 168
    assert ask(store).lanes  # the fifth type is still pending
    assert [claim.priority for claim in claims] == sorted((claim.priority for claim in claims), reverse=True)
