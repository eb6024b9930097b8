"""Which handler belongs to which type, in this process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from shiftboss.errors import TaskDefinitionError, UnknownTaskType
from shiftboss.model import TypeInfo

if TYPE_CHECKING:
    from shiftboss.decorator import Task


class Registry:
    """Type name -> task. Thread-safe."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}
        self._lock = threading.Lock()

    def register(self, task: Task[..., Any]) -> None:
        """Add a task; the same function again (its module was reloaded) replaces the former.

        Raises:
            TaskDefinitionError: another function has the type.
        """
        with self._lock:
            former = self._tasks.get(task.type)
            if former is not None and former.function_name != task.function_name:
                raise TaskDefinitionError(
                    f"type {task.type!r} of {task.function_name} ({task.place}) is taken by {former.function_name} "
                    f"({former.place}); give one of them another name: @task(type=…)"
                )
            self._tasks[task.type] = task

    def get(self, type_name: str) -> Task[..., Any]:
        """The task of a type.

        Raises:
            UnknownTaskType: no handler for it was imported in this process.
        """
        task = self._tasks.get(type_name)
        if task is None:
            import difflib  # only for a mistake: every executor and every application imports this module

            near = difflib.get_close_matches(type_name, self._tasks, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownTaskType(
                f"no handler for type {type_name!r}: import the module that defines it (setting imports).{hint}"
            )
        return task

    def find(self, type_name: str) -> Task[..., Any] | None:
        """The task of a type, or `None`."""
        return self._tasks.get(type_name)

    def tasks(self) -> list[Task[..., Any]]:
        """All of them, by type name."""
        return [task for _, task in sorted(self._tasks.items())]

    def types(self) -> list[TypeInfo]:
        """What a worker has to know of each."""
        return [task.info() for task in self.tasks()]

    def check(self) -> None:
        """Resolve every annotation now, after all imports, instead of at the first use of each task.

        Raises:
            TaskDefinitionError: an annotation cannot be resolved, or has no JSON form.
        """
        for task in self.tasks():
            task.codecs()


registry = Registry()
