"""`python -m bench.peers`: only the comparison with other queues."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench.peers import compare
from bench.peers.install import default_cache
from bench.peers.known import OURS, PEERS, Known
from bench.report import Report, describe_machine, write_json
from bench.tables import show


def main(arguments: Sequence[str]) -> int:
    """Exit 0 also when some are absent: that is told in the table."""
    options = _parser().parse_args(arguments)
    report = Report(started_at=datetime.now(UTC), machine=describe_machine(), quick=False, databases={})
    report.peers = compare.measure(
        chosen(options.only), options.jobs, options.runs, options.pickups, options.cache, options.longest
    )
    console = Console(width=None if sys.stdout.isatty() else 160)
    show(report, console)
    console.print(f"written to {write_json(report, report.started_at, options.output, 'peers')}")
    return 0


def chosen(names: str | None) -> list[Known]:
    """Ours, and those whose names contain one of these words; all for `None`."""
    words = [word.strip().lower() for word in names.split(",")] if names else [""]
    return [*OURS, *(known for known in PEERS if any(word in known.name.lower() for word in words))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--only", metavar="NAME,…", help="ours and these: " + ", ".join(known.name for known in PEERS))
    parser.add_argument(
        "--jobs",
        type=int,
        default=20_000,
        help="how many no-op jobs; fast ones get five times as many, slow ones a quarter; 20,000",
    )
    parser.add_argument("--runs", type=int, default=3, help="how often each is run, all in turns; 3")
    parser.add_argument("--pickups", type=int, default=60, help="how many jobs for the pick-up latency; 0: not measured; 60")
    parser.add_argument("--longest", type=float, default=300.0, metavar="SECONDS", help="a run that takes longer has failed; 300")
    add_cache(parser)
    parser.add_argument("--output", type=Path, default=Path("bench/results"), metavar="FOLDER", help="of the JSON; bench/results")
    return parser


def add_cache(parser: argparse.ArgumentParser) -> None:
    """The option that says where other queues are installed."""
    said = f"where other queues are installed, each by itself; {default_cache()}"
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER", help=said)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unwinds, so that every block stops what it has started
    sys.exit(main(sys.argv[1:]))
