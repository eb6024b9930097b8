"""The table of a child's states, the checks of specs, exit statuses and timers: no process."""

from __future__ import annotations

import signal
from datetime import UTC, datetime

import pytest

from shiftboss.errors import ConfigError
from shiftboss.supervisor import ChildSpec, Supervisor, SupervisorSettings
from shiftboss.supervisor.child import Exit, exit_of
from shiftboss.supervisor.spec import check_specs
from shiftboss.supervisor.states import CHILD_TRANSITIONS, WITH_PROCESS, ChildEvent, ChildState, after
from shiftboss.supervisor.timers import Timers


def test_every_state_is_reachable_and_only_ended_is_final() -> None:
    reached, frontier = {ChildState.IDLE}, [ChildState.IDLE]
    while frontier:
        state = frontier.pop()
        for (origin, _), target in CHILD_TRANSITIONS.items():
            if origin is state and target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(ChildState)
    assert set(ChildState) - {origin for origin, _ in CHILD_TRANSITIONS} == {ChildState.ENDED}


def test_every_event_is_used_and_those_of_a_process_need_one() -> None:
    assert {event for _, event in CHILD_TRANSITIONS} == set(ChildEvent)
    for origin, event in CHILD_TRANSITIONS:
        assert (origin in WITH_PROCESS) or event in (ChildEvent.SPAWN, ChildEvent.END)
        assert not (origin in WITH_PROCESS and event is ChildEvent.SPAWN), "two processes for one child"


@pytest.mark.parametrize("state", sorted(WITH_PROCESS))
def test_a_process_may_always_end_or_be_killed(state: ChildState) -> None:
    assert after(state, ChildEvent.END) is ChildState.ENDED
    assert after(state, ChildEvent.DELAY) is ChildState.BACKOFF
    assert after(state, ChildEvent.KILL) is ChildState.KILLING


def test_a_transition_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(RuntimeError, match="ended cannot take the event spawn"):
        after(ChildState.ENDED, ChildEvent.SPAWN)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0x0000, Exit(0, None, 7)),
        (0x4E00, Exit(78, None, 7)),
        (0x0009, Exit(None, "SIGKILL", 7)),
        (0x0086, Exit(None, "SIGABRT", 7)),  # with a core dump
        (40, Exit(None, "signal 40", 7)),
    ],
)
def test_exit_codes_and_signals_are_different_things(status: int, expected: Exit) -> None:
    assert exit_of(status, 7) == expected


def test_contradicting_specs_are_refused_all_at_once() -> None:
    specs = [
        ChildSpec(name="a", argv=(), drains=True),
        ChildSpec(name="a", argv=("x",), group="other"),
        ChildSpec(name="b", argv=("x",), links=("nobody",), drains=True),
        ChildSpec(name="c", argv=("x",), group="other", links=("b", "other")),
    ]
    with pytest.raises(ConfigError) as refused:
        check_specs(specs)
    message = str(refused.value)
    for mistake in (
        "child a: named twice",
        "child a: argv is empty",
        "links to nobody",
        "group other",
        "more than one child drains",
    ):
        assert mistake in message
    assert len(message.splitlines()) == 5


def test_a_supervisor_without_children_is_refused() -> None:
    with pytest.raises(ConfigError, match="no children"):
        Supervisor([], SupervisorSettings())


class StillClock:
    """Moves when told."""

    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)


def test_timers_run_in_order_once_and_respect_what_an_earlier_one_did() -> None:
    clock, ran = StillClock(), list[str]()
    timers = Timers(clock)
    timers.set("a", "late", 2.0, lambda: ran.append("late"))
    timers.set("a", "early", 1.0, lambda: (ran.append("early"), timers.cancel("a", "cancelled"))[0])
    timers.set("a", "cancelled", 1.5, lambda: ran.append("cancelled"))
    timers.set("b", "moved", 1.0, lambda: ran.append("moved too early"))
    timers.set("b", "moved", 3.0, lambda: ran.append("moved"))
    assert timers.next_s() == 1.0
    clock.now_s = 2.0
    timers.run_due()
    timers.run_due()
    assert ran == ["early", "late"]
    assert timers.next_s() == 3.0
    timers.cancel_all("b")
    assert timers.next_s() is None


def test_signal_names_match_the_module() -> None:
    assert exit_of(signal.SIGSEGV, 0).signal == "SIGSEGV"
