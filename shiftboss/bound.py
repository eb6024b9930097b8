"""A task with options, and one with its arguments: the typed ways to enqueue."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar

import msgspec

from shiftboss.errors import OptionError
from shiftboss.model import NewTask
from shiftboss.options import Options

if TYPE_CHECKING:
    from shiftboss.handle import Handle
    from shiftboss.handler import Task

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Prepared(msgspec.Struct, Generic[R_co], frozen=True):
    """A task with its arguments, checked and ready for `enqueue_many`. Enqueue it once: it has its id already."""

    new: NewTask
    task: Task[..., R_co]


class BoundTask(Generic[P, R]):
    """A task with options: what `using()` returns. Immutable, so it can be kept and shared."""

    def __init__(self, task: Task[..., R], options: Options) -> None:
        self.task: Final = task
        self.options: Final = options

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Store one task with these arguments in the default client's database; see `Client.enqueue`."""
        from shiftboss.default import default_client

        return default_client().enqueue(self, *args, **kwargs)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """`enqueue` for a running event loop."""
        from shiftboss.default import default_client

        return await default_client().aenqueue(self, *args, **kwargs)

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared[R]:
        """Check the arguments, store nothing: for `enqueue_many`.

        Raises:
            ArgumentsError: they do not fit the handler.
            OptionError: a transaction is bound; give it to `enqueue_many(tx=…)`.
        """
        if self.options.tx is not None:
            raise OptionError("prepare() stores nothing, so using(tx=…) has no effect on it; give tx to enqueue_many")
        return Prepared(self.new_task(args, kwargs, sys.maxsize), self.task)

    def using(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        delay: float | timedelta | None = None,
        run_at: datetime | None = None,
        unique: str | None = None,
        max_attempts: int | None = None,
        timeout: float | timedelta | None = None,
        tags: Iterable[str] | None = None,
        meta: Mapping[str, object] | None = None,
        tx: object | None = None,
    ) -> BoundTask[P, R]:
        """A copy that enqueues with these options; `None` leaves an option as it is.

        Args:
            priority: -100 to 100, larger first.
            delay: seconds or timedelta from the database's now; or `run_at`, a datetime with a time zone.
            unique: while an unfinished task has this key, enqueueing returns that one (`handle.existing`).
            timeout: seconds or timedelta for one attempt.
            tags: short labels to find tasks by. `meta`: plain JSON that rides along, for tools rather than the handler.
            tx: an open psycopg, sqlite3 or SQLAlchemy connection or session; the task becomes visible when *it* commits.

        Raises:
            OptionError: a value is impossible; names the option.
        """
        options = self.options.using(
            queue=queue, priority=priority, delay=delay, run_at=run_at, unique=unique, max_attempts=max_attempts,
            timeout=timeout, tags=tags, meta=meta, tx=tx,
        )  # fmt: skip
        return BoundTask(self.task, options)

    def new_task(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], max_args_bytes: int) -> NewTask:
        """The row to be stored. Raises `ArgumentsError` when the arguments do not fit."""
        return self.options.new_task(self.task.type, self.task.codecs()[0].encode(args, kwargs, max_args_bytes))
