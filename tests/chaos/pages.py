"""`python -m tests.chaos.pages SQLITE.json POSTGRES.json`: runs as the tables of docs/explanation/reliability.md."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.chaos import injectors, totals
from tests.chaos.injectors import Injector
from tests.chaos.schedule import Facts
from tests.chaos.totals import Totals


def lines(runs: Sequence[Totals]) -> Iterator[str]:
    """Three tables: the runs, the faults with how often each was done, the outcomes that were seen."""
    names = [{"sqlite": "SQLite", "postgres": "PostgreSQL"}[run.database] for run in runs]
    yield from _table(["", *names], _figures(runs))
    yield ""
    yield from _table(["fault", "what it does", *names], _faults(runs))
    yield ""
    yield from _table(["outcome", *names], _outcomes(runs))


def _figures(runs: Sequence[Totals]) -> Iterator[list[str]]:
    yield ["faults carried out", *(f"{run.faults:,}" for run in runs)]
    yield ["tasks acknowledged", *(f"{run.tasks:,}" for run in runs)]
    yield ["attempts begun", *(f"{sum(one.executions for one in run.outcomes):,}" for run in runs)]
    yield ["enqueues of unknown outcome", *(f"{sum(one.unknown for one in run.outcomes):,}" for run in runs)]
    found = [[name for one in run.outcomes for name, sentences in one.violations.items() for _ in sentences] for run in runs]
    yield ["violations of I1 to I12", *(str(len(names) - names.count("harness")) for names in found)]
    whole = [sum(1 for one in run.outcomes if one.kinds) for run in runs]
    yield ["rounds, seconds", *(f"{rounds}, {run.seconds:,.0f}" for rounds, run in zip(whole, runs, strict=True))]
    broken_off = [len(run.outcomes) - rounds for rounds, run in zip(whole, runs, strict=True)]
    if any(broken_off):
        yield ["rounds that the harness itself broke off, not counted", *map(str, broken_off)]
    yield ["seed of the first round", *(str(run.seed) for run in runs)]
    yield ["commits", *(", ".join(commit[:8] for commit in run.commits) for run in runs)]


def _faults(runs: Sequence[Totals]) -> Iterator[list[str]]:
    kinds = [run.kinds() for run in runs]
    fitting = [{one.kind for one in injectors.fitting(Facts(database=run.database))} for run in runs]
    for injector in sorted(injectors.ALL, key=lambda one: one.kind):
        if any(injector.kind in some for some in fitting):
            done = [f"{known[injector.kind]['done']:,}" if injector.kind in known else "–" for known in kinds]
            yield [f"`{injector.kind}`", _what(injector), *done]


def _what(injector: Injector) -> str:
    return (inspect.getdoc(type(injector)) or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")


def _outcomes(runs: Sequence[Totals]) -> Iterator[list[str]]:
    seen = [run.exercised() for run in runs]
    for pair in sorted({pair for one in seen for pair in one}):
        yield [pair, *(f"{one[pair]:,}" for one in seen)]


def _table(head: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' if place == 0 or name.startswith('what') else '---:' for place, name in enumerate(head))} |"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print the tables of the runs that are named, in that order."""
    sys.stdout.write("\n".join(lines([totals.load(Path(name)) for name in sys.argv[1:]])) + "\n")


if __name__ == "__main__":
    main()
