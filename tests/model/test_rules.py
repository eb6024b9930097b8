"""Both stores do what the oracle says, whatever Hypothesis lets happen; and all that can happen has happened.

Everyday: a few runs with a fixed seed. With SHIFTBOSS_MODEL=long: 2,000 runs of 50 steps on each database with a seed of the
moment, which is printed; SHIFTBOSS_SEED repeats one.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from shiftboss.model import TASK_TRANSITIONS, Outcome, TaskState, Verdict
from tests.conftest import as_owner
from tests.model.machine import Rules
from tests.model.world import World, opened

MODE = os.environ.get("SHIFTBOSS_MODEL", "everyday")
LONG = MODE == "long"
RUNS = int(os.environ.get("SHIFTBOSS_RUNS", {"long": "2000", "mutant": "200"}.get(MODE, "30")))
STEPS = 50
SEED = int(os.environ.get("SHIFTBOSS_SEED", str(time.time_ns() // 10**9) if LONG else "1"))

STATES = tuple(TaskState)
VERDICTS = (Verdict.APPLIED, Verdict.ALREADY_APPLIED, Verdict.FENCED)
LOCKED = {("locked", success) for success in (True, False)}  # PostgreSQL only
LEASED = (TaskState.CLAIMED, TaskState.RUNNING)
# All that has to be seen at least once: every transition, every outcome with every verdict, every verdict in every state.
WANTED: set[tuple[object, ...]] = {
    *((state, event, target) for (state, event), targets in TASK_TRANSITIONS.items() for target in targets),
    *((outcome, verdict) for outcome in Outcome if outcome is not Outcome.LOST for verdict in VERDICTS),
    *(("row was", state, verdict) for state in STATES for verdict in (Verdict.ALREADY_APPLIED, Verdict.FENCED)),
    *(("row was", state, Verdict.APPLIED) for state in LEASED),
    *(("row was", None, verdict) for verdict in (Verdict.ALREADY_APPLIED, Verdict.FENCED)),  # completed without a history
    *(("leads", leads) for leads in (True, False)),
    *(("poisoned", poisoned) for poisoned in (True, False)),
}


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    if request.param == "postgres":
        # One connection is worker, leader, producer and operator; and what a crash keeps is not asked here.
        url = as_owner(str(request.getfixturevalue("pg_database"))) + "&options=-csynchronous_commit%3Doff"
    log = logging.getLogger("shiftboss")
    level = log.level
    log.setLevel(logging.CRITICAL)  # thousands of rows that cannot be stored are worth no word
    with opened(request.param, url) as made:
        yield made
    log.setLevel(level)


@pytest.mark.timeout(3600)
def test_a_store_does_what_the_oracle_says_whatever_happens(world: World) -> None:
    seen: Counter[tuple[object, ...]] = Counter()
    machine = hypothesis.seed(SEED)(type("Machine", (Rules,), {"world": world, "seen": seen}))
    profile = settings(
        max_examples=RUNS,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=False,
        phases=(Phase.generate,) if MODE == "mutant" else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    print(f"{world.backend}: seed {SEED}, {RUNS} runs of {STEPS} steps")
    run_state_machine_as_test(machine, settings=profile)
    wanted = WANTED | (LOCKED if world.backend == "postgres" else set())
    missing = sorted((want for want in wanted if not seen[want]), key=str)
    print(f"{sum(seen.values()):,} events, {len(wanted) - len(missing)} of {len(wanted)} kinds; not seen: {missing}")
    if LONG:
        assert not missing, "the machine does not get everywhere"
