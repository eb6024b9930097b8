"""What enqueueing returns: a way to the task's status and result."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import msgspec

from shiftboss import loop
from shiftboss.catalog import registry
from shiftboss.errors import ResultExpired, TaskFailed, TaskNotFinished, TaskNotFound, TaskNotKept
from shiftboss.model import ENDED_STATES, TaskState, TaskView

if TYPE_CHECKING:
    from shiftboss.client import Client
    from shiftboss.handler import Task

R_co = TypeVar("R_co", covariant=True)

_FIRST_POLL_S: Final = 0.002
_LAST_POLL_S: Final = 0.25


class Handle(Generic[R_co]):
    """A task in the database. Two handles with one id are equal; keep the id to make a new one: `client.handle(id)`.

    Attributes:
        id: the task's id.
        existing: `True` when an unfinished task had the same unique key: this is that one, and nothing new was stored.
    """

    __slots__ = ("_client", "_joined", "_task", "existing", "id")

    def __init__(
        self,
        client: Client,
        task_id: str,
        task: Task[..., R_co] | None = None,
        *,
        existing: bool = False,
        joined: bool = False,
    ) -> None:
        self._client = client
        self.id = task_id
        self._task = task
        self.existing = existing
        self._joined = joined  # stored in a transaction of the caller, which may not have ended

    def __repr__(self) -> str:
        return f"<Handle {self.id}{' existing' if self.existing else ''}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def view(self) -> TaskView:
        """All that the database says about the task.

        Raises:
            TaskNotFound: never committed, or pruned.
            TaskNotKept: completed in a worker that keeps no history.
        """
        view = self._client.get(self.id)
        if view is None:
            if self._client.has_trace(self.id):
                raise TaskNotKept(not_kept(self.id))
            raise TaskNotFound(
                f"no task has the id {self.id}: the transaction that enqueued it has not been committed, or the task was "
                "pruned, or has completed in a worker that keeps no history (completed_retention = 0s)"
            )
        return view

    async def aview(self) -> TaskView:
        """`view` for a running event loop."""
        return await loop.to_thread(self.view)

    def status(self) -> TaskState:
        """Where the task stands now. Raises `TaskNotFound`, `TaskNotKept`."""
        return self.view().status

    async def astatus(self) -> TaskState:
        """`status` for a running event loop."""
        return (await self.aview()).status

    def cancel(self) -> bool:
        """See `Client.cancel`."""
        return self._client.cancel(self.id)

    async def acancel(self) -> bool:
        """`cancel` for a running event loop."""
        return await self._client.acancel(self.id)

    def result(self, timeout: float | None = None) -> R_co:
        """What the handler returned, decoded by its return annotation; waits until the task has ended.

        Args:
            timeout: seconds to wait; 0 does not wait, `None` waits for ever.

        Raises:
            TaskNotFinished: it has not ended within `timeout`.
            TaskFailed: it ended as dead letter or cancelled; carries the traceback of its last attempt.
            TaskNotFound: never committed, or pruned.
            TaskNotKept: it has completed in a worker that keeps no history, and so no result.
            ResultExpired: the result is older than the result retention.
            BlockingCall: in a running event loop; use `aresult`.
        """
        self._client.refuse_in_event_loop("result", "aresult", always=True)
        clock = self._client.clock
        deadline_s = None if timeout is None else clock.monotonic_s() + timeout
        pause_s = _FIRST_POLL_S
        while (view := self._ended_view()) is None:
            pause_s = self._pause_s(pause_s, deadline_s, timeout)
            threading.Event().wait(pause_s)
        return self._result_of(view)

    async def aresult(self, timeout: float | None = None) -> R_co:
        """`result` for a running event loop."""
        clock = self._client.clock
        deadline_s = None if timeout is None else clock.monotonic_s() + timeout
        pause_s = _FIRST_POLL_S
        while (view := await loop.to_thread(self._ended_view)) is None:
            pause_s = self._pause_s(pause_s, deadline_s, timeout)
            await loop.sleep(pause_s)
        return await loop.to_thread(self._result_of, view)

    def _ended_view(self) -> TaskView | None:
        try:
            view = self.view()
        except TaskNotKept:
            raise
        except TaskNotFound:
            if self._joined:
                return None  # the caller's transaction may commit yet
            raise
        return view if view.status in ENDED_STATES else None

    def _pause_s(self, last_s: float, deadline_s: float | None, timeout: float | None) -> float:
        """Seconds until the next look: twice the last, but not past the deadline."""
        pause_s = min(_LAST_POLL_S, last_s * 2)
        if deadline_s is None:
            return pause_s
        left_s = deadline_s - self._client.clock.monotonic_s()
        if left_s <= 0:
            raise TaskNotFinished(f"task {self.id} has not ended within {timeout:g} s; it may still: ask again")
        return min(pause_s, left_s)

    def _result_of(self, view: TaskView) -> R_co:
        if view.status is not TaskState.COMPLETED:
            attempts = self._client.attempts(self.id)
            raise TaskFailed(self.id, view.status.value, view.last_error, attempts[-1].traceback if attempts else None)
        task = self._task if self._task is not None and self._task.type == view.type else registry.find(view.type)
        if view.result is None:
            return self._nothing(view, task)
        if task is None:
            return cast(R_co, msgspec.json.decode(view.result))
        return cast(R_co, task.codecs()[1].decode(view.result))

    def _nothing(self, view: TaskView, task: Task[..., Any] | None) -> R_co:
        if task is not None and not task.codecs()[1].allows_none():
            raise ResultExpired(f"task {self.id} completed at {view.finished_at}, but its result is past its retention and gone")
        return cast(R_co, None)


def not_kept(task_id: str) -> str:
    """What there is to say of a task of which nothing but a trace is left."""
    return (
        f"task {task_id} has completed, and the worker that ran it keeps no history of completed tasks: neither its status nor "
        "its result can be read. Where they are wanted, set completed_retention to more than 0s"
    )
