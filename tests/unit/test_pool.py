"""The stores of a client: each is used by one thread at a time, and closed once."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from shiftboss.errors import ShiftbossError
from shiftboss.pool import StorePool
from shiftboss.store.base import Store


class FakeStore:
    """Notes how often it was closed, and whether it was used after that."""

    def __init__(self) -> None:
        self.users = 0
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Stores:
    """Opens fakes and keeps them."""

    def __init__(self) -> None:
        self.opened: list[FakeStore] = []

    def open(self) -> Store:
        self.opened.append(FakeStore())
        return cast(Store, self.opened[-1])


def test_the_store_that_was_used_last_is_used_again() -> None:
    stores = Stores()
    pool = StorePool(stores.open, 3)
    one, other = pool.borrow(), pool.borrow()
    pool.give_back(*one)
    pool.give_back(*other)
    assert pool.borrow()[1] is other[1]
    assert len(stores.opened) == 2


def test_what_is_in_use_when_the_pool_closes_is_closed_when_it_comes_back() -> None:
    stores = Stores()
    pool = StorePool(stores.open, 2)
    lent, idle = pool.borrow(), pool.borrow()
    pool.give_back(*idle)
    pool.close()
    assert [store.closed for store in stores.opened] == [0, 1]
    pool.give_back(*lent)
    assert [store.closed for store in stores.opened] == [1, 1]
    for _ in range(3):  # more often than there are permits
        with pytest.raises(ShiftbossError, match="closed"):
            pool.borrow()
    pool.close()
    assert [store.closed for store in stores.opened] == [1, 1]


def test_a_store_that_cannot_be_opened_takes_nobodys_place() -> None:
    stores, broken = Stores(), True

    def open_one() -> Store:
        if broken:
            raise OSError("no such disk")
        return stores.open()

    pool = StorePool(open_one, 1)
    for _ in range(3):
        with pytest.raises(OSError, match="no such disk"), pool.use():
            pass
    broken = False
    with pool.use() as store:
        assert store is stores.opened[0]


def test_threads_never_share_a_store_and_a_close_among_them_closes_each_once() -> None:
    stores = Stores()
    used, by_two, refused = list[None](), list[None](), list[None]()  # appended to: a counter loses what two threads add at once
    pool = StorePool(stores.open, 4)
    started = threading.Barrier(9)
    too_late = threading.Event()

    def work() -> None:
        started.wait(10.0)
        try:
            while not too_late.is_set():  # the close ends it, however late that comes
                with pool.use() as store:
                    fake = cast(Any, store)
                    fake.users += 1
                    used.append(None)
                    if fake.users != 1:
                        by_two.append(None)
                    fake.users -= 1
        except ShiftbossError:
            refused.append(None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait(10.0)
    while len(used) < 2_000:
        threading.Event().wait(0.001)
    pool.close()
    for thread in threads:
        thread.join(10.0)
    too_late.set()
    for thread in threads:
        thread.join(10.0)
    assert len(refused) == 8
    assert not by_two
    assert 1 <= len(stores.opened) <= 4
    assert [store.closed for store in stores.opened] == [1] * len(stores.opened)
