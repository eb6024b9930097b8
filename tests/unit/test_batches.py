"""Many tasks go in batches; where a server does the work, one is stored while the next one is prepared."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shiftboss import ArgumentsError, StoreUnavailable, task
from shiftboss.batches import cut, stored_behind
from shiftboss.bound import Prepared
from shiftboss.model import Enqueued

Batch = list[Prepared[Any]]


@task
def note(number: int) -> None: ...


@pytest.fixture(autouse=True)
def three_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shiftboss.batches.MAX_BATCH_ROWS", 3)


class Server:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.threads: set[int] = set()
        self.busy = threading.Lock()

    def store(self, batch: Batch) -> list[Enqueued]:
        assert self.busy.acquire(blocking=False), "one batch at a time"
        self.threads.add(threading.get_ident())
        self.stored += [one.new.id for one in batch]
        self.busy.release()
        return [Enqueued(id=one.new.id) for one in batch]


def prepared(count: int) -> Batch:
    return [note.prepare(number) for number in range(count)]


def ids(tasks: Batch) -> list[str]:
    return [one.new.id for one in tasks]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (2, [2]), (3, [3]), (4, [3, 1]), (9, [3, 3, 3])])
def test_all_are_cut_in_their_order_and_the_last_batch_is_known(count: int, sizes: list[int]) -> None:
    tasks = prepared(count)
    found = list(cut(tasks, 1_000))
    assert [len(batch) for batch, _ in found] == sizes
    assert [one for batch, _ in found for one in batch] == tasks
    assert [last for _, last in found] == [number == len(sizes) for number in range(1, len(sizes) + 1)]


def test_a_batch_ends_before_its_arguments_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = prepared(3)
    monkeypatch.setattr("shiftboss.batches.MAX_BATCH_BYTES", 2 * len(memoryview(tasks[0].new.args)))
    assert [len(batch) for batch, _ in cut(tasks, 1_000)] == [2, 1]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 10])
def test_all_are_stored_and_answered_in_their_order(count: int) -> None:
    server, tasks = Server(), prepared(count)
    answers = list(stored_behind(cut(tasks, 1_000), server.store))
    assert [one for batch, _ in answers for one in batch] == tasks
    assert [it.id for _, stored in answers for it in stored] == server.stored == ids(tasks)
    assert (server.threads <= {threading.get_ident()}) == (count <= 3), "a single batch needs no thread"


def test_the_next_batch_is_prepared_while_one_is_stored() -> None:
    server, preparing = Server(), threading.Event()

    def store(batch: Batch) -> list[Enqueued]:
        if not server.stored:
            assert preparing.wait(30), "nobody prepares anything meanwhile"
        return server.store(batch)

    def make() -> Iterator[Prepared[Any]]:
        for number, one in enumerate(prepared(8)):
            if number == 4:  # the first of the next batch is what ends the first one
                preparing.set()
            yield one

    assert sum(len(batch) for batch, _ in stored_behind(cut(make(), 1_000), store)) == 8


def test_what_came_before_a_batch_that_fails_stays_and_nothing_after_it_is_stored() -> None:
    server, tasks = Server(), prepared(12)

    def store(batch: Batch) -> list[Enqueued]:
        if batch[0] is tasks[3]:
            raise StoreUnavailable("gone")
        return server.store(batch)

    with pytest.raises(StoreUnavailable, match="gone"):
        list(stored_behind(cut(tasks, 1_000), store))
    assert server.stored == ids(tasks[:3])


def test_the_batch_under_way_is_stored_when_preparing_fails() -> None:
    server, tasks = Server(), prepared(5)
    began, may_go_on = threading.Event(), threading.Event()

    def store(batch: Batch) -> list[Enqueued]:
        began.set()
        assert may_go_on.wait(30)
        return server.store(batch)

    def make() -> Iterator[Prepared[Any]]:
        yield from tasks
        assert began.wait(30)
        threading.Timer(0.05, may_go_on.set).start()
        yield note.prepare(10**900)

    with pytest.raises(ArgumentsError):
        list(stored_behind(cut(make(), 1_000), store))
    assert server.stored == ids(tasks[:3])


def test_without_a_thread_it_goes_on_in_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    server, tasks = Server(), prepared(10)
    assert len(list(stored_behind(cut(tasks, 1_000), server.store))) == 4
    assert server.stored == ids(tasks)
    assert server.threads == {threading.get_ident()}
