"""`python -m tests.chaos.run --database sqlite|postgres --faults N --tasks N`: rounds of faults until there were enough.

Every round has a database, services and a ledger of its own. `--resume FILE` keeps the totals, so that the same command goes on
where it was broken off. A round in which something broke keeps everything, and its `schedule.json` can be replayed; it
is the last one unless `--go-on` says otherwise. `--recovery` measures instead how soon things work again.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.chaos import injectors, machine, schedule, slowly, totals
from tests.chaos.injectors import Injector
from tests.chaos.producer import BATCHES, ONE_BY_ONE
from tests.chaos.round import Outcome, failed
from tests.chaos.round import run as run_round
from tests.chaos.schedule import Facts, Fault, Schedule
from tests.chaos.totals import Totals

SHOWN: Final = 20
SPARE: Final = 1.04  # some faults never find a target
DURING_OUTAGE: Final = frozenset({f"{how}:{role}" for how in ("kill", "freeze") for role in ("executor", "claimer", "leader")})
MAKE_UP_ROUNDS: Final = 4  # on a slow machine a kind may still find no target
BRING_ABOUT: Final = ("suspend:zombie", "suspend:service")  # what mostly makes the outcomes that are seldom seen
MAKE_UP_TASKS: Final = 1_000
MAKE_UP_PER_S: Final = 0.7
NOT_ENOUGH: Final = 3  # exit code: all held, but kinds or outcomes are missing, the time was over, or something was slow


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: there were enough faults and tasks, and everything held."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the services end with us
    folder = Path(options.folder or tempfile.mkdtemp(prefix="sbchaos", dir="/tmp")).absolute()
    sums = _totals(options)
    print(f"seed {sums.seed}, {options.database}, everything in {folder}", flush=True)
    sums.begin(machine.describe(options.database), machine.commit(), machine.command())
    load = machine.Load()
    if options.replay:
        sums.outcomes.append(_round(schedule.load(options.replay), folder, options.tasks, options.keep))
    elif options.recovery:
        plan = slowly.draw(sums.next_seed, options.database)
        print(f"{len(plan.faults)} faults in {plan.duration_s:.0f} s", flush=True)
        sums.outcomes.append(_round(plan, folder, slowly.tasks(plan), options.keep, ONE_BY_ONE))
    elif options.outage:
        sums.outcomes.append(_round(_outage(sums.seed, options.outage), folder, options.tasks, options.keep))
    else:
        _rounds(options, sums, folder)
    sums.busy.append(str(load))
    if options.resume:
        sums.save(options.resume)
    return _judge(options, sums)


def _totals(options: argparse.Namespace) -> Totals:
    if options.resume and options.resume.exists():
        sums = totals.load(options.resume)
        if sums.database != options.database:
            raise SystemExit(f"{options.resume} is of {sums.database}; name another file for {options.database}")
        return sums
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    return Totals(seed=seed, database=options.database)


def _rounds(options: argparse.Namespace, sums: Totals, folder: Path) -> None:
    give_up_s = time.monotonic() + options.minutes * 60.0
    if sums.violations() and not options.go_on:
        return
    while (sums.faults < options.faults or sums.tasks < options.tasks) and time.monotonic() < give_up_s:
        faults = min(int(options.round * SPARE), int((options.faults - sums.faults) * SPARE) + 1)
        share = min(1.0, options.round / options.faults)
        tasks = max(1_000, min(int(options.tasks * share), options.tasks - sums.tasks))
        if not _add(options, sums, _draw(options, sums.next_seed, faults), folder, tasks):
            return
    for _ in range(MAKE_UP_ROUNDS):
        rare = totals.rare(sums, options.at_least)
        if any(totals.unseen(sums)):
            rare = {**rare, **dict.fromkeys(BRING_ABOUT, 0)}
        if not rare or options.only or time.monotonic() > give_up_s:
            return
        if not _add(options, sums, _make_up(options, sums.next_seed, rare), folder, MAKE_UP_TASKS):
            return


def _add(options: argparse.Namespace, sums: Totals, plan: Schedule, folder: Path, tasks: int) -> bool:
    """One round more; False: something was violated."""
    sums.outcomes.append(_round(plan, folder, tasks, options.keep))
    if options.resume:
        sums.save(options.resume)
    so_far = f"{sums.faults} of {options.faults} faults, {sums.tasks} of {options.tasks} tasks"
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sums.outcomes[-1].phases.items())
    print(f"{so_far}, {sums.seconds:.0f} s (this round: {phases})", flush=True)
    return options.go_on or not sums.violations()


def _make_up(options: argparse.Namespace, seed: int, rare: Mapping[str, int]) -> Schedule:
    """A short round of those kinds that had no target often enough."""
    facts = Facts(database=options.database)
    some = [one for one in injectors.fitting(facts) if one.kind in rare]
    return schedule.draw(seed, facts, some, 0, MAKE_UP_PER_S, options.at_least - min(rare.values()))


def _draw(options: argparse.Namespace, seed: int, faults: int) -> Schedule:
    facts = Facts(database=options.database)
    return schedule.draw(seed, facts, _chosen(options, facts), faults, options.rate, options.at_least)


def _outage(seed: int, down_s: float) -> Schedule:
    """PostgreSQL is away for minutes, and actors are killed and frozen meanwhile, now and then."""
    facts, every_s = Facts(database="postgres"), 6.0
    some = [one for one in injectors.fitting(facts) if one.kind in DURING_OUTAGE]
    plan = schedule.draw(seed, facts, some, int(down_s / every_s), 1 / every_s, at_least=1)
    away = Fault(number=len(plan.faults) + 1, kind="pg:away", at_s=3.0, params={"down_s": down_s})
    return Schedule(seed=seed, facts=facts, faults=sorted([away, *plan.faults], key=lambda fault: fault.at_s))


def _chosen(options: argparse.Namespace, facts: Facts) -> Sequence[Injector]:
    fitting = injectors.fitting(facts)
    if not options.only:
        return fitting
    unknown = set(options.only) - {one.kind for one in fitting}
    if unknown:
        raise SystemExit(f"no such kind on {facts.database}: {', '.join(sorted(unknown))}")
    return [one for one in fitting if one.kind in options.only]


def _round(plan: Schedule, folder: Path, tasks: int, keep: bool, batches: Sequence[int] = BATCHES) -> Outcome:
    place = folder / f"seed-{plan.seed}"
    for again in itertools.count(2):
        if not place.exists():
            break
        place = folder / f"seed-{plan.seed}.{again}"  # what was broken off, or is replayed, stays
    try:
        outcome = run_round(plan, place, tasks, batches)
    except Exception:  # noqa: BLE001  the harness's own failure is evidence like any other
        outcome = failed(plan, traceback.format_exc())
    if outcome.good and not keep:
        shutil.rmtree(place, ignore_errors=True)
    return outcome


def _judge(options: argparse.Namespace, sums: Totals) -> int:
    text = "\n".join(totals.table(sums))
    print(text)
    if options.report:
        options.report.write_text(text + "\n")
    violations = sums.violations()
    for sentence in violations[:SHOWN]:
        print("VIOLATED", sentence)
    if violations:
        print(f"{len(violations)} violations; seed {sums.next_seed - 1}; replay its schedule.json with --replay")
        return 1
    if options.recovery:
        slow = list(totals.too_slow(sums))
        for sentence in slow:
            print("TOO SLOW", sentence)
        return NOT_ENOUGH if slow else 0
    special = options.replay or options.outage
    absent = [] if special or options.only else list(totals.missing(sums, options.at_least))
    for sentence in absent:
        print("MISSING", sentence)
    enough = special or (sums.faults >= options.faults and sums.tasks >= options.tasks)
    return 0 if enough and not absent else NOT_ENOUGH


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seed", type=int, help="of the first round; default: any, and printed")
    parser.add_argument("--faults", type=int, default=500, help="how many have to be carried out")
    parser.add_argument("--tasks", type=int, default=25_000, help="how many have to be acknowledged")
    parser.add_argument("--round", type=int, default=500, help="faults in a round, each on a fresh database")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no round after so many")
    parser.add_argument("--rate", type=float, default=6.0, help="faults a second")
    parser.add_argument("--at-least", type=int, default=schedule.MIN_PER_KIND, help="of each kind, in each round")
    parser.add_argument("--only", type=lambda text: text.split(","), help="these kinds, separated by commas")
    parser.add_argument("--resume", type=Path, metavar="STATE.json", help="go on with, and keep, these totals")
    parser.add_argument("--replay", type=Path, metavar="schedule.json", help="one round by a schedule that was saved")
    parser.add_argument("--outage", type=float, metavar="SECONDS", help="instead: one round with PostgreSQL away for so long")
    parser.add_argument("--recovery", action="store_true", help="instead: one slow round whose times are held against limits")
    parser.add_argument("--go-on", action="store_true", help="begin another round also after a violation")
    parser.add_argument("--report", type=Path, metavar="FILE.md")
    parser.add_argument("--folder", type=Path, help="where the rounds live; default: a new one under /tmp")
    parser.add_argument("--keep", action="store_true", help="keep the folders of good rounds, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
