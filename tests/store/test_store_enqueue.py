"""Storing tasks, and unique keys under every kind of race."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest
from store_harness import World, by_id, ended, finish_one, lease, new, put, take, take_one, view

from shiftboss.errors import StoreError
from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import Exchange, Store


def test_many_are_stored_in_one_call_and_answered_in_their_order(store: Store) -> None:
    tasks = [new(priority=n % 7) for n in range(1_000)]
    assert [stored.id for stored in store.enqueue(tasks)] == [task.id for task in tasks]
    assert store.counts().pending == {"mail:send": 1_000}
    assert store.enqueue([]) == []


def test_a_task_enqueued_again_under_its_id_is_stored_once(store: Store) -> None:
    task = new()
    assert [stored.existing for stored in store.enqueue([task, task])] == [False, True]
    (again,) = store.enqueue([task])
    assert (again.id, again.existing) == (task.id, True)
    assert store.counts().enqueued == {"mail:send": 1}


def test_a_task_enqueued_again_after_its_end_is_not_stored_again(store: Store) -> None:
    task = new()
    store.enqueue([task])
    finish_one(store, ended(take_one(store)))
    (again,) = store.enqueue([task])
    assert (again.id, again.existing) == (task.id, True)
    assert view(store, task.id).status is TaskState.COMPLETED
    assert store.lanes() == []


def test_a_batch_sent_again_is_answered_with_its_own_tasks_whoever_has_their_key_now(store: Store) -> None:
    first, second = new(unique_key="user:42"), new(unique_key="user:42")
    assert [it.id for it in store.enqueue([first, second])] == [first.id, first.id]
    finish_one(store, ended(take_one(store)))
    answers = store.enqueue([first, second])
    assert [(it.id, it.existing) for it in answers] == [(first.id, True), (second.id, False)]
    assert [(it.id, it.existing) for it in store.enqueue([first])] == [(first.id, True)]


def test_a_unique_key_gives_the_existing_task_while_it_is_unfinished(store: Store) -> None:
    first = put(store, unique_key="user:42")
    (again,) = store.enqueue([new(unique_key="user:42")])
    assert (again.id, again.existing) == (first, True)
    claim = take_one(store, running=0)
    (again,) = store.enqueue([new(unique_key="user:42")])
    assert (again.id, again.existing) == (first, True)
    store.exchange(Exchange(worker_id="w1", starts=[lease(claim)]))
    (again,) = store.enqueue([new(unique_key="user:42")])
    assert (again.id, again.existing) == (first, True)
    finish_one(store, ended(claim))
    (fresh,) = store.enqueue([new(unique_key="user:42")])
    assert not fresh.existing
    assert fresh.id != first


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED])
def test_a_dead_letter_or_cancelled_task_frees_its_key(store: Store, outcome: Outcome) -> None:
    put(store, unique_key="k")
    finish_one(store, ended(take_one(store), outcome))
    (fresh,) = store.enqueue([new(unique_key="k")])
    assert not fresh.existing


def test_one_batch_with_the_same_key_twice_stores_one(store: Store) -> None:
    tasks = [new(unique_key="a"), new(unique_key="b"), new(unique_key="a"), new()]
    answers = store.enqueue(tasks)
    assert [(answer.id, answer.existing) for answer in answers] == [
        (tasks[0].id, False),
        (tasks[1].id, False),
        (tasks[0].id, True),
        (tasks[3].id, False),
    ]


def test_a_key_is_one_key_over_all_types(store: Store) -> None:
    first = put(store, "a", unique_key="k")
    (again,) = store.enqueue([new("b", unique_key="k")])
    assert (again.id, again.existing) == (first, True)


def test_many_threads_with_one_key_store_one_task(world: World) -> None:
    stores = [world.open() for _ in range(4)]
    barrier = Barrier(4)
    answers: list[tuple[str, bool]] = []

    def enqueue(store: Store) -> None:
        barrier.wait(30)
        for n in range(10):
            (stored,) = store.enqueue([new(unique_key=f"k{n}")])
            answers.append((stored.id, stored.existing))

    threads = [Thread(target=enqueue, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 40
    assert sum(not existing for _, existing in answers) == len({task_id for task_id, _ in answers}) == 10


def test_keys_that_are_finished_while_others_enqueue_them(world: World) -> None:
    store, other = world.store, world.open()
    stop = Barrier(2)
    made: list[str] = []

    def enqueue() -> None:
        for _ in range(60):
            (stored,) = other.enqueue([new(unique_key="k")])
            made.append(stored.id)
        stop.wait(60)

    thread = Thread(target=enqueue)
    thread.start()
    while stop.n_waiting == 0:
        for claim in take(store):
            finish_one(store, ended(claim))
    stop.wait(60)
    thread.join(60)
    for claim in take(store):
        finish_one(store, ended(claim))
    assert {view(store, task_id).status for task_id in made} == {TaskState.COMPLETED}


def test_retry_leaves_alone_what_has_lost_its_key(store: Store) -> None:
    old = put(store, unique_key="k")
    finish_one(store, ended(take_one(store), Outcome.FAILED))
    cancelled = put(store, unique_key="k")
    store.cancel(by_id(cancelled))
    young = put(store, unique_key="k")
    assert store.retry(by_id(old, cancelled)) == 0
    assert view(store, old).status is TaskState.DEAD_LETTER
    assert view(store, cancelled).status is TaskState.CANCELLED
    store.cancel(by_id(young))
    assert store.retry(by_id(old, cancelled)) == 1  # one of the two gets the key
    assert store.counts().enqueued == {"mail:send": 3}


def test_a_bad_value_is_refused_whole_and_says_so(store: Store) -> None:
    good = new()
    with pytest.raises(StoreError):
        store.enqueue([good, new(priority=101)])
    assert store.get(good.id) is None
    assert not store.enqueue([good])[0].existing  # and the store works on
