"""A few open stores, one for each thread that needs one now."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Final

from shiftboss.errors import ShiftbossError, StoreUnavailable
from shiftboss.store.base import Store

_WAIT_S: Final = 30.0
# Stores that a fork has copied into this process. Closing one would end the parent's session on the shared socket, and so
# would its garbage collection: they are kept, unused.
_inherited: Final[list[Store]] = []


class _Stores:
    """The stores of one process."""

    def __init__(self, limit: int) -> None:
        self.pid = os.getpid()
        # One for each store that may be in use. Written in C: a semaphore is Python, and on the way of every enqueue.
        self.permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(limit):
            self.permits.put(None)
        # Whoever takes a store out of the list owns it: `pop` and `append` are one step each, so there is no lock round them.
        self.idle: list[Store] = []
        self.closed = False

    def close_idle(self) -> None:
        """Close what nobody uses, each once, even where two threads do so at a time."""
        while True:
            try:
                store = self.idle.pop()
            except IndexError:
                return
            store.close()


class StorePool:
    """Opens stores when they are needed, at most `limit`, and reuses the one that was used last. Thread-safe; survives fork."""

    def __init__(self, open_one: Callable[[], Store], limit: int) -> None:
        self._open_one = open_one
        self._limit = limit
        self._stores = _Stores(limit)

    def use(self) -> _Use:
        """A context: a store that no one else uses inside the block.

        Raises:
            StoreUnavailable: all were in use for 30 seconds, or the database cannot be reached.
        """
        return _Use(self)

    def borrow(self) -> tuple[_Stores, Store]:
        """A store, until `give_back` is called with what this returned; see `use`."""
        stores = self._stores if self._stores.pid == os.getpid() else self._of_this_process()
        try:
            stores.permits.get(True, _WAIT_S)
        except Empty:
            raise StoreUnavailable(
                f"all {self._limit} connections of this client were in use for {_WAIT_S:g} s; raise max_connections or look for "
                "what holds them"
            ) from None
        try:
            return stores, stores.idle.pop()
        except IndexError:
            return stores, self._open(stores)

    def give_back(self, stores: _Stores, store: Store) -> None:
        """The end of what `borrow` began."""
        try:
            if stores.pid == os.getpid():
                stores.idle.append(store)
                if stores.closed:  # looked at after the append, as `close` empties the list after its mark: one of us finds it
                    stores.close_idle()
            else:
                _inherited.append(store)
        finally:
            stores.permits.put(None)

    def close(self) -> None:
        """Close what is idle now, and the others when they come back."""
        stores = self._of_this_process()
        stores.closed = True
        stores.close_idle()

    def _of_this_process(self) -> _Stores:
        stores = self._stores
        if stores.pid != os.getpid():
            _inherited.extend(stores.idle)
            self._stores = stores = _Stores(self._limit)
        return stores

    def _open(self, stores: _Stores) -> Store:
        try:
            if stores.closed:
                raise ShiftbossError("this client is closed; make a new one")
            return self._open_one()
        except BaseException:
            stores.permits.put(None)
            raise


class _Use:
    """What `StorePool.use` returns; a generator as a context costs three times as much."""

    __slots__ = ("_borrowed", "_pool")

    def __init__(self, pool: StorePool) -> None:
        self._pool = pool

    def __enter__(self) -> Store:
        self._borrowed = self._pool.borrow()
        return self._borrowed[1]

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None) -> None:
        self._pool.give_back(*self._borrowed)
