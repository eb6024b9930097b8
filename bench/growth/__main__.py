"""`python -m bench.growth`: does the rate hold when the store grows, workers are added, or time passes?

By default each part is as long as a serious run wants it, about an hour for both databases; every size has an option.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.__main__ import RESULTS, terminate
from bench.growth import lasting, scenes
from bench.growth.lasting import Lasting
from bench.growth.scenes import Scene
from bench.plots import is_installed, line_chart, not_installed
from bench.report import describe_machine, write_json
from bench.tables import fine, machine_line, new_table, whole
from bench.target import TARGETS, NewTarget
from tests.pg_cluster import PostgresMissing

PARTS: Final = ("history", "future", "queues", "workers", "lasting")


class Grown(msgspec.Struct, kw_only=True):
    """What was measured on one database."""

    scenes: dict[str, Scene] = {}
    lasting: Lasting | None = None


class GrowthReport(msgspec.Struct, kw_only=True):
    """One run of this program."""

    started_at: datetime
    machine: dict[str, str]
    options: dict[str, str]
    databases: dict[str, Grown]


def measure(
    new_target: NewTarget, options: argparse.Namespace, console: Console, grown: Grown, written: Callable[[], object]
) -> None:
    """The wanted parts on one database; what is done so far stands in `grown`, and is `written`, whatever happens next."""

    def keep(one: Lasting) -> None:
        grown.lasting = one
        written()

    tasks, runs, rows = options.tasks, options.runs, options.rows
    parts: dict[str, Callable[[], dict[str, Scene]]] = {
        "history": lambda: {f"{rows:,} finished tasks": scenes.filled(new_target, lambda f: f.finished(rows), tasks, runs)},
        "future": lambda: {f"{rows:,} due tomorrow": scenes.filled(new_target, lambda f: f.future(rows), tasks, runs)},
        "queues": lambda: {f"{options.queues:,} queues": scenes.many_queues(new_target, options.queues, tasks, runs)},
        "workers": lambda: {
            _workers(name): scene for name, scene in scenes.many_workers(new_target, options.workers, tasks, runs).items()
        },
    }
    for part in options.only:
        with console.status(part):
            if part == "lasting":
                lasting.measure(new_target, options.rate, options.minutes, options.pinned_minutes, options.stretch, keep)
            else:
                grown.scenes.update(parts[part]())
                written()


def _workers(name: str) -> str:
    number, apart, _ = name.partition(scenes.APART)
    return f"{number} workers{apart}"


def main(arguments: Sequence[str]) -> int:
    """Exit 0 when everything was measured, 1 when a database was missing."""
    options = _parser().parse_args(arguments)
    console, errors = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)
    said = {name: str(value) for name, value in vars(options).items()}
    report = GrowthReport(started_at=datetime.now(UTC), machine=describe_machine(), options=said, databases={})
    missing = False

    def written() -> Path:
        return write_json(report, report.started_at, options.output, "growth")

    try:
        for database in options.database or TARGETS:
            try:
                with TARGETS[database]() as new_target:
                    measure(new_target, options, errors, report.databases.setdefault(database, Grown()), written)
            except PostgresMissing as error:
                errors.print(f"{database} is left out: {error}")
                missing = True
    finally:  # an hour's figures are kept also when the last part fails
        path = written()
        show(report, console)
        console.print(f"written to {path}")
        console.print(draw(report, path.with_suffix("")), markup=False)
    return 1 if missing else 0


def show(report: GrowthReport, console: Console) -> None:
    """Print all tables."""
    console.print(machine_line(report.machine), style="dim")
    for table in tables(report):
        console.print(table)


def tables(report: GrowthReport) -> list[Table]:
    """One of drains, and one for each lasting load."""
    table = new_table(
        "Drain, by the plain one beside it", "a second", "ratio", "CPU µs a task", "waited for rows' locks: claims / ends"
    )
    for database, grown in report.databases.items():
        for name, scene in grown.scenes.items():
            waits = f"{_locked(scene)} of {sum(scene.waits.values()):,} looks" if scene.waits else ""
            table.add_row(
                f"{database}, {name}", whole(scene.drain.per_second), fine(scene.by_plain), whole(scene.drain.cpu_us), waits
            )
    lasting_ones = {database: grown.lasting for database, grown in report.databases.items()}
    loads = [made for database, one in lasting_ones.items() if one for made in (lasting_table(database, one), parts_table(one))]
    return [*([table] if table.row_count else ()), *loads]


def _locked(scene: Scene) -> str:
    """Claims and ends, and what else there was; one figure for a result from before they were told apart."""
    if scene.locked is None:
        return f"{scene.waits_for_locks:,}"
    others = f" (and {scene.locked['other']:,} others)" if scene.locked["other"] else ""
    return f"{scene.locked['claim']:,} / {scene.locked['end']:,}{others}"


def lasting_table(database: str, one: Lasting) -> Table:
    """The first, the middle and the last stretch, then what grew, and what the held snapshot did."""
    columns = (
        "done a second",
        "p50 ms",
        "p99 ms",
        "pending",
        "dead rows",
        "tasks MiB",
        "indexes MiB",
        "history MiB",
        "PSS MiB",
        "files",
    )
    sent = "" if one.sent_per_second is None else f" ({one.sent_per_second:,.0f} sent)"
    title = f"{database}: {one.rate:,.0f} tasks a second{sent} for {one.samples[-1].at_s / 60:.1f} minutes"
    table = new_table(title + (", then broken off" if one.sent is None else ""), *columns)
    shown = sorted({0, len(one.samples) // 2, len(one.samples) - 1})
    for sample in (one.samples[place] for place in shown):
        table.add_row(
            f"at {sample.at_s:,.0f} s",
            f"{sample.done_per_second:,.0f}",
            f"{sample.start.p50_ms:.1f}",
            f"{sample.start.p99_ms:.1f}",
            f"{sample.pending:,}",
            "" if sample.dead_rows is None else f"{sample.dead_rows:,}",
            *(f"{size / 2**20:,.1f}" for size in (sample.tasks_bytes, sample.index_bytes, sample.history_bytes)),
            f"{sample.pss_kib / 1024:.0f}",
            str(sample.descriptors),
        )
    growth = f"{one.pss_kib_per_minute / 1024:+.2f} MiB PSS, {one.pending_per_minute:+,.0f} pending"
    table.add_row("a minute, second half", growth)
    return table


def parts_table(one: Lasting) -> Table:
    """What a held snapshot does: the time before it beside the time with it."""
    columns = ("pick-up p50 ms", "p99 ms", "worst p99 ms", "claim p50 ms", "p99 ms", "most pending", "pending a minute")
    table = new_table("Pick-up of the middle stretch, and all claims by the service's own histogram", *columns)
    given = [one.between(pinned=False), one.between(pinned=True)]
    parts = [lasting.part(samples) for samples in given if samples]
    for name, made in zip(("no snapshot held", "a snapshot held"), parts, strict=False):
        claims = (made.claim_p50_ms, made.claim_p99_ms)
        table.add_row(
            name,
            *(f"{value:.1f}" for value in (made.p50_ms, made.p99_ms, made.worst_p99_ms)),
            *("" if value is None else f"{value:.1f}" for value in claims),
            f"{made.most_pending:,}",
            f"{made.pending_per_minute:+,.0f}",
        )
    if len(parts) == 2:
        ratios = lasting.by(parts[1], parts[0])
        table.add_row("the second by the first", *("" if value is None else f"{value:.2f}" for value in ratios), "", "")
    return table


def draw(report: GrowthReport, folder: Path) -> str:
    """The lasting loads as lines over time."""
    drawn = {database: grown.lasting for database, grown in report.databases.items() if grown.lasting is not None}
    if not drawn:
        return "nothing to draw"
    if not is_installed():
        return not_installed()
    folder.mkdir(parents=True, exist_ok=True)
    for database, one in drawn.items():
        lines: dict[str, Callable[[Any], float]] = {
            "p50": lambda sample: sample.start.p50_ms,
            "p99": lambda sample: sample.start.p99_ms,
        }
        points = {name: [(sample.at_s, value(sample)) for sample in one.samples] for name, value in lines.items()}
        line_chart(points, "seconds", "milliseconds from enqueue to start", folder / f"latency-{database}.svg")
        rates = {"done": [(sample.at_s, sample.done_per_second) for sample in one.samples]}
        line_chart(rates, "seconds", "tasks a second", folder / f"rate-{database}.svg")
        memory = {"PSS": [(sample.at_s, sample.pss_kib / 1024) for sample in one.samples]}
        line_chart(memory, "seconds", "MiB of the service", folder / f"memory-{database}.svg")
    return f"drawn in {folder}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="NAME,…", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--database", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--tasks", type=int, default=20_000, help="no-op tasks in a drain")
    parser.add_argument("--runs", type=int, default=3, help="how often each drain is run, in turns with the plain one")
    parser.add_argument("--rows", type=int, default=1_000_000, help="finished tasks, and tasks due later, in the filled store")
    parser.add_argument("--queues", type=int, default=1_000, help="how many queues the tasks are spread over")
    parser.add_argument("--workers", type=_numbers, default=(1, 2, 4, 8), metavar="N,…", help="workers on one database")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the lasting load is")
    parser.add_argument("--pinned-minutes", type=float, default=5.0, help="how long a snapshot is held after that; 0: not at all")
    parser.add_argument("--rate", type=float, help="tasks a second of the lasting load; half the rate of a drain where not given")
    parser.add_argument("--stretch", type=float, default=10.0, metavar="SECONDS", help="time between two samples")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(PARTS)}")
    return tuple(name for name in PARTS if name in names)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(one) for one in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("at least one worker")
    return numbers


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main(sys.argv[1:]))
