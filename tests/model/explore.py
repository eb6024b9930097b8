"""Breadth-first search over every interleaving of a small model: what it never does, and what it can always still do."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Model(Protocol[S]):
    """A transition system. A step is (label, next state, the property that it breaks or `None`)."""

    def initial(self) -> S: ...

    def steps(self, state: S) -> Iterator[tuple[str, S, str | None]]: ...

    def is_end(self, state: S) -> bool:
        """Whether liveness asks for nothing more."""
        ...

    def is_help(self, label: str) -> bool:
        """Whether a step cannot be counted on: an operator, say."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to: `broken` is the property that does not hold, with the shortest way there."""

    states: int
    steps: int
    broken: str | None = None
    trace: tuple[str, ...] = ()


class Search(Generic[S]):
    """One search; states are numbered as they are met, so the first bad one is the nearest."""

    def __init__(self, model: Model[S]) -> None:
        self._model = model
        self._number: dict[S, int] = {model.initial(): 0}
        self._came_from: list[tuple[int, str]] = [(-1, "")]
        self._before: list[list[int]] = [[]]  # by steps that liveness may count on
        self._steps = 0

    def run(self) -> Found:
        """Look at every state; safety on the way, liveness at the end."""
        waiting = deque([self._model.initial()])
        while waiting:
            state = waiting.popleft()
            here = self._number[state]
            for label, following, broken in self._model.steps(state):
                self._steps += 1
                if broken is not None:
                    return self._found(broken, (*self._trace(here), label))
                there = self._number.get(following)
                if there is None:
                    there = self._meet(following, here, label)
                    waiting.append(following)
                if not self._model.is_help(label):
                    self._before[there].append(here)
        return self._liveness()

    def _meet(self, state: S, here: int, label: str) -> int:
        number = self._number[state] = len(self._number)
        self._came_from.append((here, label))
        self._before.append([])
        return number

    def _liveness(self) -> Found:
        able = {number for state, number in self._number.items() if self._model.is_end(state)}
        waiting = deque(able)
        while waiting:
            for before in self._before[waiting.popleft()]:
                if before not in able:
                    able.add(before)
                    waiting.append(before)
        traps = len(self._number) - len(able)
        if not traps:
            return self._found(None, ())
        first = next(number for number in range(len(self._number)) if number not in able)
        return self._found(f"L1 it can always end: not from {traps} states", self._trace(first))

    def _trace(self, number: int) -> tuple[str, ...]:
        labels = []
        while number > 0:
            number, label = self._came_from[number]
            labels.append(label)
        return tuple(reversed(labels))

    def _found(self, broken: str | None, trace: tuple[str, ...]) -> Found:
        return Found(len(self._number), self._steps, broken, trace)


def explore(model: Model[S]) -> Found:
    """Search `model` to its end, or to the first property that does not hold."""
    return Search(model).run()
