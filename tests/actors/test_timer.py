"""Messages to oneself: each once, in time, and only the latest time that was set counts."""

from __future__ import annotations

import queue
import time

import pytest

from shiftboss.actors.timer import Timer

PATIENCE_S = 5.0


class Alarms:
    """A timer, and what it delivered with when."""

    def __init__(self) -> None:
        self._came: queue.Queue[tuple[str, float]] = queue.Queue()
        self.timer = Timer(lambda name: self._came.put((name, time.monotonic())))

    def next(self) -> tuple[str, float]:
        return self._came.get(timeout=PATIENCE_S)

    def names(self, count: int) -> list[str]:
        return [self.next()[0] for _ in range(count)]

    def until(self, name: str) -> list[str]:
        """Everything that came before `name`, which is set now for soon."""
        self.timer.after(name, 0.1)
        return list(iter(lambda: self.next()[0], name))


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


def test_it_comes_when_due_and_not_before(alarms: Alarms) -> None:
    set_s = time.monotonic()
    alarms.timer.after("a", 0.05)
    name, came_s = alarms.next()
    assert name == "a"
    assert 0.05 <= came_s - set_s < 15.0


def test_they_come_in_the_order_of_their_times_not_of_their_setting(alarms: Alarms) -> None:
    now_s = time.monotonic()
    for name, delay_s in (("late", 0.12), ("soon", 0.04), ("middle", 0.08)):
        alarms.timer.at(name, now_s + delay_s)
    assert alarms.names(3) == ["soon", "middle", "late"]


def test_those_of_one_time_come_in_the_order_of_their_setting(alarms: Alarms) -> None:
    due_s = time.monotonic() + 0.05
    for name in "dacb":
        alarms.timer.at(name, due_s)
    assert alarms.names(4) == list("dacb")


def test_one_that_is_due_earlier_wakes_a_timer_that_waits_for_a_later_one(alarms: Alarms) -> None:
    alarms.timer.after("late", 60.0)
    alarms.timer.after("soon", 0.01)
    assert alarms.next()[0] == "soon"


def test_setting_a_name_again_replaces_its_time_to_later_and_to_sooner(alarms: Alarms) -> None:
    alarms.timer.after("later", 0.02)
    alarms.timer.after("later", 60.0)
    alarms.timer.after("sooner", 60.0)
    alarms.timer.after("sooner", 0.02)
    assert alarms.until("end") == ["sooner"]


def test_a_name_that_is_set_to_the_same_time_twice_comes_once(alarms: Alarms) -> None:
    due_s = time.monotonic() + 0.02
    alarms.timer.at("a", due_s)
    alarms.timer.at("a", due_s)
    assert alarms.until("end") == ["a"]


def test_sooner_brings_forward_and_never_puts_off(alarms: Alarms) -> None:
    alarms.timer.after("a", 60.0)
    alarms.timer.sooner("a", 0.01)
    alarms.timer.after("b", 0.01)
    alarms.timer.sooner("b", 60.0)
    alarms.timer.sooner("c", 0.01)
    assert sorted(alarms.names(3)) == ["a", "b", "c"]


def test_cancelled_ones_do_not_come_and_can_be_set_again(alarms: Alarms) -> None:
    alarms.timer.after("gone", 0.02)
    alarms.timer.cancel("gone")
    alarms.timer.cancel("never set")
    assert alarms.until("end") == []
    alarms.timer.after("gone", 0.0)
    assert alarms.next()[0] == "gone"


def test_a_name_can_be_set_from_within_its_delivery() -> None:
    came: queue.Queue[str] = queue.Queue()
    timer: Timer

    def again(name: str) -> None:
        came.put(name)
        timer.after(name, 0.001)

    timer = Timer(again)
    timer.after("a", 0.0)
    assert [came.get(timeout=PATIENCE_S) for _ in range(5)] == ["a"] * 5


def test_thousands_of_settings_deliver_each_name_once(alarms: Alarms) -> None:
    for number in range(5_000):
        alarms.timer.after(f"name-{number % 50}", 1.0)
    assert sorted(alarms.names(50)) == sorted(f"name-{number}" for number in range(50))
    assert alarms.until("end") == []


def test_later_only_ever_moves_a_time_that_is_set_further_away(alarms: Alarms) -> None:
    alarms.timer.after("near", 0.05)
    alarms.timer.later("near", 5.0)
    alarms.timer.after("far", 0.05)
    alarms.timer.later("far", 0.0)
    assert alarms.until("end") == ["far"]
