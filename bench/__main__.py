"""`python -m bench`: measure the service as it is, on both databases, and other queues beside it. `--quick` takes under a minute.

Growth over time and size is measured by `python -m bench.growth`, which takes longer; what each setting moves, by
`python -m bench.tuning`.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from rich.console import Console

from bench import drain, enqueue, features, idle, latency
from bench.load import Load, run_fresh
from bench.peers import compare
from bench.peers.__main__ import add_cache, chosen
from bench.plots import draw
from bench.report import Figures, Report, describe_machine, write_json
from bench.tables import show
from bench.target import TARGETS, NewTarget, tuned_targets
from tests.pg_cluster import PostgresMissing

SECTIONS: Final = ("enqueue", "drain", "busy", "features", "latency", "idle")
PEERS: Final = "peers"
RESULTS: Final = Path(__file__).parent / "results"
_LONGEST_PEER_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured. `paces`: seconds between two tasks -> how many tasks in a run. `thorough`: the tuned configuration
    and the latency under load, too."""

    tasks: int = 20_000
    runs: int = 3
    singles: int = 400
    paces: Mapping[float, int] = field(default_factory=lambda: {0.03: 200, 0.5: 20})
    busy_s: float = 2.0
    idle_s: float = 10.0
    pickups: int = 60
    thorough: bool = True


QUICK: Final = Sizes(tasks=4_000, runs=1, singles=60, paces={0.03: 40}, busy_s=0.5, idle_s=2.0, pickups=0, thorough=False)
QUICK_SECTIONS: Final = ("enqueue", "drain", "latency", "idle")


def measure(
    figures: Figures,
    database: str,
    new_target: NewTarget,
    sections: Sequence[str],
    sizes: Sizes,
    console: Console,
    written: Callable[[], object],
) -> None:
    """The wanted sections on one database, into `figures`; `written` is called after each."""
    for section in sections:
        with console.status(f"{database}: {section}"):
            match section:
                case "enqueue":
                    figures.enqueue = enqueue.measure(new_target, sizes.singles, sizes.tasks, sizes.runs)
                case "drain":
                    with _tuned(database, sizes) as new_tuned:
                        figures.drain = drain.measure(new_target, new_tuned, sizes.tasks, sizes.runs)
                case "busy":
                    figures.busy = drain.measure_busy(new_target, sizes.busy_s, sizes.runs)
                case "features":
                    figures.features = features.measure(new_target, sizes.tasks, sizes.runs)
                case "latency":
                    figures.latency = latency.measure(new_target, sizes.paces, _half(figures, new_target, sizes), sizes.runs)
                case "idle":
                    figures.idle = idle.measure(new_target, sizes.idle_s, sizes.runs)
        written()


def _tuned(database: str, sizes: Sizes) -> contextlib.AbstractContextManager[NewTarget | None]:
    return tuned_targets(database, drain.TUNED_POSTGRES) if sizes.thorough else contextlib.nullcontext()


def _half(figures: Figures, new_target: NewTarget, sizes: Sizes) -> float:
    """Half the rate of the drain; measured once more where the drain was not asked for."""
    if not sizes.thorough:
        return 0.0
    if figures.drain is not None:
        return figures.drain.loads["sync"].per_second.median / 2
    return run_fresh(new_target, Load(tasks=sizes.tasks)).per_second / 2


def main(arguments: Sequence[str]) -> int:
    """Exit 0 when everything was measured, 1 when a database was missing."""
    options = _parser().parse_args(arguments)
    sizes = QUICK if options.quick else Sizes()
    sizes = replace(sizes, tasks=options.tasks or sizes.tasks, runs=options.runs or sizes.runs)
    sections = options.only or (QUICK_SECTIONS if options.quick else (*SECTIONS, PEERS))
    console, errors = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)
    report = Report(started_at=datetime.now(UTC), machine=describe_machine(), quick=options.quick, databases={})

    def written() -> Path:
        return write_json(report, report.started_at, options.output)

    missing = False
    try:
        for database in options.database or TARGETS:
            try:
                with TARGETS[database]() as new_target:
                    ordinary = [section for section in sections if section != PEERS]
                    figures = report.databases.setdefault(database, Figures())
                    measure(figures, database, new_target, ordinary, sizes, errors, written)
            except PostgresMissing as error:
                errors.print(f"{database} is left out: {error}")
                missing = True
        if PEERS in sections:
            with errors.status("peers"):
                queues = chosen(options.peers)
                report.peers = compare.measure(queues, sizes.tasks, sizes.runs, sizes.pickups, options.cache, _LONGEST_PEER_S)
    finally:  # what was measured is kept also when the last part fails
        path = written()
        show(report, console)
        console.print(f"written to {path}")
        console.print(draw(report, path.with_suffix("")), markup=False)
    return 1 if missing else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer tasks, one run each, no peers: under a minute")
    known = ", ".join((*SECTIONS, PEERS))
    parser.add_argument("--only", type=_sections, metavar="NAME,…", help=f"some of: {known}")
    parser.add_argument("--database", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--tasks", type=int, metavar="N", help=f"no-op tasks in a drain; {Sizes().tasks:,}")
    parser.add_argument("--runs", type=int, metavar="N", help=f"how often each is run, in turns; {Sizes().runs}")
    parser.add_argument("--peers", metavar="NAME,…", help="of the other queues only these")
    add_cache(parser)
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes; bench/results")
    return parser


def _sections(text: str) -> tuple[str, ...]:
    known, names = (*SECTIONS, PEERS), text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    return tuple(name for name in known if name in names)


def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """On SIGTERM: unwinds, so that every block stops what it has started."""
    sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main(sys.argv[1:]))
