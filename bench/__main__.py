"""`python -m bench`: measure drain, enqueue, latency and idle on both databases. Takes some minutes; `--quick` under one."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from rich.console import Console

from bench import drain, enqueue, idle, latency, raw
from bench.report import Figures, Report, describe_machine, show, write_json
from bench.target import TARGETS, NewTarget
from tests.pg_cluster import PostgresMissing

SECTIONS: Final = ("enqueue", "raw", "drain", "latency", "idle")
_RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured. `paces`: seconds between two tasks -> how many tasks."""

    tasks: int = 20_000
    runs: int = 3
    singles: int = 500
    paces: dict[float, int] = field(default_factory=lambda: {0.03: 300, 0.5: 40})
    idle_s: float = 10.0


QUICK: Final = Sizes(tasks=5_000, runs=1, singles=100, paces={0.03: 60}, idle_s=3.0)


def measure(new_target: NewTarget, sections: Sequence[str], sizes: Sizes, console: Console) -> Figures:
    """The wanted sections on one database."""
    figures = Figures()
    for section in sections:
        with console.status(section):
            match section:
                case "enqueue":
                    figures.enqueue = enqueue.measure(new_target, sizes.singles, sizes.tasks)
                case "raw":
                    figures.raw = raw.measure(new_target, sizes.tasks)
                case "drain":
                    figures.drain = drain.measure(new_target, sizes.tasks, sizes.runs)
                case "latency":
                    figures.latency = latency.measure(new_target, sizes.paces)
                case "idle":
                    figures.idle = idle.measure(new_target, sizes.idle_s)
    return figures


def main(arguments: Sequence[str]) -> int:
    """Exit 0 when everything was measured, 1 when a database was missing."""
    options = _parser().parse_args(arguments)
    console, errors = Console(width=None if sys.stdout.isatty() else 120), Console(stderr=True)
    report = Report(started_at=datetime.now(UTC), machine=describe_machine(), quick=options.quick, databases={})
    missing = False
    for database in options.database or TARGETS:
        try:
            with TARGETS[database]() as new_target:
                sizes = QUICK if options.quick else Sizes()
                report.databases[database] = measure(new_target, options.only, sizes, errors)
        except PostgresMissing as error:
            errors.print(f"{database} is left out: {error}")
            missing = True
    show(report, console)
    console.print(f"written to {write_json(report, options.output)}")
    return 1 if missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer tasks and one run each: under a minute, and less exact")
    parser.add_argument("--only", type=_sections, default=SECTIONS, metavar="NAME,…", help=f"some of: {', '.join(SECTIONS)}")
    parser.add_argument("--database", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--output", type=Path, default=_RESULTS, metavar="FOLDER", help="where the JSON goes; bench/results")
    return parser


def _sections(text: str) -> tuple[str, ...]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(SECTIONS)}")
    return tuple(name for name in SECTIONS if name in names)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(1)  # unwinds, so that every block stops what it has started


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main(sys.argv[1:]))
