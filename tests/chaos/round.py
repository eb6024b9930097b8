"""One round: a fresh world, its faults, its end, and the questions."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.chaos import injectors, invariants, ledger, leftovers, logs, recovery, rows
from tests.chaos.conduct import Conductor, Report, Result
from tests.chaos.invariants import Evidence
from tests.chaos.logs import LogLine
from tests.chaos.producer import BATCHES
from tests.chaos.schedule import Schedule
from tests.chaos.world import SETTINGS, World

STUCK_AFTER_S: Final = 5.0  # beyond lease and polls, on a busy machine
DRAIN_LIMIT_S: Final = 300.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a round came to.

    Attributes:
        violations: check -> sentences; only those that found something.
        recovery: what came back -> seconds, each time.
        kinds: kind -> result -> how often.
        exercised: transition or verdict -> how often.
        phases: part of the round -> seconds.
    """

    seed: int
    database: str
    tasks: int
    unknown: int
    executions: int
    seconds: float
    phases: dict[str, float]
    violations: dict[str, list[str]]
    recovery: dict[str, list[float]]
    kinds: dict[str, dict[str, int]]
    exercised: dict[str, int]

    @property
    def good(self) -> bool:
        return not self.violations


class Phases:
    """How long each part of a round took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began_s = time.monotonic()

    def over(self, name: str) -> None:
        now_s = time.monotonic()
        self.seconds[name], self._began_s = now_s - self._began_s, now_s


def run(schedule: Schedule, folder: Path, tasks: int, batches: Sequence[int] = BATCHES) -> Outcome:
    """Carry out this schedule in `folder`, which must not exist; everything that it leaves stays there."""
    phases = Phases()
    with World(schedule.facts, folder, tasks=tasks, seed=schedule.seed, batches=batches) as world:
        schedule.save(folder / "schedule.json")
        phases.over("boot")
        world.producer.start(schedule.duration_s, trickle=True)
        reports = Conductor(world, injectors.ALL).run(schedule)
        phases.over("faults")
        world.settle()
        phases.over("settle")
        _await_producer(world)
        phases.over("producer")
        drain(world)
        phases.over("drain")
        world.stop_services()
        phases.over("stop")
        lines = [list(logs.read(file)) for service in world.services.values() for file in service.logs]
        evidence = collect(world, lines)
        found = invariants.check(evidence)
        found["as it ran"] = world.findings
        found["I11 no leftovers"] += leftovers.of_world(world)
        found["secrets"] = _leaks(world)
        phases.over("questions")
    found["harness"] = [
        f"fault {one.fault.number} {one.fault.kind}: {one.text}" for one in reports if one.result is Result.BROKEN
    ]
    (folder / "faults.json").write_bytes(msgspec.json.format(msgspec.json.encode(reports), indent=1))
    return Outcome(
        seed=schedule.seed,
        database=schedule.facts.database,
        tasks=len(evidence.ledger.acknowledged),
        unknown=world.producer.unknown,
        executions=len(evidence.ledger.starts),
        seconds=sum(phases.seconds.values()),
        phases=phases.seconds,
        violations={name: sentences for name, sentences in found.items() if sentences},
        recovery=recovery.measure(world.marks, evidence, lines),
        kinds=_by_kind(reports),
        exercised=dict(invariants.exercised(evidence)),
    )


def failed(schedule: Schedule, why: str) -> Outcome:
    """A round that the harness itself could not bring to its end."""
    return Outcome(
        seed=schedule.seed,
        database=schedule.facts.database,
        tasks=0,
        unknown=0,
        executions=0,
        seconds=0.0,
        phases={},
        violations={"harness": [why]},
        recovery={},
        kinds={},
        exercised={},
    )


def _await_producer(world: World) -> None:
    """An application that cannot enqueue is a broken promise like any other: the rest is still looked at."""
    try:
        world.producer.join(DRAIN_LIMIT_S)
    except AssertionError as error:
        world.find(str(error))


def drain(world: World) -> None:
    """Until every task has ended and nobody is known but who lives, or until nothing has moved for longer than it may."""
    began_s = moved_s = time.monotonic()
    limit_s = world.facts.lease_s + 2 * SETTINGS["claim_interval_s"] + STUCK_AFTER_S
    left, pause = _left(world), threading.Event()
    while left and time.monotonic() - moved_s < limit_s and time.monotonic() - began_s < DRAIN_LIMIT_S:
        pause.wait(0.1)
        now_left = _left(world)
        if now_left < left:
            left, moved_s = now_left, time.monotonic()


def _left(world: World) -> int:
    """Tasks that still have to end, and workers that the leader still has to declare dead."""
    return rows.unfinished(world.direct_url) + max(0, rows.workers(world.direct_url) - len(world.services))


def collect(world: World, logs_: Iterable[Sequence[LogLine]]) -> Evidence:
    """Everything that the round has left behind."""
    verdicts, terms = [], []
    for log in logs_:
        some, elections = invariants.verdicts_of(log)
        verdicts += some
        terms += elections
    return Evidence(rows=rows.read(world.direct_url), ledger=ledger.read(world.ledger_folder), verdicts=verdicts, terms=terms)


def _leaks(world: World) -> list[str]:
    canary = world.canary.encode()
    files = [file for service in world.services.values() for file in service.logs]
    return [f"the database's password stands in {file}" for file in files if canary in file.read_bytes()]


def _by_kind(reports: list[Report]) -> dict[str, dict[str, int]]:
    counts = Counter((one.fault.kind, one.result.value) for one in reports)
    kinds: dict[str, dict[str, int]] = {}
    for (kind, result), n in sorted(counts.items()):
        kinds.setdefault(kind, {})[result] = n
    return kinds
