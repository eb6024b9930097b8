"""A retirement, decided without a process."""

from __future__ import annotations

from itertools import product

import pytest
from msgspec.structs import replace

from shiftboss.actors.retire_plan import SUCCESSORS_S, Retirement, RetireStep

PLAN = Retirement.start(100.0, drain_s=30.0, grace_s=5.0)
BEGUN = replace(PLAN, begun=True)


def step(plan: Retirement, now_s: float, **seen: bool) -> RetireStep:
    return plan.step(now_s, **({"relieved": True, "silent": False, "held": False, "storing": False} | seen))


def test_it_begins_when_successors_are_there_or_have_taken_too_long() -> None:
    assert step(PLAN, 100.0) is RetireStep.BEGIN
    assert step(PLAN, 100.0, relieved=False) is RetireStep.WAIT
    assert step(PLAN, 100.0 + SUCCESSORS_S, relieved=False) is RetireStep.BEGIN


def test_without_time_to_drain_it_waits_for_no_successor() -> None:
    assert step(Retirement.start(100.0, 0.0, 5.0), 100.0, relieved=False) is RetireStep.BEGIN


def test_the_steps_of_one_whose_attempts_obey_nothing() -> None:
    plan, steps = PLAN, []
    for now_s in (100.0, 100.1, 129.9, 130.0, 130.1, 134.9, 135.0):
        steps.append(step(plan, now_s, held=True))
        plan = replace(plan, begun=True, cancelled=plan.cancelled or steps[-1] is RetireStep.CANCEL)
    wait = RetireStep.WAIT
    assert steps == [RetireStep.BEGIN, wait, wait, RetireStep.CANCEL, wait, wait, RetireStep.HAND_BACK]


def test_it_is_released_only_when_nothing_of_it_is_held_or_waits_to_be_stored() -> None:
    for held, storing in product((False, True), repeat=2):
        for now_s in (100.0, 131.0, 1_000.0):
            released = step(replace(BEGUN, cancelled=True), now_s, held=held, storing=storing) is RetireStep.RELEASE
            assert released == (not held and not storing)


def test_one_that_never_says_what_it_holds_is_released_when_its_time_is_over() -> None:
    assert step(BEGUN, 134.9, silent=True) is RetireStep.WAIT
    assert step(BEGUN, 135.0, silent=True) is RetireStep.RELEASE


def test_it_is_released_once_and_again_when_asked_again() -> None:
    released = replace(BEGUN, released=True)
    assert step(released, 200.0) is RetireStep.WAIT
    assert step(released.hurried(110.0, 0.0, 0.0), 110.0) is RetireStep.RELEASE


@pytest.mark.parametrize(("drain_s", "expected"), [(0.0, (110.0, 112.0)), (60.0, (130.0, 132.0))])
def test_asked_again_deadlines_come_nearer_never_farther(drain_s: float, expected: tuple[float, float]) -> None:
    plan = PLAN.hurried(110.0, drain_s, grace_s=2.0)
    assert (plan.drain_until_s, plan.gone_at_s) == expected
