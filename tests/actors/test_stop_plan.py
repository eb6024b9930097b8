"""The stop, decided without a process."""

from __future__ import annotations

from itertools import product

import pytest

from shiftboss.actors.stop_plan import HELLO_S, LAST_TRY_S, StopPlan, StopStep

PLAN = StopPlan.begin(100.0, drain_s=30.0, grace_s=5.0)


def test_nothing_left_ends_it_at_any_time() -> None:
    for now_s in (100.0, 129.0, 131.0, 136.0, 1_000.0):
        assert PLAN.step(now_s, held=False, owes=False, silent=False) is StopStep.END


def test_executors_that_have_not_spoken_are_waited_for_but_not_for_ever() -> None:
    assert PLAN.step(100.0, held=False, owes=False, silent=True) is StopStep.WAIT
    assert PLAN.step(100.0 + HELLO_S, held=False, owes=False, silent=True) is StopStep.END


def test_the_steps_of_a_stop_that_nobody_obeys() -> None:
    plan, steps = PLAN, []
    for now_s in (100.0, 129.9, 130.0, 130.1, 134.9, 135.0):
        step = plan.step(now_s, held=True, owes=False, silent=False)
        steps.append(step)
        if step is StopStep.CANCEL:
            plan = StopPlan(plan.drain_until_s, plan.gone_at_s, plan.hello_until_s, cancelled=True)
    wait = StopStep.WAIT
    assert steps == [wait, wait, StopStep.CANCEL, wait, wait, StopStep.HAND_BACK]


def test_outcomes_that_cannot_be_stored_hold_it_up_for_a_known_time_only() -> None:
    assert PLAN.step(135.0, held=False, owes=True, silent=False) is StopStep.WAIT
    assert PLAN.step(135.0 + LAST_TRY_S, held=False, owes=True, silent=False) is StopStep.END


def test_nothing_is_ended_that_was_not_handed_back() -> None:
    for now_s, owes, silent in product((100.0, 130.0, 135.0, 1_000.0), (False, True), (False, True)):
        assert PLAN.step(now_s, held=True, owes=owes, silent=silent) is not StopStep.END


@pytest.mark.parametrize(("drain_s", "expected"), [(0.0, (110.0, 112.0)), (60.0, (130.0, 132.0))])
def test_another_stop_brings_the_deadlines_nearer_never_farther(drain_s: float, expected: tuple[float, float]) -> None:
    plan = PLAN.hurried(110.0, drain_s, grace_s=2.0)
    assert (plan.drain_until_s, plan.gone_at_s) == expected
