"""`python -m bench.tuning`: which setting moves which figure. Each value is measured in turns with the default configuration."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench import idle, latency, stats
from bench.__main__ import RESULTS, terminate
from bench.handlers import wait
from bench.idle import Idle
from bench.load import NO_HISTORY, Drain, Load, in_turns
from bench.report import describe_machine, write_json
from bench.service import Service, wait_until
from bench.stats import Latency, Spread, ratio
from bench.tables import fine, machine_line, new_table, whole
from bench.target import SQLITE, TARGETS, NewTarget, postgres_targets
from shiftboss import Client
from tests.pg_cluster import PostgresMissing

DEFAULT: Final = "default"
_WAIT_S: Final = 0.02
_SETTLE_S: Final = 3.0
_PICK_UP_EVERY_S: Final = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting, or a few that belong together. `server`: of PostgreSQL, so of that database only.

    `idle`, `pickup`: it moves what an idle worker costs, or how soon one starts a task; both take longer to measure.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    server: Mapping[str, str] = field(default_factory=dict)
    idle: bool = False
    pickup: bool = False


CHANGES: Final[Mapping[str, Change]] = {
    "worker_pool_size = 100": Change(settings={"WORKER_POOL_SIZE": "100"}, idle=True),
    "worker_pool_size = 2": Change(settings={"WORKER_POOL_SIZE": "2"}),
    "executors = 1": Change(settings={"SHIFTBOSS_EXECUTORS": "1"}, idle=True),
    "executors = 4": Change(settings={"SHIFTBOSS_EXECUTORS": "4"}, idle=True),
    'claim_strategy = "fifo"': Change(settings={"SHIFTBOSS_CLAIM_STRATEGY": "fifo"}),
    'claim_strategy = "lifo"': Change(settings={"SHIFTBOSS_CLAIM_STRATEGY": "lifo"}),
    'claim_strategy = "weighted_random"': Change(settings={"SHIFTBOSS_CLAIM_STRATEGY": "weighted_random"}),
    'heartbeat_interval = "1s"': Change(settings={"HEARTBEAT_INTERVAL": "1s"}, idle=True),
    'claim_interval = "100ms"': Change(settings={"CLAIM_INTERVAL": "100ms"}, idle=True, pickup=True),
    'completed_retention = "0s"': Change(settings=NO_HISTORY),
    "synchronous_commit = off": Change(server={"synchronous_commit": "off"}, pickup=True),
    "shared_buffers = 1GB": Change(server={"shared_buffers": "1GB"}),
    "max_wal_size = 8GB, checkpoint_timeout = 30min": Change(server={"max_wal_size": "8GB", "checkpoint_timeout": "30min"}),
    "wal_compression = on": Change(server={"wal_compression": "on"}),
    "autovacuum = off": Change(server={"autovacuum": "off"}),
}


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """By the default beside it: rate of no-op tasks, CPU of all processes a task, rate of tasks that take 20 ms."""

    drain: Drain
    rate: Spread
    cpu: Spread
    busy: Drain
    busy_rate: Spread
    idle: Idle | None
    pickup: Latency | None


class TuningReport(msgspec.Struct, kw_only=True):
    """One run of this program. `synchronous`: single INSERTs into a bare SQLite file, by how they are forced to the disk."""

    started_at: datetime
    machine: dict[str, str]
    databases: dict[str, dict[str, Moved]]
    synchronous: dict[str, Latency]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured."""

    tasks: int
    busy: int
    runs: int
    idle_s: float
    pickups: int


def measure(new_target: NewTarget, changes: Mapping[str, Change], sizes: Sizes) -> dict[str, Moved]:
    """Each change by itself, the default first in every round."""
    every = {DEFAULT: Change(idle=True, pickup=True), **changes}
    with contextlib.ExitStack() as stack:
        targets = {
            name: stack.enter_context(postgres_targets(change.server)) if change.server else new_target
            for name, change in every.items()
        }
        noops = in_turns(
            {name: Load(tasks=sizes.tasks, settings=one.settings) for name, one in every.items()}, targets, sizes.runs
        )
        waits = in_turns({name: _waiting(sizes.busy, one.settings) for name, one in every.items()}, targets, sizes.runs)
        idles = {
            name: idle.measure(targets[name], sizes.idle_s, sizes.runs, one.settings) for name, one in every.items() if one.idle
        }
        starts = {name: _pick_up(targets[name], one.settings, sizes.pickups) for name, one in every.items() if one.pickup}
    return {
        name: Moved(
            drain=noops[name],
            rate=ratio(noops[name].per_second.runs, noops[DEFAULT].per_second.runs),
            cpu=ratio(noops[name].cpu_us.runs, noops[DEFAULT].cpu_us.runs),
            busy=waits[name],
            busy_rate=ratio(waits[name].per_second.runs, waits[DEFAULT].per_second.runs),
            idle=idles.get(name),
            pickup=starts.get(name),
        )
        for name in every
    }


def _waiting(tasks: int, settings: Mapping[str, str]) -> Load:
    return Load(tasks=tasks, settings=settings, prepare=lambda _number: wait.prepare(_WAIT_S))


def _pick_up(new_target: NewTarget, settings: Mapping[str, str], count: int) -> Latency:
    target = new_target()
    try:
        with Client(target.url) as client, Service(target.url, target.folder, settings):
            wait_until(time.monotonic() + _SETTLE_S)
            return stats.latency(latency.pace(client, _PICK_UP_EVERY_S, count).start_s)
    finally:
        target.close()


def bare_inserts(folder: Path, count: int) -> dict[str, Latency]:
    """What `synchronous` is worth on this disk: the service always uses FULL, so a commit outlives a power cut."""
    waits_s: dict[str, list[float]] = {"FULL": [], "NORMAL": [], "OFF": []}
    connections = {}
    for how in waits_s:
        connections[how] = sqlite3.connect(folder / f"{how}.db", isolation_level=None)
        for query in ("wal", f"synchronous_{how.lower()}", "bare_table"):
            connections[how].execute(SQLITE[query])
    for number in range(count):
        for how, waits in waits_s.items():
            began_s = time.perf_counter()
            connections[how].execute(SQLITE["bare_row"], {"n": number})
            waits.append(time.perf_counter() - began_s)
    for connection in connections.values():
        connection.close()
    return {how: stats.latency(waits) for how, waits in waits_s.items()}


def main(arguments: Sequence[str]) -> int:
    """Exit 0 when everything was measured, 1 when a database was missing."""
    options = _parser().parse_args(arguments)
    console, errors = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)
    sizes = Sizes(tasks=options.tasks, busy=options.busy, runs=options.runs, idle_s=options.idle, pickups=options.pickups)
    report = TuningReport(started_at=datetime.now(UTC), machine=describe_machine(), databases={}, synchronous={})
    missing = False
    for database in options.database or TARGETS:
        try:
            with TARGETS[database]() as new_target, errors.status(database):
                report.databases[database] = measure(new_target, chosen(options.only, database), sizes)
        except PostgresMissing as error:
            errors.print(f"{database} is left out: {error}")
            missing = True
    with tempfile.TemporaryDirectory(prefix="shiftboss-bench-") as folder:
        report.synchronous = bare_inserts(Path(folder), options.pickups)
    show(report, console)
    console.print(f"written to {write_json(report, report.started_at, options.output, 'tuning')}")
    return 1 if missing else 0


def chosen(words: str | None, database: str) -> dict[str, Change]:
    """The changes that this database knows and whose names contain one of these words."""
    wanted = [word.strip() for word in words.split(",")] if words else [""]
    return {
        name: change
        for name, change in CHANGES.items()
        if any(word in name for word in wanted) and (database == "postgres" or not change.server)
    }


def show(report: TuningReport, console: Console) -> None:
    """Print all tables."""
    console.print(machine_line(report.machine), style="dim")
    for table in tables(report):
        console.print(table)


def tables(report: TuningReport) -> list[Table]:
    """One for each database, and one of bare INSERTs."""
    made = [_moved_table(database, moved) for database, moved in report.databases.items()]
    table = new_table("A bare INSERT into a SQLite file", "p50 ms", "p99 ms")
    for how, waits in report.synchronous.items():
        table.add_row(f"synchronous = {how}", f"{waits.p50_ms:.2f}", f"{waits.p99_ms:.2f}")
    return [*made, table]


def _moved_table(database: str, moved: Mapping[str, Moved]) -> Table:
    waiting = ("20 ms tasks a second", "by default")
    columns = ("no-op a second", "by default", "CPU by default", *waiting, "PSS MiB", "idle: CPU, trans./s", "p50 / p99 ms")
    table = new_table(f"{database}: what a setting moves", *columns)
    for name, one in moved.items():
        memory = f"{sum(one.drain.pss_kib.values()) / 1024:.0f}"
        busy = (whole(one.busy.per_second), fine(one.busy_rate))
        ours = (whole(one.drain.per_second), fine(one.rate), fine(one.cpu), *busy, memory, _idle(one.idle), _start(one.pickup))
        table.add_row(name, *ours)
    return table


def _idle(one: Idle | None) -> str:
    if one is None:
        return ""
    statements = "" if one.statements_per_second is None else f", {one.statements_per_second.median:.1f}"
    return f"{one.service_cpu_share.median:.2%}{statements}"


def _start(one: Latency | None) -> str:
    return "" if one is None else f"{one.p50_ms:.1f} / {one.p99_ms:.1f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tuning", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--only", metavar="WORD,…", help="settings whose names contain one of these words; all where not given")
    parser.add_argument("--database", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--tasks", type=int, default=20_000, help="no-op tasks in a drain")
    parser.add_argument("--busy", type=int, default=1_500, help="tasks of 20 ms in a drain")
    parser.add_argument("--runs", type=int, default=3, help="how often each is run, in turns with the default")
    parser.add_argument("--idle", type=float, default=10.0, metavar="SECONDS", help="how long an idle worker is watched")
    parser.add_argument("--pickups", type=int, default=100, help="single tasks for the latency, and bare INSERTs")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main(sys.argv[1:]))
