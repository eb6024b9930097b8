"""The leader's term as an explicit-state model: two workers, a row, and statements that are late, repeated or never answered.

A term may run out at any moment, whether its holder is dead or only slow; a worker may go on believing that it leads for
ever, as one that is stopped in the middle does. A write of the leader looks at the term when it begins and commits later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

T1 = "T1 a term has one holder"
T2 = "T2 a running term is taken from nobody"
T3 = "T3 a write commits in the term that it was begun in"
T4 = "T4 who is told that it leads does lead"
T5 = "T5 terms rise"
T6 = "T6 a term that has run out is not run on"
L1 = "L1 it can always end"

BROKEN: Final = {
    "renew by the row alone": (T4,),
    "renew by the worker's name": (T4,),
    "renew after the term has run out": (T6,),
    "resign by the worker's name": (T2,),
    "elect ignores the running term": (T2,),
    "elect keeps the number of the term": (T1, T3, T4),
    "resign removes the row": (T1, T5),
    "writes do not look at the term": (T3,),
    "the look at the term locks nothing": (T3,),
    "a term does not run out": (L1,),
}


class Row(NamedTuple):
    """The leader's row."""

    holder: int
    term: int
    running: bool


class Statement(NamedTuple):
    """On its way to the database: elect, renew, resign or begin (a leader's write)."""

    kind: str
    worker: int
    term: int = 0


class State(NamedTuple):
    """The row, what each worker believes (its term or 0), what is under way, and whose every term was."""

    row: Row | None = None
    beliefs: tuple[int, int] = (0, 0)
    late: frozenset[Statement] = frozenset()
    writing: Statement | None = None  # begun, not committed; it holds a lock on the row unless the variant says otherwise
    highest: int = 0
    holders: tuple[int, ...] = ()  # of the terms from 1 on
    wrote: bool = False  # a write of the newest term has been committed


Step = tuple[str, State, str | None]


@dataclass(frozen=True, slots=True)
class Leadership:
    """Election and terms within bounds, or a variant with one rule broken."""

    broken: str = ""
    terms: int = 3
    on_the_way: int = 2

    def initial(self) -> State:
        return State()

    def is_end(self, state: State) -> bool:
        return state.highest >= self.terms

    def is_help(self, label: str) -> bool:
        return "resigns" in label  # who is dead does not

    def steps(self, state: State) -> Iterator[Step]:
        for label, following, told in self._moves(state):
            booked, wrong = _book(state, following)
            yield label, booked, told or wrong

    def _moves(self, s: State) -> Iterator[Step]:
        for worker in (0, 1):
            yield from self._worker(s, worker)
        for statement in s.late:
            for label, after, told, _ in self._takes(s, statement):
                yield f"late: {label}", after._replace(late=s.late - {statement}), told
        if s.row is not None and s.row.running and self.broken != "a term does not run out":
            yield "the term runs out", s._replace(row=s.row._replace(running=False)), None
        if s.writing is not None:
            yield from self._commits(s, s.writing)

    def _worker(self, s: State, worker: int) -> Iterator[Step]:
        believed = s.beliefs[worker]
        yield from self._calls(s, Statement("elect", worker))
        if believed:
            yield f"{worker} loses its belief", _believes(s, worker, 0), None
            for kind in ("renew", "resign", "begin"):
                yield from self._calls(s, Statement(kind, worker, believed))

    def _calls(self, s: State, statement: Statement) -> Iterator[Step]:
        for label, after, told, believed in self._takes(s, statement):
            yield label, after if believed is None else _believes(after, statement.worker, believed), told
            yield f"{label}, answer lost", after, None
        if statement not in s.late and len(s.late) < self.on_the_way:
            yield f"{statement.worker} leaves {statement.kind} on its way", s._replace(late=s.late | {statement}), None

    def _takes(self, s: State, it: Statement) -> Iterator[tuple[str, State, str | None, int | None]]:
        """What a statement does: a label, the state after it, the property broken, and what its sender then believes."""
        locked = s.writing is not None and self.broken != "the look at the term locks nothing"
        match it.kind:
            case "elect" if not locked:
                yield self._elect(s, it)
            case "renew" if not locked:
                renewed = self._renews(s.row, it)
                row = s.row._replace(running=True) if renewed and s.row is not None else s.row
                false = renewed and (s.row is None or s.row[:2] != (it.worker, it.term))
                revived = renewed and not false and s.row is not None and not s.row.running
                yield (
                    f"{it.worker} renews",
                    s._replace(row=row),
                    T4 if false else T6 if revived else None,
                    it.term if renewed else 0,
                )
            case "resign" if not locked:
                yield self._resign(s, it)
            case "begin" if s.writing is None and self._leads(s.row, it):
                yield f"{it.worker} begins to write in {it.term}", s._replace(writing=it), None, None

    def _elect(self, s: State, it: Statement) -> tuple[str, State, str | None, int | None]:
        row = s.row
        if row is not None and row.running and row.holder == it.worker:
            return f"{it.worker} is elected again", s, None, row.term
        taken = row is not None and row.running
        if taken and self.broken != "elect ignores the running term":
            return f"{it.worker} is not elected", s, None, 0
        term = 1 if row is None else row.term + (self.broken != "elect keeps the number of the term")
        if term > self.terms:
            return f"{it.worker} is not elected", s, None, 0
        after = s._replace(row=Row(it.worker, term, True), wrote=False)
        return f"{it.worker} is elected for {term}", after, T2 if taken else None, term

    def _renews(self, row: Row | None, it: Statement) -> bool:
        match self.broken:
            case "renew by the row alone":
                return row is not None and row.running
            case "renew by the worker's name":
                return row is not None and row.running and row.holder == it.worker
            case "renew after the term has run out":
                return row is not None and row[:2] == (it.worker, it.term)
            case _:
                return row == Row(it.worker, it.term, True)

    def _resign(self, s: State, it: Statement) -> tuple[str, State, str | None, int | None]:
        mine = s.row is not None and s.row[:2] == (it.worker, it.term)
        matches = mine or (self.broken == "resign by the worker's name" and s.row is not None and s.row.holder == it.worker)
        if not matches or s.row is None:
            return f"{it.worker} resigns in vain", s, None, 0
        row = None if self.broken == "resign removes the row" else s.row._replace(running=False)
        return f"{it.worker} resigns", s._replace(row=row), None if mine else T2, 0

    def _leads(self, row: Row | None, it: Statement) -> bool:
        return self.broken == "writes do not look at the term" or row == Row(it.worker, it.term, True)

    def _commits(self, s: State, it: Statement) -> Iterator[Step]:
        # Its term may have run out meanwhile; what must not have happened is that another one has begun.
        stale = s.row is None or s.row[:2] != (it.worker, it.term)
        yield f"{it.worker} commits", s._replace(writing=None, wrote=True), T3 if stale else None
        yield f"{it.worker} is killed while it writes", _believes(s._replace(writing=None), it.worker, 0), None


def _believes(s: State, worker: int, term: int) -> State:
    return s._replace(beliefs=(term, s.beliefs[1]) if worker == 0 else (s.beliefs[0], term))


def _book(old: State, new: State) -> tuple[State, str | None]:
    """Enter a new term and its holder; the property broken by it."""
    if new.row is None or (old.row is not None and old.row[:2] == new.row[:2]):
        return new, None
    if new.row.term > new.highest:
        return new._replace(highest=new.row.term, holders=(*new.holders, new.row.holder)), None
    return new, T5 if new.holders[new.row.term - 1] == new.row.holder else T1
