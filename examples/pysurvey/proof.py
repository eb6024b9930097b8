"""Asks the store, in plain SQL and with nothing of Shiftboss in between, whether every promise was kept."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from shiftboss.store.queries import load_queries

_SQL: Final = load_queries("examples.pysurvey", "proof.sql")


@dataclass(frozen=True, slots=True)
class Check:
    """One promise, and whether it was kept."""

    kept: bool
    text: str


@dataclass(frozen=True, slots=True)
class TypeFigures:
    """All tasks of one type. Times in seconds, sorted; only completed tasks have them."""

    type: str
    completed: int
    dead_letters: int
    attempts: int
    durations: Sequence[float]
    waits: Sequence[float]


class Evidence:
    """A read-only connection to the database file."""

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=10.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._connection.close()

    def ended(self) -> int:
        """How many tasks have reached an end."""
        return int(self._one("ended"))

    def crashed(self) -> int:
        """How many attempts have ended with their process."""
        return int(self._one("crashed"))

    def checks(self, sent: Sequence[str], executor_was_busy: bool) -> list[Check]:
        """The proof: `sent` are the ids that were returned when the tasks were enqueued."""
        self._connection.execute(_SQL["make_sent"])
        self._connection.executemany(_SQL["fill_sent"], [(id_,) for id_ in sent])
        self._connection.execute(_SQL["make_ends"])
        count, once = self._one("sent"), self._one("ended_once")
        return [
            Check(once == count, f"{once:,} of {count:,} enqueued tasks have exactly one end"),
            *(
                Check(self._one(query) == 0, f"{self._one(query):,} {text}")
                for query, text in (
                    ("ended_twice", "tasks ended twice"),
                    ("not_ended", "tasks are left over"),
                    ("never_sent", "tasks came from nowhere"),
                    ("attempts_out_of_bounds", "tasks ran more often than max_attempts, or never"),
                    ("unexplained_dead_letters", "dead letters have no error or no recorded attempt"),
                    ("results_missing", "surveyed files have no result"),
                )
            ),
            self._crash_check(executor_was_busy),
        ]

    def _crash_check(self, executor_was_busy: bool) -> Check:
        crashed, by_sigkill, ended = (self._one(q) for q in ("crashed", "crashed_by_sigkill", "crashed_and_ended"))
        kept = crashed == by_sigkill == ended and (crashed > 0 or not executor_was_busy)
        told = f"{crashed} attempts died with the executor; {by_sigkill} are recorded with SIGKILL, {ended} ran again to an end"
        return Check(kept, told)

    def crash_example(self) -> str | None:
        """The recorded error of one crashed attempt."""
        row = self._connection.execute(_SQL["crash_example"]).fetchone()
        return None if row is None else str(row[0])

    def span_s(self) -> float:
        """Seconds from the first file enqueued to the last one finished."""
        return float(self._one("span") or 0.0)

    def dead_letters(self) -> list[tuple[str, int, str]]:
        """(path, attempts, last error) of each."""
        return list(self._connection.execute(_SQL["dead_letters"]))

    def figures(self) -> list[TypeFigures]:
        """By type name."""
        rows = self._connection.execute(_SQL["timings"]).fetchall()
        return [_figures(type_, [row for row in rows if row[0] == type_]) for type_ in sorted({row[0] for row in rows})]

    def _one(self, query: str) -> Any:
        with closing(self._connection.execute(_SQL[query])) as cursor:
            return cursor.fetchone()[0]


def _figures(type_: str, rows: Sequence[tuple[str, str, int, float | None, float | None]]) -> TypeFigures:
    return TypeFigures(
        type=type_,
        completed=sum(row[1] == "completed" for row in rows),
        dead_letters=sum(row[1] == "dead_letter" for row in rows),
        attempts=sum(row[2] for row in rows),
        durations=sorted(row[3] for row in rows if row[3] is not None),
        waits=sorted(row[4] for row in rows if row[4] is not None),
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` (0 to 1) of them do not exceed."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
