"""The way into the queue from an application: enqueue, look, cancel, retry."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, ParamSpec, Self, TypeVar, overload
from uuid import UUID

from shiftboss import batches, loop, transaction
from shiftboss.bound import BoundTask, Prepared
from shiftboss.catalog import registry
from shiftboss.clock import Clock, SystemClock
from shiftboss.codec import DEFAULT_MAX_ARGS_BYTES, encode_untyped
from shiftboss.errors import BlockingCall
from shiftboss.handle import Handle
from shiftboss.model import AttemptView, Enqueued, NewTask, TaskView
from shiftboss.options import Options, checked_name
from shiftboss.pool import StorePool
from shiftboss.store.base import Store, TaskFilter
from shiftboss.store.open import open_store

__all__ = ["Client", "Handle"]

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_DATABASE_URL: Final = "sqlite:///shiftboss.db"


class Client:
    """A database with tasks. Thread-safe, opens nothing before its first use, and may be carried over a fork."""

    def __init__(
        self,
        database_url: str | None = None,
        *,
        max_args_bytes: int = DEFAULT_MAX_ARGS_BYTES,
        max_connections: int = 10,
        clock: Clock | None = None,
    ) -> None:
        """Remember where the database is.

        Args:
            database_url: `sqlite:///file.db` or `postgresql://…`; `None`: the variable `DATABASE_URL`, else a file here.
            max_args_bytes: larger arguments (as JSON) are refused.
            max_connections: at most so many at a time; threads beyond that wait.
            clock: for tests; replaces the database's clock too.
        """
        self.database_url = database_url or os.environ.get("DATABASE_URL") or DEFAULT_DATABASE_URL
        self.max_args_bytes = max_args_bytes
        self.clock: Clock = SystemClock()  # for waits; a test's clock does not run by itself
        self._store_clock = clock
        self._kind = transaction.kind_of(self.database_url)
        self._pool = StorePool(self._open, max_connections)
        self._schema_known = False

    def __repr__(self) -> str:
        return f"<Client of {self._kind}>"  # a URL may hold a password

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used again."""
        self._pool.close()

    # ---- enqueue

    @overload
    def enqueue(self, task: BoundTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    @overload
    def enqueue(self, task: str, /, **kwargs: Any) -> Handle[Any]: ...
    def enqueue(self, task: BoundTask[..., Any] | str, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Store one task, by its function (or what `using()` made of it) or by its type's name with named arguments.

        Raises:
            ArgumentsError: the arguments do not fit the handler, or cannot be stored.
            TransactionError: `tx` cannot be joined.
            StoreUnavailable: the database cannot be reached; the task may have been stored.
            BlockingCall: PostgreSQL in a running event loop; use `aenqueue`.
        """
        if isinstance(task, str):
            return self.enqueue_by_name(task, kwargs)
        tx = task.options.tx
        if tx is None:
            self.refuse_in_event_loop("enqueue", "aenqueue")
        new = task.new_task(args, kwargs, self.max_args_bytes)
        return self._handle(self._store_tasks([new], tx, fresh=True)[0], task, tx)

    @overload
    async def aenqueue(self, task: BoundTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    @overload
    async def aenqueue(self, task: str, /, **kwargs: Any) -> Handle[Any]: ...
    async def aenqueue(self, task: BoundTask[..., Any] | str, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """`enqueue` for a running event loop; a bound transaction must be an async one."""
        if isinstance(task, str):
            return await self.aenqueue_by_name(task, kwargs)
        new = task.new_task(args, kwargs, self.max_args_bytes)
        return self._handle((await self._astore_tasks([new], task.options.tx, fresh=True))[0], task, task.options.tx)

    def enqueue_by_name(self, type_name: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> Handle[Any]:
        """Store a task of a type whose handler this process need not have imported.

        Args:
            arguments: by parameter name; checked against the handler where it is known, else plain JSON.
            options: as for `using()`.

        Raises:
            ArgumentsError, OptionError, and what `enqueue` raises.
        """
        if (tx := options.get("tx")) is None:
            self.refuse_in_event_loop("enqueue_by_name", "aenqueue_by_name")
        new = self._new_by_name(type_name, arguments or {}, options)
        return self._handle(self._store_tasks([new], tx, fresh=True)[0], registry.find(type_name), tx)

    async def aenqueue_by_name(
        self,
        type_name: str,
        arguments: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Handle[Any]:
        """`enqueue_by_name` for a running event loop."""
        new = self._new_by_name(type_name, arguments or {}, options)
        tx = options.get("tx")
        return self._handle((await self._astore_tasks([new], tx, fresh=True))[0], registry.find(type_name), tx)

    def enqueue_many(self, prepared: Iterable[Prepared[R]], *, tx: object | None = None) -> list[Handle[R]]:
        """Store many prepared tasks (`send.prepare(42)`), in their order, thousands in one statement.

        Up to 5,000 tasks and 8 MiB of arguments are one statement and one transaction: all or nothing. More are stored
        batch by batch; when one fails, those before it stay. On PostgreSQL one is stored by a thread while `prepared` makes the
        next. With `tx` all are part of the caller's transaction.

        Raises:
            What `enqueue` raises.
        """
        if tx is None:
            self.refuse_in_event_loop("enqueue_many", "aenqueue_many")

        def store(batch: list[Prepared[R]]) -> list[Enqueued]:
            return self._store_tasks([one.new for one in batch], tx)

        found = batches.cut(prepared, self.max_args_bytes)
        alone = tx is not None or self._kind == "sqlite"  # the caller's connection is his thread's; SQLite works in this one
        done = ((batch, store(batch)) for batch, _ in found) if alone else batches.stored_behind(found, store)
        handles: list[Handle[R]] = []
        for batch, stored in done:
            handles += [self._handle(answer, one.task, tx) for answer, one in zip(stored, batch, strict=True)]
        return handles

    async def aenqueue_many(self, prepared: Iterable[Prepared[R]], *, tx: object | None = None) -> list[Handle[R]]:
        """`enqueue_many` for a running event loop."""
        handles: list[Handle[R]] = []
        for batch, _last in batches.cut(prepared, self.max_args_bytes):
            stored = await self._astore_tasks([one.new for one in batch], tx)
            handles += [self._handle(done, one.task, tx) for done, one in zip(stored, batch, strict=True)]
        return handles

    # ---- look and change

    def handle(self, task_id: str) -> Handle[Any]:
        """A handle of a task whose id you kept; asks nothing."""
        return Handle(self, _canonical(task_id) or task_id)

    def get(self, task_id: str) -> TaskView | None:
        """The task as the database has it, alive or ended; `None` when there is none."""
        self.refuse_in_event_loop("get", "aget")
        known = _canonical(task_id)
        if known is None:
            return None
        with self._pool.use() as store:
            return store.get(known)

    async def aget(self, task_id: str) -> TaskView | None:
        """`get` for a running event loop."""
        return await loop.to_thread(self.get, task_id)

    def has_trace(self, task_id: str) -> bool:
        """Whether the task completed in a worker that keeps no history, and that was less than about an hour ago."""
        self.refuse_in_event_loop("has_trace", "asyncio.to_thread(client.has_trace, task_id)")
        known = _canonical(task_id)
        if known is None:
            return False
        with self._pool.use() as store:
            return store.has_trace(known)

    def attempts(self, task_id: str) -> list[AttemptView]:
        """The unsuccessful attempts of a task, oldest first."""
        self.refuse_in_event_loop("attempts", "asyncio.to_thread(client.attempts, task_id)")
        known = _canonical(task_id)
        if known is None:
            return []
        with self._pool.use() as store:
            return store.attempts(known)

    def cancel(self, task_id: str) -> bool:
        """Cancel a pending task at once; ask a running one to stop. `False`: it had ended, or there is none."""
        self.refuse_in_event_loop("cancel", "acancel")
        if (known := _canonical(task_id)) is None:
            return False
        with self._pool.use() as store:
            done = store.cancel(TaskFilter(ids=[known]))
        return done.cancelled + done.requested > 0

    async def acancel(self, task_id: str) -> bool:
        """`cancel` for a running event loop."""
        return await loop.to_thread(self.cancel, task_id)

    def retry(self, task_id: str) -> bool:
        """Make a dead letter or cancelled task pending again with all its attempts. `False`: it was neither."""
        self.refuse_in_event_loop("retry", "aretry")
        if (known := _canonical(task_id)) is None:
            return False
        with self._pool.use() as store:
            return store.retry(TaskFilter(ids=[known])) > 0

    async def aretry(self, task_id: str) -> bool:
        """`retry` for a running event loop."""
        return await loop.to_thread(self.retry, task_id)

    # ---- inside

    def refuse_in_event_loop(self, name: str, twin: str, *, always: bool = False) -> None:
        """Raise `BlockingCall` where a sync call would stop an event loop for as long as the network takes.

        SQLite's own calls take about a millisecond and are let through unless `always`.
        """
        if self._kind == "sqlite" and not always:
            return
        if not loop.runs_here():
            return
        raise BlockingCall(f"{name}() waits and would stop this event loop; await {twin}() instead")

    def _open(self) -> Store:
        store = open_store(self.database_url, clock=self._store_clock, application_name="shiftboss client")
        try:
            if not self._schema_known:
                # A file belongs to whoever uses it first; a server's schema is its operator's.
                if self._kind == "sqlite":
                    store.migrate()
                else:
                    store.check_schema()
                self._schema_known = True
        except BaseException:
            store.close()
            raise
        return store

    def _store_tasks(self, tasks: Sequence[NewTask], tx: object | None, *, fresh: bool = False) -> list[Enqueued]:
        """`fresh`: made for this call, see `Store.enqueue`. What was prepared may have been sent before, by whoever."""
        if tx is not None:
            return transaction.enqueue_in(tx, self.database_url, tasks, self._now(), fresh=fresh)
        stores, store = self._pool.borrow()  # as `use` does, without what a context costs every enqueue
        try:
            return store.enqueue(tasks, fresh=fresh)
        finally:
            self._pool.give_back(stores, store)

    async def _astore_tasks(self, tasks: Sequence[NewTask], tx: object | None, *, fresh: bool = False) -> list[Enqueued]:
        if tx is not None:
            return await transaction.aenqueue_in(tx, self.database_url, tasks, self._now(), fresh=fresh)
        return await loop.to_thread(self._store_tasks, tasks, None, fresh=fresh)

    def _now(self) -> datetime | None:
        return None if self._store_clock is None else self._store_clock.now()

    def _handle(self, enqueued: Enqueued, task: Any, tx: object | None) -> Handle[Any]:
        found = task.task if isinstance(task, BoundTask) else None
        return Handle(self, enqueued.id, found, existing=enqueued.existing, joined=tx is not None)

    def _new_by_name(self, type_name: str, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> NewTask:
        task = registry.find(type_name)
        if task is not None:
            return task.using(**options).new_task((), arguments, self.max_args_bytes)
        args = encode_untyped(type_name, arguments, self.max_args_bytes)
        return Options().using(**options).new_task(checked_name("type", type_name), args)


def _canonical(text: str) -> str | None:
    try:
        return str(UUID(text))
    except (ValueError, AttributeError, TypeError):
        return None
