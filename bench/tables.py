"""The figures as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.latency import Wakeup
from bench.load import Drain
from bench.peers.compare import Peer
from bench.report import Figures, Report
from bench.stats import Latency, Spread

TARGET_IDLE_SHARE: Final = 0.01


def show(report: Report, console: Console) -> None:
    """Print one table for each kind of measurement."""
    console.print(machine_line(report.machine), style="dim")
    for table in tables(report):
        console.print(table)


def tables(report: Report) -> list[Table]:
    """Those that have something in them."""
    every = [*_tables(report.databases), *(_peer_tables(report.peers) if report.peers else ())]
    return [table for table in every if table.row_count]


def machine_line(machine: Mapping[str, str]) -> str:
    """What the figures depend on, in a line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def new_table(title: str, *columns: str) -> Table:
    """One whose first column has words, the others figures."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def whole(one: Spread) -> str:
    """`23,100 (21,300–23,800)`: median, lowest, highest."""
    return f"{one.median:,.0f} ({one.low:,.0f}–{one.high:,.0f})"


def fine(one: Spread) -> str:
    """The same with two decimals."""
    return f"{one.median:.2f} ({one.low:.2f}–{one.high:.2f})"


def _tables(databases: Mapping[str, Figures]) -> Iterable[Table]:
    yield _drain_table(databases)
    yield _busy_table(databases)
    yield _cpu_table(databases)
    yield _enqueue_table(databases)
    yield _feature_table(databases)
    yield _latency_table(databases)
    yield from _idle_tables(databases)


def _drain_table(databases: Mapping[str, Figures]) -> Table:
    table = new_table(
        "Drain: no-op tasks a second, from the first start to the last finish",
        "a second",
        "of the bare loop",
        "CPU µs a task",
        "of it server",
        "WAL bytes",
        "commits",
        "others, cores",
    )
    for database, figures in databases.items():
        if figures.drain is None:
            continue
        for name, drain in figures.drain.loads.items():
            share = fine(figures.drain.share_of_raw[name])
            table.add_row(f"{database}, {drain.tasks:,} {name}", whole(drain.per_second), share, *_costs(drain))
        for batch, per_second in figures.drain.raw.items():
            table.add_row(f"{database}, bare loop, batches of {batch}", whole(per_second))
        if figures.drain.default_of_tuned is not None:
            table.add_row(f"{database}, default by tuned", fine(figures.drain.default_of_tuned))
    return table


def _costs(drain: Drain) -> tuple[str, ...]:
    wal = "" if drain.wal_bytes_per_task is None else f"{drain.wal_bytes_per_task:,.0f}"
    commits = "" if drain.commits_per_task is None else f"{drain.commits_per_task:.4f}"
    return whole(drain.cpu_us), f"{drain.server_cpu_us.median:.0f}", wal, commits, f"{drain.others_cores.median:.1f}"


def _busy_table(databases: Mapping[str, Figures]) -> Table:
    table = new_table("Tasks that take time, a second", "a second", "of what the slots allow", "CPU µs a task", "PSS, MiB")
    for database, figures in databases.items():
        for name, drain in (figures.busy or {}).items():
            share = f"{drain.per_second.median / drain.ideal_per_second:.0%}"
            memory = f"{sum(drain.pss_kib.values()) / 1024:.0f}"
            table.add_row(f"{database}, {drain.tasks:,} of {name}", whole(drain.per_second), share, whole(drain.cpu_us), memory)
    return table


def _cpu_table(databases: Mapping[str, Figures]) -> Table:
    drains = {database: figures.drain.loads for database, figures in databases.items() if figures.drain}
    columns = [(f"{database} {name}", one.cpu_us_per_task) for database, loads in drains.items() for name, one in loads.items()]
    table = new_table("CPU of the drain: microseconds a task, by process", *(name for name, _ in columns))
    for role in dict.fromkeys(role for _, cpu in columns for role in cpu):
        table.add_row(role, *(f"{cpu[role]:.1f}" if role in cpu else "" for _, cpu in columns))
    if columns:
        table.add_row("all", *(f"{sum(cpu.values()):.1f}" for _, cpu in columns), style="bold")
    return table


def _enqueue_table(databases: Mapping[str, Figures]) -> Table:
    table = new_table("Enqueue", "p50", "p99", "bare p50", "bare p99", "rate by the bare one's")
    for database, figures in databases.items():
        one = figures.enqueue
        if one is None:
            continue
        for name, single in (("one, with commit", one.single), ("one, in the caller's transaction", one.in_transaction)):
            times = (single.ours.p50_ms, single.ours.p99_ms, single.bare.p50_ms, single.bare.p99_ms)
            table.add_row(f"{database}, {name}", *(f"{ms:.2f} ms" for ms in times), fine(single.rate))
        bulk = (whole(one.bulk), "", whole(one.bare_bulk), "", fine(one.bulk_rate))
        table.add_row(f"{database}, {one.bulk_tasks:,} in bulk, a second", *bulk)
    return table


def _feature_table(databases: Mapping[str, Figures]) -> Table:
    table = new_table("Features, by the plain run beside it", "drain, a second", "rate", "CPU", "bulk enqueue", "WAL bytes")
    for database, figures in databases.items():
        for name, one in (figures.features or {}).items():
            wal = "" if one.drain.wal_bytes_per_task is None else f"{one.drain.wal_bytes_per_task:,.0f}"
            ratios = (fine(one.rate), fine(one.cpu), fine(one.enqueue_rate))
            table.add_row(f"{database}, {name}", whole(one.drain.per_second), *ratios, wal)
    return table


def _latency_table(databases: Mapping[str, Figures]) -> Table:
    table = new_table("Latency, milliseconds", "p50", "p99", "max", "count")
    for database, figures in databases.items():
        if figures.latency is None:
            continue
        for one in figures.latency.wakeups:
            pace = f"{database}, one every {one.every_ms:g} ms{_load(one)}"
            table.add_row(f"{pace}: enqueue to start", *_milliseconds(one.start))
            table.add_row(f"{pace}: of which the enqueue call", *_milliseconds(one.commit))
            if one.bare_taking is not None:
                table.add_row(f"{pace}: bare INSERT and NOTIFY to DELETE and commit", *_milliseconds(one.bare_taking))
        if figures.latency.bare is not None:
            table.add_row(f"{database}, bare INSERT and NOTIFY to SELECT", *_milliseconds(figures.latency.bare))
        if figures.latency.p50_of_bare is not None and figures.latency.p99_of_bare is not None:
            ratios = (fine(figures.latency.p50_of_bare), fine(figures.latency.p99_of_bare))
            table.add_row(f"{database}, the fastest pace by the bare way", *ratios)
        if figures.latency.bare_taking is not None:
            table.add_row(f"{database}, bare INSERT and NOTIFY to DELETE and commit", *_milliseconds(figures.latency.bare_taking))
        if figures.latency.p50_of_bare_taking is not None and figures.latency.p99_of_bare_taking is not None:
            ratios = (fine(figures.latency.p50_of_bare_taking), fine(figures.latency.p99_of_bare_taking))
            table.add_row(f"{database}, the fastest pace by that", *ratios)
    return table


def _load(one: Wakeup) -> str:
    """What there was of what was wanted; in a result from before that was measured, what was wanted."""
    if one.loaded_per_second is None:
        return f" under {one.load_per_second:,.0f} a second" if one.load_per_second else ""
    lowered = f" ({one.wanted_per_second:,.0f} could not be had)" if one.wanted_per_second > one.load_per_second else ""
    return f" under {whole(one.loaded_per_second)} a second of {one.load_per_second:,.0f}{lowered}"


def _milliseconds(one: Latency) -> tuple[str, ...]:
    return f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.max_ms:.2f}", str(one.count)


def _idle_tables(databases: Mapping[str, Figures]) -> Iterable[Table]:
    for database, figures in databases.items():
        idle = figures.idle
        if idle is None:
            continue
        table = new_table(f"Idle on {database}, over {idle.seconds:.0f} s", "CPU, % of a core", "PSS, MiB")
        for role, share in idle.cpu_share.items():
            memory = f"{idle.pss_kib[role] / 1024:.1f}" if role in idle.pss_kib else ""
            table.add_row(role, f"{share:.2%}", memory)
        cpu = idle.service_cpu_share
        verdict = "met" if cpu.median < TARGET_IDLE_SHARE else "MISSED"
        total = f"{idle.service_pss_kib.median / 1024:.1f}"
        table.add_row("the service", f"{cpu.median:.2%} (< 1 % {verdict})", total, style="bold")
        if idle.bare_pss_kib is not None:
            table.add_row("as many bare interpreters", "", f"{idle.bare_pss_kib.median / 1024:.1f}")
        if idle.statements_per_second is not None:
            table.add_row("statements a second", fine(idle.statements_per_second), "")
        table.add_row("seconds from exec to ready", fine(idle.ready_s), "")
        table.add_row("seconds from SIGTERM to the end", fine(idle.stop_s), "")
        yield table


def _peer_tables(peers: Iterable[Peer]) -> Iterable[Table]:
    table = new_table(
        "Peers: no-op jobs a second, from the first start to the last commit",
        "jobs",
        "a second",
        "to the last run",
        "ours by theirs",
        "CPU µs: workers",
        "server",
        "enqueue, a second",
        "pick-up p50 / p99 ms",
    )
    for peer in sorted(peers, key=lambda one: -one.per_second.median if one.per_second else 0.0):
        name = f"{peer.name} {peer.version}, {peer.store}"
        if peer.per_second is None or peer.result is None:
            table.add_row(name, "", f"absent: {peer.absent}")
            continue
        one = peer.result
        pickup = "" if peer.pickup is None else f"{peer.pickup.p50_ms:.1f} / {peer.pickup.p99_ms:.1f}"
        table.add_row(
            name,
            f"{peer.jobs:,}",
            whole(peer.per_second),
            whole(one.ran_per_second),
            "" if peer.ours_by_theirs is None else fine(peer.ours_by_theirs),
            whole(one.worker_cpu_us),
            whole(one.server_cpu_us),
            whole(one.enqueued_per_second),
            pickup,
        )
    yield table
    setup = new_table("Peers: how each was set up, and why")
    setup.add_column("")
    for peer in peers:
        setup.add_row(peer.name, peer.configuration)
    yield setup
