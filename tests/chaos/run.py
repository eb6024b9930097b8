"""`python -m tests.chaos.run --database sqlite|postgres --faults N --tasks N`: the harness from the command line."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import injectors, schedule
from tests.chaos.round import Outcome
from tests.chaos.round import run as run_round


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when everything held."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the services end with us
    folder = Path(options.folder or tempfile.mkdtemp(prefix="sbchaos", dir="/tmp"))
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    print(f"seed {seed}, everything in {folder}", flush=True)
    if options.replay:
        plan = schedule.load(options.replay)
    else:
        facts = schedule.Facts(database=options.database)
        plan = schedule.draw(seed, facts, injectors.fitting(facts), options.faults, options.rate, options.at_least)
    outcome = run_round(plan, folder / f"round-{int(time.time())}", options.tasks)
    show(outcome)
    return 0 if outcome.good else 1


def show(outcome: Outcome) -> None:
    print(f"{outcome.tasks} tasks, {outcome.executions} executions, {outcome.seconds:.1f} s, drained in {outcome.drain_s:.1f} s")
    for kind, results in outcome.kinds.items():
        print(f"  {kind:24}", " ".join(f"{n} {result}" for result, n in results.items()))
    print("  exercised:", ", ".join(f"{pair}: {n}" for pair, n in sorted(outcome.exercised.items())))
    for name, sentences in outcome.violations.items():
        print(f"VIOLATED {name}: {len(sentences)}")
        for sentence in sentences[:20]:
            print("   ", sentence)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run")
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--tasks", type=int, default=25_000)
    parser.add_argument("--rate", type=float, default=6.0, help="faults a second")
    parser.add_argument("--at-least", type=int, default=schedule.MIN_PER_KIND)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--replay", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
