"""The same drain with much in the store, with many queues, and with several workers on one database."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from bench.growth.fill import Filler
from bench.handlers import noop
from bench.load import Drain, Load, Run, run, run_apart, run_fresh, summary
from bench.stats import Spread, ratio
from bench.target import NewTarget, Target

APART: Final = ", a database each"
"""After the number of workers, in the name of that scene."""
_MORE: Final = 5
_LOOK_EVERY_S: Final = 0.01
_CLAIMERS: Final = "shiftboss claimer%"
_ROWS: Final = "Lock: "
"""What the server says of a session that waits for a heavyweight lock, before its kind."""
_HARMLESS: Final = frozenset({"Lock: extend"})
"""Two sessions that both make a table longer wait for each other for microseconds, whatever their rows are."""


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """A drain, and its rate by that of the plain one beside it, run by run.

    `waits`: how often a claimer's session was seen working, or waiting for what; of several workers on PostgreSQL only.
    `locked`: of those that waited for others' rows, how often it was a claim, an end, or something else.
    """

    drain: Drain
    by_plain: Spread
    waits: dict[str, int] = {}
    locked: dict[str, int] | None = None

    @property
    def waits_for_locks(self) -> int:
        return sum(n for what, n in self.waits.items() if is_for_rows(what))


Waits = Counter[tuple[str, str]]
"""What a claimer's session did, with which statement: how often it was seen."""


def is_for_rows(what: str) -> bool:
    """Whether a session that waits so waits for what another one holds."""
    return what.startswith(_ROWS) and what not in _HARMLESS


def filled(new_target: NewTarget, fill: Callable[[Filler], None], tasks: int, runs: int) -> Scene:
    """By turns: an empty database, and one that has been filled once."""
    full = new_target()
    try:
        with Filler(full) as filler:
            fill(filler)
        load = Load(tasks=tasks)
        plain: list[Run] = []
        crowded: list[Run] = []
        for _ in range(runs):
            plain.append(run_fresh(new_target, load))
            crowded.append(run(full, load))
    finally:
        full.close()
    return _scene(crowded, plain)


def many_queues(new_target: NewTarget, queues: int, tasks: int, runs: int) -> Scene:
    """By turns: all tasks in one queue, and spread evenly over many."""
    names = tuple(f"tenant-{number}" for number in range(queues))
    spread_out = Load(tasks=tasks, queues=names, prepare=lambda number: noop.using(queue=names[number % queues]).prepare())
    plain, crowded = [], []
    for _ in range(runs):
        plain.append(run_fresh(new_target, Load(tasks=tasks)))
        crowded.append(run_fresh(new_target, spread_out))
    return _scene(crowded, plain)


def many_workers(new_target: NewTarget, workers: Sequence[int], tasks: int, runs: int) -> dict[str, Scene]:
    """By turns: one worker, then each of these numbers, all of them on one database; the rate is that of all together.

    Then as many as the largest number, each on a database of its own with its share of the tasks: what so many processes reach
    on this machine that have nothing to do with each other. A worker opens connections in its first large round, and all of
    them do so in the drain's first second, so the tasks are five times as many.
    """
    numbers = sorted({1, *workers})
    most = numbers[-1]
    places = {str(number): 1 for number in numbers} | ({f"{most}{APART}": most} if most > 1 else {})
    done: dict[str, list[Run]] = {name: [] for name in places}
    waits: dict[str, Waits] = {name: Counter() for name in places}
    total = tasks * _MORE // most * most
    for _ in range(runs):
        for name, databases in places.items():
            number = int(name.removesuffix(APART))
            load = Load(tasks=total, workers=number, settings={"DISTRIBUTED_MODE": "true"})
            done[name].append(_watched(new_target, load, waits[name], databases))
    return {name: _scene(done[name], done["1"], waits[name]) for name in places}


def _watched(new_target: NewTarget, load: Load, seen: Waits, databases: int) -> Run:
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(contextlib.closing(new_target())) for _ in range(databases)]
        return run_apart(targets, load, _claimers_watched(targets[0], seen))


@contextlib.contextmanager
def _claimers_watched(target: Target, seen: Waits) -> Iterator[None]:
    """Ask the server again and again what the claimers' sessions wait for. SQLite has nobody to ask."""
    if target.url.startswith("sqlite"):
        yield
        return
    done = threading.Event()

    def look() -> None:
        with Filler(target) as asker:
            while not done.wait(_LOOK_EVERY_S):
                seen.update({(what, which): n for what, which, n in asker.rows("waits", who=_CLAIMERS)})

    thread = threading.Thread(target=look, name="bench-waits", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _scene(crowded: Sequence[Run], plain: Sequence[Run], seen: Waits | None = None) -> Scene:
    rates = ([one.per_second for one in crowded], [one.per_second for one in plain])
    waits, locked = by_kind(seen or Counter())
    return Scene(drain=summary(crowded), by_plain=ratio(*rates), waits=waits, locked=locked if waits else None)


def by_kind(seen: Waits) -> tuple[dict[str, int], dict[str, int]]:
    """How often each wait was seen, and which statements those were that waited for others' rows. Pure."""
    waits: Counter[str] = Counter()
    locked = Counter({"claim": 0, "end": 0, "other": 0})
    for (what, which), number in seen.items():
        waits[what] += number
        locked[which] += number if is_for_rows(what) else 0
    return dict(waits), dict(locked)
