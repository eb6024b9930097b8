"""An executor as the claimer sees it: every cell is free, held or waits to be stored, and never two of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from actor_harness import claim_of, eventually, table_memory
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftboss.actors.claiming import Claiming
from shiftboss.actors.link import PeerRef
from shiftboss.actors.messages import Execute, Held, Hello, ToClaimer, ToExecutor
from shiftboss.actors.outbox import Outbox
from shiftboss.actors.peers import Peer, share_out
from shiftboss.actors.table import Table
from shiftboss.config import Settings
from shiftboss.control import PeerDied
from shiftboss.model import Ended, Outcome, TypeInfo

CELLS = 8


class Wire:
    """A peer, and what it sends."""

    def __init__(self, slots: int = 2, held: tuple[Held, ...] = (), cells: int = CELLS, types: tuple[str, ...] = ()) -> None:
        ours, theirs = socket.socketpair()
        self.arrived: list[object] = []
        self.executor: PeerRef[ToExecutor] = PeerRef(theirs, ToExecutor, self.arrived.append, lambda: None)
        fd = table_memory(cells)
        self.peer = Peer("executor-1", 1, PeerRef(ours, ToClaimer, lambda _message: None, lambda: None), Table(fd))
        self.unsent = self.peer.greet(Hello(slots, [TypeInfo(type=name) for name in types], held))

    def close(self) -> None:
        self.peer.close()
        self.executor.close()

    def check(self) -> None:
        peer = self.peer
        cells = [*peer.free_cells, *peer.holdings, *peer.storing]
        assert sorted(cells) == list(range(peer.table.cells)), "a cell is lost, or has two owners"
        assert set(peer.stored) <= set(peer.free_cells)


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def end_of(task_id: str, fence: int = 1) -> Ended:
    return Ended(task_id=task_id, fence=fence, outcome=Outcome.SUCCESS)


def test_an_executor_takes_nothing_before_its_hello() -> None:
    made = Wire()
    fresh = Peer("executor-1", 1, made.peer.ref, made.peer.table)
    assert (fresh.usable, fresh.free_slots, fresh.room(0.001)) == (False, 0, 0)
    made.close()


def test_what_an_executor_holds_is_taken_over_by_a_new_claimer() -> None:
    running, waiting, over = claim_of(running=True), claim_of(running=False), claim_of()
    made = Wire(4, (Held(3, running, None), Held(5, waiting, None), Held(0, over, end_of(over.task_id))))
    peer = made.peer
    assert made.unsent == [(0, over, end_of(over.task_id))]
    assert [(cell, holding.claim, holding.start_stored) for cell, holding in peer.holdings.items()] == [
        (3, running, True),
        (5, waiting, False),
    ]
    assert peer.free_slots == 2
    made.check()
    made.close()


def test_free_slots_and_room_shrink_with_what_is_held(wire: Wire) -> None:
    peer = wire.peer
    assert (peer.free_slots, peer.room(None), peer.room(60.0)) == (2, 2, 2)
    assert peer.room(1e-6) == 2 + CELLS // 2, "prefetch takes half of the cells at most"
    peer.execute([claim_of(), claim_of(), claim_of()])
    assert (peer.free_slots, peer.room(None), peer.room(1e-6)) == (0, 0, 3)
    wire.check()


def test_outcomes_that_wait_to_be_stored_keep_their_cells(wire: Wire) -> None:
    peer = wire.peer
    for _ in range(CELLS):
        peer.execute([claim_of()])
        assert None not in peer.finish([next(iter(peer.holdings))])
        wire.check()
    assert (peer.free_slots, peer.room(1e-6)) == (2, 0), "no cell is left for anything new"
    peer.mark_stored([4])
    assert peer.room(1e-6) == 1
    wire.check()


def test_the_next_message_tells_what_is_stored_once_and_before_the_cell_is_used_again(wire: Wire) -> None:
    peer = wire.peer
    first, second = claim_of(), claim_of()
    peer.execute([first])
    (cell,) = peer.holdings
    peer.finish([cell])
    peer.mark_stored([cell, cell])
    peer.mark_stored([cell])
    peer.execute([second])
    peer.execute([claim_of()])
    eventually(lambda: len(wire.arrived) == 3, "three messages arrive")
    assert [message.stored for message in wire.arrived if isinstance(message, Execute)] == [[], [cell], []]
    assert cell in peer.holdings and peer.holdings[cell].claim == second


def test_messages_name_cells_and_claims_side_by_side(wire: Wire) -> None:
    claims = [claim_of(), claim_of(running=False)]
    wire.peer.execute(claims)
    cells = list(wire.peer.holdings)
    got = eventually(lambda: wire.arrived[0] if wire.arrived else None, "a message arrives")
    assert got == Execute([], cells, claims)
    assert [wire.peer.holdings[cell].claim for cell in cells] == claims


def test_news_of_a_cell_that_is_not_held_changes_nothing(wire: Wire) -> None:
    peer = wire.peer
    assert peer.finish([3]) == [None]
    assert peer.give_back(3) is None
    peer.mark_stored([3])
    wire.check()
    assert peer.stored == []


@pytest.mark.parametrize("why", ["link_down", "died", "not_accepting"])
def test_nothing_goes_to_an_executor_that_is_going(wire: Wire, why: str) -> None:
    peer = wire.peer
    peer.link_down = why == "link_down"
    peer.death = PeerDied(peer="executor-1", incarnation=1) if why == "died" else None
    peer.accepting = why != "not_accepting"
    assert (peer.usable, peer.free_slots, peer.room(0.001)) == (False, 0, 0)


def test_a_start_is_read_from_the_table_for_this_fence_only(wire: Wire) -> None:
    peer, claim = wire.peer, claim_of(fence=4)
    peer.execute([claim])
    (holding,) = peer.holdings.values()
    peer.table.start(holding.cell, claim.task_id, 3)
    assert peer.started_ns(holding) == 0
    started_ns = peer.table.start(holding.cell, claim.task_id, 4)
    assert peer.started_ns(holding) == started_ns


def test_older_ones_come_in_the_order_of_dispatch_also_after_cells_were_reused(wire: Wire) -> None:
    peer = wire.peer
    peer.execute([claim_of(), claim_of(), claim_of()])
    first = next(iter(peer.holdings))
    peer.give_back(first)
    again = claim_of()
    peer.execute([again])
    assert [holding.claim for holding in peer.older_than(float("inf"))][-1] == again
    assert list(peer.older_than(0.0)) == []


steps = st.lists(st.tuples(st.sampled_from(["execute", "finish", "stored", "back"]), st.integers(0, CELLS - 1)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_no_order_of_news_loses_a_cell(news: list[tuple[str, int]]) -> None:
    made = Wire()
    try:
        for what, cell in news:
            match what:
                case "execute" if made.peer.room(1e-6):
                    made.peer.execute([claim_of()])
                case "finish":
                    made.peer.finish([cell, (cell + 1) % CELLS, cell])
                case "stored":
                    made.peer.mark_stored([cell, cell])
                case "back":
                    made.peer.give_back(cell)
            made.check()
    finally:
        made.close()


# ---- sharing out


def shared(types: tuple[tuple[str, ...], ...], claimed: str, slots: int = 1) -> tuple[list[str], str]:
    """What executors that know these types (letters) get of the claims, and what is left."""
    wires = [Wire(slots=slots, cells=2 * slots, types=each) for each in types]
    claims = [claim_of(letter) for letter in claimed]
    shares, left = share_out(claims, [wire.peer for wire in wires], None)
    for wire in wires:
        wire.close()
    return ["".join(claim.type for claim in share) for share in shares], "".join(claim.type for claim in left)


def test_claims_go_only_to_executors_that_know_their_type_whatever_their_order() -> None:
    for claimed in ("abab", "bbaa", "aabb"):
        (first, second), left = shared((("a",), ("b",)), claimed, slots=2)
        assert (first, second, left) == ("aa", "bb", "")


def test_what_nobody_has_room_for_is_left() -> None:
    (first, second), left = shared((("a",), ("b",)), "aaaabz")
    assert set(first) == {"a"} and second == "b"
    assert sorted(left) == sorted("a" * (4 - len(first)) + "z")


def test_a_type_that_both_know_goes_where_a_slot_is_free() -> None:
    assert shared((("a", "c"), ("b", "c")), "ac") == (["a", "c"], "")


@pytest.mark.parametrize("types", [[("a",), ("a",)], [("a", "b"), ("a",)]], ids=["alike", "by type"])
def test_what_was_claimed_stays_when_tasks_turn_out_a_little_longer_and_goes_back_when_much(types: list[tuple[str, ...]]) -> None:
    """The estimate has moved between the claim and its answer. To go back and be claimed again is two more changes of a row."""
    made = [Wire(slots=2, cells=64, types=names) for names in types]
    peers = [one.peer for one in made]
    claims = [claim_of(type_="a") for _ in range(sum(peer.room(0.05) for peer in peers))]
    assert len(claims) == 24
    assert share_out(claims, peers, 0.15)[1] == []
    assert len(share_out(claims, peers, 0.5)[1]) == 12
    for one in made:
        one.close()


def test_executors_of_the_same_types_share_evenly() -> None:
    shares, left = shared((("a",), ("a",)), "aaaa", slots=2)
    assert (shares, left) == (["aa", "aa"], "")


def test_what_has_run_for_long_makes_tasks_look_long_before_it_ends(wire: Wire) -> None:
    roster: Any = [wire.peer]
    claiming = Claiming(Settings(database_url="sqlite:///tasks.db"), roster, Outbox())
    wire.peer.execute([claim_of(), claim_of()])
    claiming.ended(0.001, 1)
    assert claiming._typical_now() == 0.001
    first, second = wire.peer.holdings.values()
    first.dispatched_s, first.started_ns = time.monotonic() - 60.0, time.monotonic_ns() - 60_000_000_000
    typical_s = claiming._typical_now()
    assert typical_s is not None
    assert 60.0 <= typical_s < 120.0, "the other has not been looked at yet"
    second.dispatched_s, second.started_ns = first.dispatched_s, time.monotonic_ns() - 20_000_000_000
    typical_s = claiming._typical_now()
    assert typical_s is not None
    assert 40.0 <= typical_s < 60.0, "the mean of both"
