"""What many rounds came to, kept in a file, so that a run of hours can be broken off and taken up again."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from tests.chaos import injectors, invariants, recovery
from tests.chaos.round import Outcome
from tests.chaos.schedule import Facts

# What a run of some size must have seen at least once; a harness in which one of these stays at 0 tests less than it says.
MUST_SEE: Final = (
    "success -> completed",
    "failed -> pending",
    "failed -> dead_letter",
    "crashed -> pending",
    "lost -> pending",
    "interrupted -> pending",
    "snoozed -> pending",
    "timeout -> pending",
    "timeout -> dead_letter",
    "cancelled -> cancelled",
    "pending -> cancelled",
    "retried",
    "fenced",
)
# The same for a run of several rounds: these take luck in one.
MUST_SEE_IN_MANY: Final = ("already_applied", "zombie ends beside its successor")
MANY_FAULTS: Final = 2_000


class Totals(msgspec.Struct, kw_only=True):
    """All rounds so far.

    Attributes:
        seed: of the first round; the rounds after it count up.
        machine: where it was begun.
        commits: what was tested; more than one when the code has changed since it was begun.
        commands: as they were typed.
        busy: of each call, how busy the machine was.
    """

    seed: int
    database: str
    outcomes: list[Outcome] = []
    machine: str = ""
    commits: list[str] = []
    commands: list[str] = []
    busy: list[str] = []

    def begin(self, machine: str, commit: str, command: str) -> None:
        """Note where, what and how, at each call."""
        self.machine = self.machine or machine
        for new, known in ((commit, self.commits), (command, self.commands)):
            if new not in known:
                known.append(new)

    @property
    def faults(self) -> int:
        """How many were carried out."""
        return sum(self.kinds()[kind]["done"] for kind in self.kinds())

    @property
    def tasks(self) -> int:
        return sum(outcome.tasks for outcome in self.outcomes)

    @property
    def seconds(self) -> float:
        return sum(outcome.seconds for outcome in self.outcomes)

    @property
    def next_seed(self) -> int:
        return self.seed + len(self.outcomes)

    def kinds(self) -> dict[str, Counter[str]]:
        """Kind -> result -> how often."""
        sums: dict[str, Counter[str]] = defaultdict(Counter)
        for outcome in self.outcomes:
            for kind, results in outcome.kinds.items():
                sums[kind].update(results)
        return dict(sorted(sums.items()))

    def exercised(self) -> Counter[str]:
        return sum((Counter(outcome.exercised) for outcome in self.outcomes), Counter())

    def recovery(self) -> dict[str, list[float]]:
        sums: dict[str, list[float]] = defaultdict(list)
        for outcome in self.outcomes:
            for name, times in outcome.recovery.items():
                sums[name] += times
        return dict(sums)

    def violations(self) -> list[str]:
        found = [
            (outcome.seed, name, one) for outcome in self.outcomes for name, some in outcome.violations.items() for one in some
        ]
        return [f"seed {seed}, {name}: {one}" for seed, name, one in found]

    def save(self, file: Path) -> None:
        """Whole or not at all."""
        new = file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(self))
        os.replace(new, file)


def load(file: Path) -> Totals:
    return msgspec.json.decode(file.read_bytes(), type=Totals)


def rare(totals: Totals, at_least: int) -> dict[str, int]:
    """Kinds that fit and were done less often than that -> how often."""
    kinds, fitting = totals.kinds(), injectors.fitting(Facts(database=totals.database))
    done = {injector.kind: kinds.get(injector.kind, Counter())["done"] for injector in fitting}
    return {kind: times for kind, times in done.items() if times < at_least}


def missing(totals: Totals, at_least: int) -> Iterator[str]:
    """What a whole run must have seen and this one has not."""
    for kind, times in rare(totals, at_least).items():
        yield f"{kind} was done {times} times, and has to be {at_least} times"
    for pair in unseen(totals):
        yield f"{pair} was never seen"


def unseen(totals: Totals) -> Iterator[str]:
    """Outcomes that have to come about in as many faults, and have not."""
    for pair in MUST_SEE + (MUST_SEE_IN_MANY if totals.faults >= MANY_FAULTS else ()):
        if not totals.exercised()[pair]:
            yield pair


def table(totals: Totals) -> Iterator[str]:
    """The figures as Markdown."""
    executions = sum(outcome.executions for outcome in totals.outcomes)
    unknown = sum(outcome.unknown for outcome in totals.outcomes)
    yield f"{totals.faults} faults over {totals.tasks} tasks on {totals.database} in {totals.seconds:.0f} s, seed {totals.seed}:"
    yield f"{executions} executions, {unknown} tasks whose enqueue had an unknown outcome, {len(totals.violations())} violations."
    yield ""
    yield f"{totals.machine}; {'; '.join(totals.busy)}. Commit {', '.join(totals.commits)}, {len(totals.outcomes)} rounds."
    yield ""
    yield from (f"    {command}" for command in totals.commands)
    yield ""
    yield from _rows(("check", "violations"), _check_rows(totals))
    yield ""
    yield from _rows(("fault", "done", "no target", "broken"), _kind_rows(totals))
    yield ""
    yield from _rows(("outcome", "seen"), ((pair, str(n)) for pair, n in sorted(totals.exercised().items())))
    yield ""
    yield from _rows(("recovery", "times", "median", "p99", "limit"), _recovery_rows(totals))


def _check_rows(totals: Totals) -> Iterator[tuple[str, ...]]:
    """Every check, also those that found nothing, as they should."""
    found: Counter[str] = Counter()
    for outcome in totals.outcomes:
        found.update({name: len(sentences) for name, sentences in outcome.violations.items()})
    for name in [*invariants.CHECKS, *sorted(found.keys() - invariants.CHECKS.keys())]:
        yield name, str(found[name])


def _kind_rows(totals: Totals) -> Iterator[tuple[str, ...]]:
    """Every kind that fits, also one that was never carried out."""
    kinds = totals.kinds()
    fitting = {injector.kind for injector in injectors.fitting(Facts(database=totals.database))}
    for kind in sorted(fitting | kinds.keys()):
        results = kinds.get(kind, Counter())
        yield f"`{kind}`", str(results["done"]), str(results["skipped"]), str(results["broken"])


def _recovery_rows(totals: Totals) -> Iterator[tuple[str, ...]]:
    limits = recovery.limits(Facts(database=totals.database))
    for name, times in sorted(totals.recovery().items()):
        median = sorted(times)[len(times) // 2]
        yield name, str(len(times)), f"{median:.2f} s", f"{recovery.p99(times):.2f} s", f"{limits[name]:g} s"


def too_slow(totals: Totals) -> Iterator[str]:
    """What takes longer to recover than it may, or has never had to."""
    found = totals.recovery()
    for name, limit_s in recovery.limits(Facts(database=totals.database)).items():
        times = found.get(name, [])
        if not times:
            yield f"{name}: never measured"
        elif recovery.p99(times) > limit_s:
            yield f"{name}: {recovery.p99(times):.2f} s of {len(times)} times, and the limit is {limit_s:g} s"


def _rows(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
