"""Every transition of `TASK_TRANSITIONS` happens, and every other pair of state and event changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from store_harness import World, by_id, ended, finish, finish_one, lead, new, put, take, take_one, view

from shiftboss.model import (
    MAX_REFUNDS,
    TASK_TRANSITIONS,
    Lease,
    Outcome,
    TaskEvent,
    TaskState,
    new_task_id,
)
from shiftboss.store.base import Exchange, Retention

State = TaskState | None
A_HUNDRED_DAYS_S = 100 * 86_400.0


# ---- a task in each state


def _pending(world: World) -> str:
    return put(world.store)


def _claimed(world: World) -> str:
    task_id = put(world.store)
    take_one(world.store, running=0)
    return task_id


def _running(world: World) -> str:
    task_id = put(world.store)
    take_one(world.store)
    return task_id


def _ended(outcome: Outcome) -> Callable[[World], str]:
    def arrange(world: World) -> str:
        task_id = put(world.store)
        finish_one(world.store, ended(take_one(world.store), outcome, error="because"))
        return task_id

    return arrange


ARRANGE: dict[State, Callable[[World], str]] = {
    None: lambda _world: new_task_id(),
    TaskState.PENDING: _pending,
    TaskState.CLAIMED: _claimed,
    TaskState.RUNNING: _running,
    TaskState.COMPLETED: _ended(Outcome.SUCCESS),
    TaskState.CANCELLED: _ended(Outcome.CANCELLED),
    TaskState.DEAD_LETTER: _ended(Outcome.FAILED),
}


# ---- each event, told of the fence that the task has


def _lease(world: World, task_id: str) -> Lease:
    found = world.store.get(task_id)
    return Lease(task_id, found.fence if found else 0)


def _end(outcome: Outcome, retry_in_s: float | None = None) -> Callable[[World, str], object]:
    return lambda world, task_id: finish(world.store, ended(_lease(world, task_id), outcome, error="why", retry_in_s=retry_in_s))


def _recover(world: World, _task_id: str) -> object:
    return world.store.recover(lead(world.store))  # the worker w1 has no row, so it is gone


def _prune(world: World, _task_id: str) -> object:
    world.clock.advance(A_HUNDRED_DAYS_S)
    return world.store.prune(lead(world.store), Retention())


def _exchange(**parts: Callable[[Lease], object]) -> Callable[[World, str], object]:
    def act(world: World, task_id: str) -> object:
        lease = _lease(world, task_id)
        return world.store.exchange(Exchange(worker_id="w1", **{name: [part(lease)] for name, part in parts.items()}))

    return act


ACT: dict[TaskEvent, Callable[[World, str], object]] = {
    TaskEvent.ENQUEUE: lambda world, task_id: world.store.enqueue([new(id=task_id)]),
    TaskEvent.CLAIM: lambda world, _task_id: take(world.store),
    TaskEvent.START: _exchange(starts=lambda lease: lease),
    TaskEvent.SUCCEED: _end(Outcome.SUCCESS),
    TaskEvent.FAIL: _end(Outcome.FAILED, retry_in_s=60.0),
    TaskEvent.RELEASE: _exchange(releases=lambda lease: lease),
    TaskEvent.INTERRUPT: _end(Outcome.INTERRUPTED),
    TaskEvent.SNOOZE: _end(Outcome.SNOOZED, retry_in_s=60.0),
    TaskEvent.RECOVER: _recover,
    TaskEvent.CANCEL: lambda world, task_id: world.store.cancel(by_id(task_id)),
    TaskEvent.RETRY: lambda world, task_id: world.store.retry(by_id(task_id)),
    TaskEvent.PRUNE: _prune,
}


def _cancel_and_obey(world: World, task_id: str) -> None:
    world.store.cancel(by_id(task_id))
    _end(Outcome.CANCELLED)(world, task_id)


# Where an event may lead to two states: what makes it the second one.
SECOND_WAY: dict[tuple[State, TaskEvent, State], Callable[[World, str], object]] = {
    (TaskState.PENDING, TaskEvent.CLAIM, TaskState.CLAIMED): lambda world, _task_id: take(world.store, running=0),
    (TaskState.CLAIMED, TaskEvent.FAIL, TaskState.DEAD_LETTER): _end(Outcome.FAILED),
    (TaskState.RUNNING, TaskEvent.FAIL, TaskState.DEAD_LETTER): _end(Outcome.FAILED),
    (TaskState.CLAIMED, TaskEvent.CANCEL, TaskState.CANCELLED): _cancel_and_obey,
    (TaskState.RUNNING, TaskEvent.CANCEL, TaskState.CANCELLED): _cancel_and_obey,
}

TRIPLES = [(state, event, target) for (state, event), targets in TASK_TRANSITIONS.items() for target in sorted(targets, key=str)]
REFUSED = [pair for pair in product(ARRANGE, TaskEvent) if pair not in TASK_TRANSITIONS]


@pytest.mark.parametrize(("state", "event", "target"), TRIPLES)
def test_transition(world: World, state: State, event: TaskEvent, target: State) -> None:
    task_id = ARRANGE[state](world)
    act = SECOND_WAY.get((state, event, target))
    if act is None:
        act = ACT[event]
        if target is TaskState.DEAD_LETTER:
            charge = "attempts + 1" if state is TaskState.CLAIMED else "attempts"
            world.raw(f"UPDATE tasks SET refunds = {MAX_REFUNDS}, max_attempts = {charge} WHERE id = '{task_id}'")
    act(world, task_id)
    found = world.store.get(task_id)
    assert (found.status if found else None) is target


@pytest.mark.parametrize(("state", "event"), REFUSED)
def test_refused(world: World, state: State, event: TaskEvent) -> None:
    task_id = ARRANGE[state](world)
    before, attempts = world.store.get(task_id), world.store.attempts(task_id)
    ACT[event](world, task_id)
    assert world.store.get(task_id) == before
    assert world.store.attempts(task_id) == attempts


@pytest.mark.parametrize("state", [state for state in ARRANGE if state is not None])
def test_arranged(world: World, state: TaskState) -> None:
    assert view(world.store, ARRANGE[state](world)).status is state
