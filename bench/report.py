"""The figures as tables for people and as JSON for machines."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.drain import Drain
from bench.enqueue import Enqueue
from bench.idle import Idle
from bench.latency import Latencies
from bench.raw import Raw
from bench.stats import Latency, Spread

TARGET_PER_S: Final = {"sqlite": 15_000, "postgres": 8_000}
TARGET_IDLE_SHARE: Final = 0.01


class Figures(msgspec.Struct, kw_only=True):
    """What was measured on one database; `None` where it was not asked for."""

    enqueue: Enqueue | None = None
    raw: Raw | None = None
    drain: dict[str, Drain] | None = None
    latency: Latencies | None = None
    idle: Idle | None = None


class Report(msgspec.Struct, kw_only=True):
    """One run of the bench."""

    started_at: datetime
    machine: dict[str, str]
    quick: bool
    databases: dict[str, Figures]


def describe_machine() -> dict[str, str]:
    """What the figures depend on."""
    cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "cpu": cpu,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "shiftboss": version("shiftboss"),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def write_json(report: Report, folder: Path) -> Path:
    """Write the whole report to a file named after its start."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.started_at.astimezone(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return path


def show(report: Report, console: Console) -> None:
    """Print one table for each kind of measurement."""
    console.print(", ".join(f"{name} {value}" for name, value in report.machine.items()), style="dim")
    for table in _tables(report.databases):
        if table.row_count:
            console.print(table)


def _tables(databases: dict[str, Figures]) -> Iterable[Table]:
    yield _drain_table(databases)
    yield _cpu_table(databases)
    yield _enqueue_table(databases)
    yield _latency_table(databases)
    yield from _idle_tables(databases)


def _drain_table(databases: dict[str, Figures]) -> Table:
    table = _table(
        "Drain: no-op tasks a second, from the first start to the last commit", "median", "low", "high", "target", "others"
    )
    for database, figures in databases.items():
        for kind, drain in (figures.drain or {}).items():
            one, target = drain.per_second, TARGET_PER_S[database]
            verdict = f"> {target:,} {'met' if one.median > target else 'MISSED'}"
            others = f"{drain.others_cores.median:.1f} cores"
            table.add_row(f"{database}, {drain.tasks:,} {kind}", *_whole(one), verdict, others)
        for batch, per_second in (figures.raw.per_second if figures.raw else {}).items():
            table.add_row(f"{database}, bare loop of claim and finish, batch {batch}", f"{per_second:,.0f}")
    return table


def _whole(one: Spread) -> tuple[str, ...]:
    return tuple(f"{number:,.0f}" for number in (one.median, one.low, one.high))


def _cpu_table(databases: dict[str, Figures]) -> Table:
    columns = [(f"{db} {kind}", drain.cpu_us_per_task) for db, f in databases.items() for kind, drain in (f.drain or {}).items()]
    table = _table("CPU of the drain: microseconds a task, by process", *(name for name, _ in columns))
    for role in dict.fromkeys(role for _, cpu in columns for role in cpu):
        table.add_row(role, *(f"{cpu[role]:.1f}" if role in cpu else "" for _, cpu in columns))
    if columns:
        table.add_row("all", *(f"{sum(cpu.values()):.1f}" for _, cpu in columns), style="bold")
    return table


def _enqueue_table(databases: dict[str, Figures]) -> Table:
    table = _table("Enqueue", "Shiftboss", "bare statement", "ratio")
    for database, figures in databases.items():
        one = figures.enqueue
        if one is None:
            continue
        for name, field in (("p50", "p50_ms"), ("p99", "p99_ms")):
            ours, bare = getattr(one.single, field), getattr(one.bare_single, field)
            table.add_row(f"{database}, single with commit, {name}", f"{ours:.2f} ms", f"{bare:.2f} ms", f"{ours / bare:.2f}")
        ours, bare = one.bulk_per_second, one.bare_bulk_per_second
        table.add_row(f"{database}, {one.bulk_tasks:,} in bulk", f"{ours:,.0f}/s", f"{bare:,.0f}/s", f"{ours / bare:.2f}")
    return table


def _latency_table(databases: dict[str, Figures]) -> Table:
    table = _table("Latency on an idle worker, milliseconds", "p50", "p99", "max", "count")
    for database, figures in databases.items():
        if figures.latency is None:
            continue
        for one in figures.latency.wakeups:
            pace = f"{database}, one every {one.every_ms:g} ms"
            table.add_row(f"{pace}: enqueue to start", *_milliseconds(one.start))
            table.add_row(f"{pace}: of which the enqueue call", *_milliseconds(one.commit))
        if figures.latency.bare is not None:
            table.add_row(f"{database}, bare INSERT and NOTIFY to SELECT", *_milliseconds(figures.latency.bare))
    return table


def _milliseconds(one: Latency) -> tuple[str, ...]:
    return f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.max_ms:.2f}", str(one.count)


def _idle_tables(databases: dict[str, Figures]) -> Iterable[Table]:
    for database, figures in databases.items():
        idle = figures.idle
        if idle is None:
            continue
        table = _table(f"Idle on {database}, over {idle.seconds:.0f} s", "CPU, % of a core", "PSS, MiB")
        for role, share in idle.cpu_share.items():
            memory = f"{idle.pss_kib[role] / 1024:.1f}" if role in idle.pss_kib else ""
            table.add_row(role, f"{share:.2%}", memory)
        verdict = "met" if idle.service_cpu_share < TARGET_IDLE_SHARE else "MISSED"
        total = f"{sum(idle.pss_kib.values()) / 1024:.1f}"
        table.add_row("the service", f"{idle.service_cpu_share:.2%} (< 1 % {verdict})", total, style="bold")
        if idle.transactions_per_second is not None:
            table.add_row("transactions a second", f"{idle.transactions_per_second:.1f}", "")
        yield table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
