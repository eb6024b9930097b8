"""However tasks come in (one, one with a new id, a few, many), the same rows are stored and the same answers given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec
import pytest
from store_harness import TYPE, ended, finish, new, raw_json, take, view

from shiftboss.errors import StoreError
from shiftboss.model import Enqueued, NewTask
from shiftboss.store.base import Store
from shiftboss.store.postgres.store import PostgresStore

FEW: Final = 20
MANY: Final = 320  # more than the fewest that go by COPY
KINDS: Final[list[dict[str, Any]]] = [
    {},
    {"args": raw_json({"text": 'a "quoted"\n\\ line, blå, \U0001f600', "none": None, "n": 1.5})},
    {"args": msgspec.Raw(b'{"tab": "\\u0009", "big": "' + b"x" * 20_000 + b'"}')},
    {"queue": "mail", "priority": -7, "max_attempts": 3, "timeout_s": 2.5},
    {"delay_s": 90.0},
    {"delay_s": 0.0},
    {"run_at": datetime(2030, 1, 31, 8, 0, 0, 250_000, timezone(timedelta(hours=2)))},
    {"run_at": datetime(1999, 1, 1, tzinfo=UTC), "tags": ("a", 'b,"c"', "blå")},
    {"tags": ("x",), "meta": raw_json({"trace": ["1", 2]})},
]
Way = Callable[[Store, Sequence[NewTask]], list[Enqueued]]


def one_by_one(store: Store, tasks: Sequence[NewTask]) -> list[Enqueued]:
    return [answer for task in tasks for answer in store.enqueue([task])]


def one_by_one_fresh(store: Store, tasks: Sequence[NewTask]) -> list[Enqueued]:
    return [answer for task in tasks for answer in store.enqueue([task], fresh=True)]


def at_once(store: Store, tasks: Sequence[NewTask]) -> list[Enqueued]:
    return list(store.enqueue(tasks))


def among_many(store: Store, tasks: Sequence[NewTask]) -> list[Enqueued]:
    return list(store.enqueue([*tasks, *(new("other") for _ in range(MANY))]))[: len(tasks)]


WAYS: Final[list[Way]] = [one_by_one, one_by_one_fresh, at_once, among_many]


def seen(store: Store, task: NewTask) -> dict[str, object]:
    known = msgspec.structs.asdict(view(store, task.id))
    return {**known, "id": None, "args": bytes(known["args"]), "meta": known["meta"] and msgspec.json.decode(known["meta"])}


@pytest.mark.parametrize("way", WAYS[1:])
def test_every_way_writes_the_same_row(store: Store, way: Way) -> None:
    plain, others = [new(**kind) for kind in KINDS], [new(**kind) for kind in KINDS]
    one_by_one(store, plain)
    assert way(store, others) == [Enqueued(id=task.id) for task in others]
    assert [seen(store, task) for task in others] == [seen(store, task) for task in plain]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_knows_whose_key_it_is(store: Store, way: Way) -> None:
    holder = new(unique_key="k", run_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert way(store, [holder]) == [Enqueued(id=holder.id)]
    tasks = [new(), new(unique_key="k"), new()]
    answers = way(store, tasks)
    assert [(it.id, it.existing) for it in answers] == [(tasks[0].id, False), (holder.id, True), (tasks[2].id, False)]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_refuses_what_no_row_can_hold(store: Store, way: Way) -> None:
    for _ in range(8):  # until statements are prepared
        way(store, [new()])
    bad_rows: list[dict[str, Any]] = [{"priority": 101}, {"max_attempts": 0}]
    if isinstance(store, PostgresStore):  # SQLite stores these as they are
        no_text = [msgspec.Raw(text) for text in (b'{"nul": "\\u0000"}', b'{"half": "\\uD83d"}')]
        bad_rows += [{"queue": "cut\0off"}, *({"args": json} for json in no_text), *({"meta": json} for json in no_text)]
    for bad in bad_rows:
        task = new(**bad)
        with pytest.raises(StoreError):
            way(store, [task])
        assert store.get(task.id) is None
    assert not way(store, [new()])[0].existing


@pytest.mark.parametrize("count", [FEW, MANY])
def test_many_that_are_sent_again_are_stored_once_whether_they_have_ended_or_not(store: Store, count: int) -> None:
    tasks = [new() for _ in range(count)]
    assert store.enqueue(tasks) == [Enqueued(id=task.id) for task in tasks]
    again = [Enqueued(id=task.id, existing=True) for task in tasks]
    assert store.enqueue(tasks) == again
    finish(store, *(ended(claim) for claim in take(store, limit=count // 2)))
    assert store.enqueue(tasks) == again
    finish(store, *(ended(claim) for claim in take(store, limit=count)))
    assert store.enqueue(tasks) == again
    assert store.counts().enqueued == {TYPE: count}
    assert store.lanes() == []


@pytest.mark.parametrize("count", [FEW, MANY])
def test_many_whose_ids_stand_between_those_of_ended_tasks_are_new(store: Store, count: int) -> None:
    first, *tasks, last = [new() for _ in range(count + 2)]
    for task in (first, last):
        store.enqueue([task])
    finish(store, *(ended(claim) for claim in take(store)))
    mixed = [tasks[0], *tasks[1::2], *tasks[2::2]]
    assert store.enqueue(mixed) == [Enqueued(id=task.id) for task in mixed]
    assert [it.existing for it in store.enqueue([first, *tasks])] == [True] * (count + 1)


def test_many_with_one_of_them_twice(store: Store) -> None:
    tasks = [new() for _ in range(MANY)]
    assert [it.existing for it in store.enqueue([*tasks, tasks[7]])] == [False] * MANY + [True]
