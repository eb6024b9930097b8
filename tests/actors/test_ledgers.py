"""No row is added to without end."""

from __future__ import annotations

from shiftboss.actors.ledgers import ROUNDS, Ledgers


def test_a_name_is_used_for_so_many_rounds_and_then_never_again() -> None:
    ledgers = Ledgers()
    names = [ledgers.name("w", 0) for _ in range(2 * ROUNDS)]
    assert names == ["w/1"] * ROUNDS + ["w/2"] * ROUNDS
    assert ledgers.full == ["w/1"]
    assert ledgers.name("w", 0) == "w/3"
    assert ledgers.full == ["w/1", "w/2"]


def test_rounds_on_two_connections_never_share_a_name() -> None:
    ledgers = Ledgers()
    pairs = {(ledgers.name("w", 0), ledgers.name("w", 1)) for _ in range(5 * ROUNDS)}
    assert not {one for one, _ in pairs} & {other for _, other in pairs}


def test_a_new_worker_id_has_names_of_its_own() -> None:
    ledgers = Ledgers()
    assert [ledgers.name("w", 0), ledgers.name("v", 0), ledgers.name("v", 0)] == ["w/1", "v/2", "v/2"]
    assert ledgers.full == ["w/1"]


def test_the_names_of_a_worker_that_was_declared_dead_are_forgotten() -> None:
    ledgers = Ledgers()
    ledgers.full = ["w/1", "w1/2", "w/3"]
    assert ledgers.full_of("w") == ["w/1", "w/3"] == ledgers.full


def test_only_what_was_folded_is_forgotten() -> None:
    ledgers = Ledgers()
    ledgers.full = ["w/1", "w/2"]
    ledgers.folded(["w/1"])
    assert ledgers.full == ["w/2"]
