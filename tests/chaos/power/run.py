"""Rounds of recording and cutting: each round goes on from what an earlier cut has left."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from tests.chaos.power.check import Cut, Verdicts, complete, cuts
from tests.chaos.power.disk import Image
from tests.chaos.power.work import FILE, checkpoint_often, record, synchronous

STEPS: Final = 120
CUTS_A_ROUND: Final = 250
ROUNDS_A_CHAIN: Final = 4
KEPT_EXAMPLES: Final = 5
_MEMORY: Final = Path("/dev/shm")


@dataclass(slots=True)
class Tally:
    """What came out of some rounds.

    Attributes:
        bad: the first cuts that broke a promise, with what was on the disk.
        incomplete: rounds whose record, played back, did not give the files: nothing they say can be trusted.
    """

    verdicts: Counter[Verdicts] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    syncs: int = 0
    incomplete: int = 0
    bad: list[Cut] = field(default_factory=list)

    @property
    def cuts(self) -> int:
        return sum(self.verdicts.values())

    @property
    def good(self) -> bool:
        return self.cuts == self.verdicts[Verdicts.GOOD] and not self.incomplete

    def add(self, other: Tally) -> None:
        self.verdicts += other.verdicts
        self.steps += other.steps
        self.operations += other.operations
        self.syncs += other.syncs
        self.incomplete += other.incomplete
        self.bad = [*self.bad, *other.bad][:KEPT_EXAMPLES]


def chain(seed: str, cuts_wanted: int, level: str = "FULL") -> Tally:
    """Rounds on one database that is cut again and again; changes this process's store, so run it in one of its own."""
    checkpoint_often()
    synchronous(level)
    tally, image = Tally(), Image()
    rounds = -(-cuts_wanted // CUTS_A_ROUND)
    for number in range(rounds):
        count = min(CUTS_A_ROUND, cuts_wanted - number * CUTS_A_ROUND)
        image = _round(tally, f"{seed} {number}", count, image, number)
    return tally


def _round(tally: Tally, seed: str, count: int, image: Image, number: int) -> Image:
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None, prefix="power") as name:
        work_folder, cut_folder = Path(name, "work"), Path(name, "cut")
        work_folder.mkdir()
        cut_folder.mkdir()
        recording = record(work_folder, image, seed, STEPS, number)
        tally.incomplete += not complete(recording)
        tally.operations += len(recording.operations)
        tally.syncs += sum(type(one).__name__ == "Sync" for one in recording.operations)
        tally.steps.update(step.name for step in recording.steps)
        left: list[Image] = []
        for cut in cuts(recording, cut_folder, seed, count):
            tally.verdicts[cut.verdict] += 1
            if cut.verdict is not Verdicts.GOOD:
                tally.bad = [*tally.bad, cut][:KEPT_EXAMPLES]
            elif len(left) < KEPT_EXAMPLES and cut.at > len(recording.operations) // 2:
                left.append(cut.image)
    return random.Random(seed).choice(left) if left else {}


def run(seed: int, count: int, jobs: int, level: str, each_s: float = 10.0) -> Tally:
    """So many cuts in `jobs` processes; says how far it is every `each_s` seconds."""
    size = ROUNDS_A_CHAIN * CUTS_A_ROUND
    sizes = [min(size, count - start) for start in range(0, count, size)]
    tally, said_s = Tally(), time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(chain, f"{seed} {number}", some, level) for number, some in enumerate(sizes)]
        for future in as_completed(futures):
            tally.add(future.result())
            if time.monotonic() - said_s > each_s:
                said_s = time.monotonic()
                print(f"{tally.cuts} of {count} cuts", flush=True)
    return tally


def save(cut: Cut, folder: Path) -> None:
    """What was on the disk after this cut, to be looked at."""
    folder.mkdir(parents=True)
    for name, content in cut.image.items():
        (folder / name).write_bytes(content)
    (folder / "why.txt").write_text(f"{FILE} cut {cut.seed} after {cut.at} operations: {cut.verdict}: {cut.text}\n")
