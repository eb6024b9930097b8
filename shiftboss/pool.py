"""A few open stores, one for each thread that needs one now."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
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
        self.lock = threading.Lock()
        self.free = threading.BoundedSemaphore(limit)
        self.idle: list[Store] = []
        self.closed = False


class StorePool:
    """Opens stores when they are needed, at most `limit`, and reuses the one that was used last. Thread-safe; survives fork."""

    def __init__(self, open_one: Callable[[], Store], limit: int) -> None:
        self._open_one = open_one
        self._limit = limit
        self._stores = _Stores(limit)

    @contextlib.contextmanager
    def use(self) -> Iterator[Store]:
        """A store that no one else uses inside the block.

        Raises:
            StoreUnavailable: all were in use for 30 seconds, or the database cannot be reached.
        """
        stores = self._of_this_process()
        if not stores.free.acquire(timeout=_WAIT_S):
            raise StoreUnavailable(
                f"all {self._limit} connections of this client were in use for {_WAIT_S:g} s; raise max_connections or look for "
                "what holds them"
            )
        try:
            store = self._take(stores)
            try:
                yield store
            finally:
                self._give_back(stores, store)
        finally:
            stores.free.release()

    def close(self) -> None:
        """Close what is idle now, and the others when they come back."""
        stores = self._of_this_process()
        with stores.lock:
            stores.closed = True
            idle, stores.idle = stores.idle, []
        for store in idle:
            store.close()

    def _of_this_process(self) -> _Stores:
        stores = self._stores
        if stores.pid != os.getpid():
            # No lock: another thread may have held it when the process was forked.
            _inherited.extend(stores.idle)
            self._stores = stores = _Stores(self._limit)
        return stores

    def _take(self, stores: _Stores) -> Store:
        with stores.lock:
            if stores.closed:
                raise ShiftbossError("this client is closed; make a new one")
            if stores.idle:
                return stores.idle.pop()
        return self._open_one()

    def _give_back(self, stores: _Stores, store: Store) -> None:
        with stores.lock:
            if not stores.closed and stores.pid == os.getpid():
                stores.idle.append(store)
                return
        if stores.pid == os.getpid():
            store.close()
        else:
            _inherited.append(store)
