"""Who is told of a death, how often, and when the table goes: with real descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shiftboss import control
from shiftboss.supervisor import ChildSpec
from shiftboss.supervisor.child import memory_file
from shiftboss.supervisor.links import Obituaries, peers_of


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class Told:
    """What was told to whom."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, bool]] = []
        self.obituaries = Obituaries(self.tell)

    def tell(self, name: str, message: control.ToChild, fds: tuple[int, ...]) -> None:
        assert isinstance(message, control.PeerDied)
        assert all(is_open(fd) for fd in fds)
        self.heard.append((name, message.incarnation, bool(fds)))


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    told.obituaries.close()


@pytest.fixture
def table_fd() -> int:
    return memory_file("test", 64)


def death(incarnation: int = 1, has_table: bool = True) -> control.PeerDied:
    return control.PeerDied(peer="executor", incarnation=incarnation, has_table=has_table)


def buried(incarnation: int = 1) -> control.PeerBuried:
    return control.PeerBuried(peer="executor", incarnation=incarnation)


def test_told_again_to_each_new_incarnation_until_buried(told: Told, table_fd: int) -> None:
    told.obituaries.announce(death(), table_fd, {"claimer"}, {"claimer", "heartbeat"})
    told.obituaries.repeat_to("claimer")
    told.obituaries.repeat_to("heartbeat")
    assert told.heard == [("claimer", 1, True)] * 2
    told.obituaries.bury("claimer", buried())
    told.obituaries.repeat_to("claimer")
    assert len(told.heard) == 2
    assert not is_open(table_fd)


def test_the_table_stays_until_the_last_mourner_has_buried(told: Told, table_fd: int) -> None:
    told.obituaries.announce(death(), table_fd, {"claimer", "heartbeat"}, {"claimer"})
    told.obituaries.bury("claimer", buried())
    assert is_open(table_fd)
    told.obituaries.repeat_to("heartbeat")
    assert told.heard[-1] == ("heartbeat", 1, True)
    told.obituaries.forget("heartbeat")
    assert not is_open(table_fd)


def test_burying_another_incarnation_changes_nothing(told: Told, table_fd: int) -> None:
    told.obituaries.announce(death(2), table_fd, {"claimer"}, {"claimer"})
    told.obituaries.bury("claimer", buried(1))
    told.obituaries.bury("heartbeat", buried(2))
    assert is_open(table_fd)
    assert [message.incarnation for message in told.obituaries] == [2]


def test_a_death_without_a_table_is_told_once(told: Told) -> None:
    told.obituaries.announce(death(has_table=False), None, {"claimer", "heartbeat"}, {"claimer"})
    told.obituaries.repeat_to("claimer")
    told.obituaries.repeat_to("heartbeat")
    assert told.heard == [("claimer", 1, False)]


def test_a_table_without_mourners_goes_at_once(told: Told, table_fd: int) -> None:
    told.obituaries.announce(death(), table_fd, set(), {"claimer"})
    assert not is_open(table_fd)


def test_one_sides_wish_makes_a_link_for_both_and_groups_stand_for_their_members() -> None:
    specs = [
        ChildSpec(name="executor-1", argv=("x",), group="executor", links=("executor",)),
        ChildSpec(name="executor-2", argv=("x",), group="executor"),
        ChildSpec(name="claimer", argv=("x",), links=("executor",)),
        ChildSpec(name="heartbeat", argv=("x",), links=("claimer",)),
    ]
    assert peers_of(specs) == {
        "executor-1": ("executor-2", "claimer"),
        "executor-2": ("executor-1", "claimer"),
        "claimer": ("executor-1", "executor-2", "heartbeat"),
        "heartbeat": ("claimer",),
    }
