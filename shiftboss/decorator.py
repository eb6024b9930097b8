"""`@task`: a function becomes a handler under a stable type name, and stays a function.

Needs no database, no configuration and no application object; what runs it comes later and elsewhere.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from shiftboss.bound import BoundTask, Prepared
from shiftboss.catalog import Registry, registry
from shiftboss.context import Attempt, Cancel, Retry, Snooze
from shiftboss.handler import Backoff, ErrorTypes, Task
from shiftboss.model import DEFAULT_MAX_ATTEMPTS

__all__ = ["Attempt", "BoundTask", "Cancel", "Prepared", "Registry", "Retry", "Snooze", "Task", "registry", "task"]

P = ParamSpec("P")
R = TypeVar("R")


if TYPE_CHECKING:
    # What calling a task looks like to a type checker; at run time all are `Task`.
    class SyncTask(Task[P, R]):
        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    class AsyncTask(Task[P, R]):
        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...

    class SyncAttemptTask(Task[P, R]):
        def __call__(self, attempt: Attempt, /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    class AsyncAttemptTask(Task[P, R]):
        def __call__(self, attempt: Attempt, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...


class TaskDecorator(typing.Protocol):
    """What `@task(...)` with options returns."""

    @overload
    def __call__(self, handler: Callable[Concatenate[Attempt, P], Coroutine[Any, Any, R]], /) -> AsyncAttemptTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, handler: Callable[Concatenate[Attempt, P], R], /) -> SyncAttemptTask[P, R]: ...
    @overload
    def __call__(self, handler: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, handler: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, handler: Callable[..., Any], /) -> Any: ...


@overload
def task(handler: Callable[Concatenate[Attempt, P], Coroutine[Any, Any, R]], /) -> AsyncAttemptTask[P, R]: ...  # type: ignore[overload-overlap]
@overload
def task(handler: Callable[Concatenate[Attempt, P], R], /) -> SyncAttemptTask[P, R]: ...
@overload
def task(handler: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
@overload
def task(handler: Callable[P, R], /) -> SyncTask[P, R]: ...
@overload
def task(
    *,
    type: str | None = None,
    queue: str = "default",
    priority: int = 0,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    timeout: float | timedelta | None = None,
    backoff: Backoff | None = None,
    retry_on: ErrorTypes | None = None,
    no_retry_on: ErrorTypes = (),
) -> TaskDecorator: ...
def task(handler: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a handler: `@task` or `@task(queue="mail", max_attempts=5)`. It stays an ordinary function.

    Its parameters become the task's arguments and must have JSON forms by their annotations (str, int, float, bool, None,
    list, dict, dataclasses, msgspec structs, datetime, date, UUID, Decimal, Enum, bytes, and unions of them). A first
    parameter annotated `Attempt` is injected. Type checkers see a first parameter annotated `object` as one, too; say `Any`.

    Args:
        type: the stable name in the database, default `module:function`; keep it when you move the function.
        queue, priority: defaults for its tasks; priority is -100 to 100, larger first.
        max_attempts: runs in all, the first one included.
        timeout: seconds or timedelta for one attempt; none by default.
        backoff: attempt number (from 1) -> seconds or timedelta until the next; `Exponential()` with full jitter by default.
        retry_on: only these errors are tried again; all by default (a timeout is a `TimeoutError`).
        no_retry_on: never these.

    Raises:
        TaskDefinitionError: the type is taken, or an option or annotation is impossible.
    """
    if handler is None:
        return functools.partial(_define, options)
    return _define(options, handler)


def _define(options: Mapping[str, Any], handler: Callable[..., Any]) -> Task[..., Any]:
    defined: Task[..., Any] = Task(handler, **options)
    registry.register(defined)
    return defined
