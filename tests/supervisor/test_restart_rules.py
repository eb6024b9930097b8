"""The rules of restarting, exhaustively and without a process."""

from __future__ import annotations

import pytest

from shiftboss.supervisor import ChildSpec, Restart, SupervisorSettings
from shiftboss.supervisor.plan import Action, Ended, GiveUp, Leave, RestartAfter, StayDown, after_end
from shiftboss.supervisor.restart import GroupHistory, RestartBudget, restart_delay_s

SETTINGS = SupervisorSettings(restart_backoff_s=0.5, restart_backoff_max_s=30.0, restart_period_s=60.0)
FRESH = GroupHistory(RestartBudget(intensity=20, period_s=60.0))
BOOTED = FRESH.record_ready()
WORN = GroupHistory(RestartBudget(intensity=2, period_s=60.0, restarts=(0.0, 1.0)), ever_ready=True)


def decide(history: GroupHistory, *, ended: Ended, service_ready: bool = True, now_s: float = 2.0, **spec: object) -> Action:
    child = ChildSpec(name="claimer", argv=("true",), **spec)  # type: ignore[arg-type]
    action, _ = after_end(child, ended, history, SETTINGS, now_s=now_s, service_ready=service_ready, chance=0.5)
    return action


CRASHED = Ended(exit_code=None, was_ready=True)
FAILED_BOOT = Ended(exit_code=1, was_ready=False)


def test_budget_is_exhausted_by_more_than_intensity_restarts_inside_the_period() -> None:
    budget = RestartBudget(intensity=3, period_s=10.0)
    for now_s in (0.0, 1.0, 2.0):
        budget = budget.record(now_s)
    assert not budget.exhausted
    assert budget.record(10.0).exhausted, "the first is still inside the period"
    assert not budget.record(10.1).exhausted, "the first is forgotten"


def test_budget_of_zero_allows_no_restart() -> None:
    assert RestartBudget(intensity=0, period_s=10.0).record(0.0).exhausted


@pytest.mark.parametrize(
    ("streak", "was_ready", "delay_s"),
    [(0, True, 0.0), (1, True, 0.5), (2, True, 1.0), (3, True, 2.0), (0, False, 0.5), (1, False, 1.0), (2, False, 2.0)],
)
def test_delay_doubles_and_only_the_first_crash_is_free(streak: int, was_ready: bool, delay_s: float) -> None:
    assert restart_delay_s(streak, was_ready, SETTINGS, chance=0.5) == pytest.approx(delay_s)


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_jitter_spreads_the_delay_by_a_fifth(chance: float, factor: float) -> None:
    assert restart_delay_s(1, True, SETTINGS, chance) == pytest.approx(0.5 * factor)


@pytest.mark.parametrize("streak", [7, 50, 100_000])
def test_delay_has_a_ceiling(streak: int) -> None:
    assert restart_delay_s(streak, True, SETTINGS, chance=1.0) == 30.0


@pytest.mark.parametrize(
    ("restart", "exit_code", "again"),
    [
        (Restart.PERMANENT, 0, True),
        (Restart.PERMANENT, 1, True),
        (Restart.PERMANENT, None, True),
        (Restart.TRANSIENT, 0, False),
        (Restart.TRANSIENT, 1, True),
        (Restart.TRANSIENT, None, True),
        (Restart.TEMPORARY, 0, False),
        (Restart.TEMPORARY, 1, False),
        (Restart.TEMPORARY, None, False),
    ],
)
def test_restart_types(restart: Restart, exit_code: int | None, again: bool) -> None:
    action = decide(BOOTED, ended=Ended(exit_code=exit_code, was_ready=True), restart=restart)
    assert action == (RestartAfter(0.0) if again else Leave())


@pytest.mark.parametrize("restart", list(Restart))
def test_a_planned_end_restarts_at_once_and_counts_nowhere(restart: Restart) -> None:
    ended = Ended(exit_code=None, was_ready=False, planned=True, streak=9)
    spec = ChildSpec(name="executor", argv=("true",), restart=restart)
    action, history = after_end(spec, ended, WORN, SETTINGS, now_s=2.0, service_ready=False, chance=0.5)
    assert action == RestartAfter(0.0)
    assert history == WORN


@pytest.mark.parametrize("exit_code", [64, 75, 78])
def test_final_boot_codes_end_the_service_only_before_it_was_ready(exit_code: int) -> None:
    ended = Ended(exit_code=exit_code, was_ready=False)
    first = decide(FRESH, ended=ended, service_ready=False)
    assert isinstance(first, GiveUp)
    assert first.exit_code == exit_code
    assert decide(FRESH, ended=ended, service_ready=True) == RestartAfter(0.5)
    assert decide(BOOTED, ended=Ended(exit_code=exit_code, was_ready=True), service_ready=False) == RestartAfter(0.0)
    assert decide(FRESH, ended=ended, service_ready=False, critical=False) == StayDown(60.0)


def test_third_boot_failure_in_a_row_gives_up_when_none_of_the_group_was_ever_ready() -> None:
    twice = FRESH.record_boot_failure().record_boot_failure()
    given_up = decide(twice, ended=FAILED_BOOT)
    assert isinstance(given_up, GiveUp)
    assert given_up.exit_code == 70
    assert decide(FRESH.record_boot_failure(), ended=FAILED_BOOT) == RestartAfter(0.5)
    assert decide(twice, ended=FAILED_BOOT, critical=False) == StayDown(60.0)
    assert decide(BOOTED.record_boot_failure().record_boot_failure(), ended=FAILED_BOOT) == RestartAfter(0.5)


def test_past_the_budget_a_critical_child_gives_up_and_another_stays_down() -> None:
    given_up = decide(WORN, ended=CRASHED)
    assert isinstance(given_up, GiveUp)
    assert given_up.exit_code == 70
    assert decide(WORN, ended=CRASHED, critical=False) == StayDown(60.0)
    assert decide(WORN, ended=CRASHED, now_s=61.0) == RestartAfter(0.0)


def test_a_ready_sibling_wipes_out_boot_failures() -> None:
    history = FRESH.record_boot_failure().record_boot_failure().record_ready()
    assert (history.boot_failures, history.ever_ready) == (0, True)
