"""Deadlines of a stop, and what an end during a stop leads to."""

from __future__ import annotations

import pytest

from shiftboss.supervisor import ChildSpec, SupervisorSettings
from shiftboss.supervisor.plan import Ended, Leave, RestartAfter, finish_drain, stop_plan
from shiftboss.supervisor.spec import start_groups

SETTINGS = SupervisorSettings(shutdown_timeout_s=30.0, cancel_grace_s=5.0, restart_backoff_s=0.5)
OTHER = ChildSpec(name="heartbeat", argv=("true",), shutdown_s=4.0)
CLAIMER = ChildSpec(name="claimer", argv=("true",), drains=True)


def test_all_deadlines_count_from_the_request() -> None:
    plan = stop_plan(SETTINGS, 100.0, drain=True)
    assert (plan.drain_left_s(100.0), plan.grace_left_s(100.0)) == (30.0, 5.0)
    assert plan.drain_left_s(110.0) == 20.0, "a child told later gets what is left"
    assert plan.drain_left_s(131.0) == 0.0
    assert plan.grace_left_s(132.0) == 3.0
    assert plan.grace_left_s(140.0) == 0.0
    assert (plan.drainer_end_s, plan.end_s) == (137.0, 140.0)


def test_patience_is_the_childs_own_but_never_past_the_end_of_the_stop() -> None:
    plan = stop_plan(SETTINGS, 100.0, drain=True)
    assert plan.patience_s(CLAIMER, True, 110.0) == 27.0
    assert plan.patience_s(OTHER, False, 110.0) == 4.0
    assert plan.patience_s(OTHER, False, 139.0) == 1.0
    assert plan.patience_s(OTHER, False, 200.0) == 0.0


def test_without_drain_only_the_grace_is_left() -> None:
    plan = stop_plan(SETTINGS, 100.0, drain=False)
    assert (plan.drain_left_s(100.0), plan.grace_left_s(100.0), plan.drainer_end_s) == (0.0, 5.0, 107.0)


def test_hurrying_cuts_the_drain_off_and_never_lengthens_it() -> None:
    plan = stop_plan(SETTINGS, 100.0, drain=True)
    hurried = plan.hurried(110.0)
    assert (hurried.drain_left_s(110.0), hurried.grace_left_s(110.0), hurried.end_s) == (0.0, 5.0, 120.0)
    assert hurried.hurried(115.0) == hurried
    assert plan.hurried(133.0) == plan


@pytest.mark.parametrize(
    ("ended", "now_s", "expected"),
    [
        (Ended(exit_code=0, was_ready=True), 110.0, Leave()),
        (Ended(exit_code=1, was_ready=True), 110.0, RestartAfter(0.0)),
        (Ended(exit_code=None, was_ready=True), 110.0, RestartAfter(0.0)),
        (Ended(exit_code=None, was_ready=True, streak=1), 110.0, RestartAfter(0.5)),
        (Ended(exit_code=0, was_ready=True, planned=True, streak=3), 110.0, RestartAfter(0.0)),
        (Ended(exit_code=None, was_ready=True, streak=1), 136.6, Leave()),
        (Ended(exit_code=None, was_ready=True), 137.0, Leave()),
    ],
)
def test_a_draining_child_that_crashes_is_started_again_while_there_is_time(ended: Ended, now_s: float, expected: object) -> None:
    plan = stop_plan(SETTINGS, 100.0, drain=True)
    assert finish_drain(ended, plan, SETTINGS, now_s=now_s, chance=0.5) == expected


def test_groups_are_neighbours_in_start_order() -> None:
    names = [("heartbeat", ""), ("executor-1", "executor"), ("executor-2", "executor"), ("claimer", "")]
    groups = start_groups([ChildSpec(name=name, group=group, argv=("true",)) for name, group in names])
    assert [[spec.name for spec in group] for group in groups] == [["heartbeat"], ["executor-1", "executor-2"], ["claimer"]]
