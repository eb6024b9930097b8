"""A sleeping claimer is woken by whoever enqueues, at once."""

from __future__ import annotations

import time
from threading import Event, Thread
from typing import Any

import pytest
from store_harness import by_id, ended, finish_one, put, take_one, worker

from shiftboss.model import Outcome
from shiftboss.store.base import Listener, Store

SOON_S = 10.0


def _asleep(store: Store, worker_id: str = "w1") -> Listener:
    store.register(worker(worker_id), 30.0, exclusive=False)
    listener = store.listener(worker_id)
    store.set_sleeping(worker_id, True)
    return listener


def test_an_enqueue_wakes_every_listener(store: Store, other_store: Store) -> None:
    listeners = [_asleep(store, "w1"), _asleep(store, "w2")]
    put(other_store)
    assert [listener.wait(SOON_S) for listener in listeners] == [True, True]
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("change", [{"paused": False}, {"concurrency": 2}, {"concurrency": 0}])
def test_what_lets_a_queue_run_wakes_every_listener(store: Store, other_store: Store, change: dict[str, Any]) -> None:
    store.set_queue("default", paused=True, concurrency=1)
    listener = _asleep(store)
    other_store.set_queue("default", **change)
    assert listener.wait(SOON_S) is True
    listener.close()


@pytest.mark.parametrize("change", [{"paused": True}, {"weight": 2}])
def test_what_lets_nothing_more_run_wakes_nobody(store: Store, other_store: Store, change: dict[str, Any]) -> None:
    listener = _asleep(store)
    other_store.set_queue("default", **change)
    assert listener.wait(0.2) is False
    listener.close()


def test_nobody_rings_when_nothing_happens(store: Store) -> None:
    listener = _asleep(store)
    began = time.monotonic()
    assert listener.wait(0.05) is False
    assert time.monotonic() - began >= 0.05
    listener.close()


def test_a_ring_before_the_wait_is_not_lost(store: Store, other_store: Store) -> None:
    listener = _asleep(store)
    for _ in range(3):
        put(other_store)
    assert listener.wait(SOON_S) is True
    listener.close()


def test_a_wait_under_way_is_woken(store: Store, other_store: Store) -> None:
    listener = _asleep(store)
    woken = Event()

    def wait() -> None:
        if listener.wait(SOON_S):
            woken.set()

    thread = Thread(target=wait)
    thread.start()
    put(other_store)
    assert woken.wait(SOON_S)
    thread.join(SOON_S)
    listener.close()


def test_close_ends_a_wait_in_another_thread(store: Store) -> None:
    listener = _asleep(store)
    answers: list[bool] = []
    thread = Thread(target=lambda: answers.append(listener.wait(60.0)))
    thread.start()
    listener.close()
    thread.join(SOON_S)
    assert not thread.is_alive()
    assert answers == [False]
    listener.close()


def test_a_retry_wakes_too(store: Store, other_store: Store) -> None:
    task_id = put(store)
    finish_one(store, ended(take_one(store), Outcome.FAILED))
    listener = _asleep(store)
    listener.wait(0.0)
    assert other_store.retry(by_id(task_id)) == 1
    assert listener.wait(SOON_S) is True
    listener.close()
