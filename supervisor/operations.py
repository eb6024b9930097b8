"""What operators and children ask for that takes a while: one after another, each told of its end to all who asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from shiftboss.commands import ServiceStatus


class Asker(Protocol):
    """Whoever waits for the end of an operation."""

    def progress(self, text: str) -> None:
        """How far it is."""

    def done(self, ok: bool, text: str, *, code: int | None = None, data: ServiceStatus | None = None) -> None:
        """It has ended."""


class Nobody:
    """A signal: nobody waits, the log tells."""

    def progress(self, text: str) -> None:
        pass

    def done(self, ok: bool, text: str, *, code: int | None = None, data: ServiceStatus | None = None) -> None:
        pass


class Operation(msgspec.Struct, eq=False):
    """One of them. `run` leads, now or later, to exactly one call of `Operations.finish`.

    Attributes:
        key: of two that wait with the same one, the first answers both; empty: never.
    """

    run: Callable[[], None]
    key: str = ""
    askers: list[Asker] = msgspec.field(default_factory=list)


class Operations:
    """A queue of them.

    Args:
        may_run: nothing is begun before this says so; call `proceed` when it has changed.
    """

    def __init__(self, may_run: Callable[[], bool]) -> None:
        self._may_run = may_run
        self._waiting: deque[Operation] = deque()
        self._current: Operation | None = None

    def ask(self, operation: Operation) -> None:
        """Begin it as soon as all before it have ended."""
        for waiting in self._waiting:
            if operation.key and waiting.key == operation.key:
                waiting.askers.extend(operation.askers)
                return
        self._waiting.append(operation)
        self.proceed()

    def proceed(self) -> None:
        """Begin the next one if nothing hinders."""
        if self._current is None and self._waiting and self._may_run():
            self._current = self._waiting.popleft()
            self._current.run()

    def progress(self, text: str) -> None:
        """Tell those who wait for the present one how far it is."""
        for asker in self._current.askers if self._current is not None else ():
            asker.progress(text)

    def finish(self, ok: bool, text: str, *, code: int | None = None) -> None:
        """The present one has ended."""
        ended, self._current = self._current, None
        for asker in ended.askers if ended is not None else ():
            asker.done(ok, text, code=code)
        self.proceed()

    def release(self) -> list[Asker]:
        """The present one ends, and those who asked wait for something else: they are the caller's, as is `proceed`."""
        ended, self._current = self._current, None
        return ended.askers if ended is not None else []

    def abort(self, why: str) -> None:
        """None of them will come to an end."""
        aborted = [*([self._current] if self._current is not None else []), *self._waiting]
        self._current = None
        self._waiting.clear()
        for operation in aborted:
            for asker in operation.askers:
                asker.done(False, why)
