"""`python -m tests.chaos.power`: 10,000 power cuts; exit code 0 when nothing acknowledged was lost and nothing was corrupt."""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.power.check import Verdicts
from tests.chaos.power.run import Tally, run, save


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    print(f"seed {seed}, SQLite {sqlite3.sqlite_version}, synchronous={options.synchronous}", flush=True)
    began_s = time.monotonic()
    tally = run(seed, options.cuts, options.jobs, options.synchronous)
    _show(tally, time.monotonic() - began_s)
    if tally.bad:
        folder = Path(tempfile.mkdtemp(prefix="powercuts"))
        for number, cut in enumerate(tally.bad):
            save(cut, folder / str(number))
        print(f"what was on the disk: {folder}")
    return 0 if tally.good else 1


def _show(tally: Tally, seconds: float) -> None:
    print(f"{tally.cuts} cuts in {seconds:.1f} s, in {tally.operations} writes and {tally.syncs} syncs of", end=" ")
    print(", ".join(f"{n} {name}" for name, n in tally.steps.most_common()))
    for verdict in Verdicts:
        print(f"  {verdict:32}{tally.verdicts[verdict]:7}")
    if tally.incomplete:
        print(f"  {tally.incomplete} records are incomplete: SQLite wrote in a way that was not seen")
    for cut in tally.bad:
        print(f"BAD cut {cut.seed} after {cut.at} operations: {cut.verdict}: {cut.text[:300]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.power")
    parser.add_argument("--cuts", type=int, default=10_000)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--synchronous", choices=["FULL", "NORMAL", "OFF"], default="FULL", help="less than FULL must fail")
    return parser


if __name__ == "__main__":
    sys.exit(main())
