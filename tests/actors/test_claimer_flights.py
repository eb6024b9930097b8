"""Large rounds on PostgreSQL go on beside each other; while one of them waits for its answer, nothing else has to.

Whoever holds a worker's row in `departures` holds up the one round that counts there, as a slow commit would.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from actor_harness import claim_of, eventually, memory
from claimer_harness import WORKER, Scene
from fake_peers import TYPE, FakeExecutor, ended
from process_harness import ActorProcess

from shiftboss import control
from shiftboss.actors.board import Board
from shiftboss.actors.carrier import Carrier
from shiftboss.actors.claimer import Claimer
from shiftboss.actors.flight import Flight
from shiftboss.actors.lanebook import FIRST_POLL_S
from shiftboss.actors.lookout import Lookout
from shiftboss.actors.messages import Finished, Landed, Looked, Tick
from shiftboss.actors.outbox import Waiting
from shiftboss.actors.planning import MOST_IN_FLIGHT
from shiftboss.actors.scout import Scout
from shiftboss.actors.sweeps import Sweeps
from shiftboss.config import Settings
from shiftboss.errors import StoreUnavailable
from shiftboss.model import Lease, TaskState, TypeInfo, Verdict
from shiftboss.store.base import ClaimAsk, Exchange, Exchanged, Lane, LaneAsk, Owned, TaskFilter, Turn

SLOTS = 400
SHARE = 150  # a large round
TASKS = 1_000


class Busy(Scene):
    """One claimer whose executor has 400 slots, all in use; `done` says how many of its tasks it has finished."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, url, heartbeat_interval_s=0.3)
        self.url = url
        self.ids = self.put_many(TASKS)
        self.process: ActorProcess = self.claimer()
        self.fake: FakeExecutor = self.executor(self.process, cells=2_048)
        self.fake.hello(slots=SLOTS)
        self.sent(SLOTS)
        self.done: list[str] = []
        self.finish(1)  # now there is a row in `departures`
        self.completed(self.done)

    def sent(self, count: int) -> None:
        """Wait until the executor was sent so many tasks in all."""
        eventually(lambda: len(self.fake.claims()) >= count, f"{count} tasks are sent")

    def finish(self, count: int) -> list[str]:
        """The next so many of its tasks end with success, at once; their ids."""
        some = [one for one in self.fake.claims() if one not in self.done][:count]
        assert len(some) == count
        told = [self.fake.claims()[one] for one in some]
        self.fake.ref.tell(Finished([cell for cell, _ in told], [ended(claim, duration_s=30.0) for _, claim in told]))
        self.done += some
        return some

    def completed(self, ids: list[str]) -> None:
        """Wait until these are."""
        wanted = set(ids)
        eventually(lambda: wanted <= self.ids_of(TaskState.COMPLETED), f"{len(ids)} tasks are completed")

    def ids_of(self, status: TaskState) -> set[str]:
        return {one.id for one in self.store.list_tasks(TaskFilter(status=status), TASKS)}

    @contextlib.contextmanager
    def held_up(self) -> Iterator[list[str]]:
        """A round flies and does not come back before the end of the block; the ids of what it stores."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SELECT n FROM departures WHERE slot = %s FOR UPDATE", [f"{WORKER}/1"])
            some = self.finish(SHARE)
            eventually(self.waiting_for_lock, "a round waits for its row")
            yield some
            assert not set(some) & self.ids_of(TaskState.COMPLETED), "it was not held up"

    def waiting_for_lock(self) -> list[int]:
        """Pids of the claimer's sessions that wait for a row."""
        with psycopg.connect(self.url) as connection:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'shiftboss claimer'"
                " AND wait_event_type = 'Lock' AND datname = current_database()"
            )
            return [pid for (pid,) in found]

    def finish_all(self) -> None:
        """Every task that there is."""
        while len(self.done) < TASKS:
            eventually(lambda: len(self.fake.claims()) > len(self.done), "more is sent")
            self.finish(len(self.fake.claims()) - len(self.done))
        self.completed(self.ids)


@pytest.fixture
def scene(tmp_path: Path, pg_database: str) -> Iterator[Busy]:
    with Busy(tmp_path, pg_database) as made:
        yield made


def test_a_round_goes_on_beside_one_that_waits(scene: Busy) -> None:
    with scene.held_up() as some:
        others = scene.finish(SHARE)
        scene.completed(others)
        assert not set(some) & scene.ids_of(TaskState.COMPLETED)
        scene.sent(SLOTS + 1 + SHARE)  # for their slots; the first was free before
    scene.finish_all()
    assert scene.counter("tasks_completed_total") == TASKS
    assert scene.store.counts().enqueued == {TYPE: TASKS}, "what has left is counted once"


def test_a_round_whose_connection_is_cut_goes_out_again(scene: Busy) -> None:
    with scene.held_up():
        with psycopg.connect(scene.url, autocommit=True) as connection:
            for pid in scene.waiting_for_lock():
                connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        eventually(lambda: scene.process.board.get("claimer_away_s"), "it is told that the database is away")
    scene.finish_all()
    assert scene.counter("tasks_completed_total") == TASKS


def test_a_drain_waits_for_the_round_under_way(scene: Busy) -> None:
    with scene.held_up():
        scene.finish(len(scene.fake.claims()) - len(scene.done))
        scene.process.tell(control.Drain(seq=7))
        scene.fake.give_back()
        eventually(lambda: len(scene.ids_of(TaskState.COMPLETED)) == len(scene.done) - SHARE, "all others are stored")
        scene.process.ping()
        assert not scene.process.said.of(control.Drained)
    scene.process.said.wait_type(control.Drained)
    scene.completed(scene.done)
    assert not scene.ids_of(TaskState.CLAIMED) | scene.ids_of(TaskState.RUNNING), "what came after the drain is given back"


def test_who_is_to_leave_waits_for_the_round_under_way(scene: Busy) -> None:
    with scene.held_up() as some:
        scene.process.tell(control.Leave())
        scene.process.ping()
        assert scene.process.process.poll() is None
    assert scene.process.wait_exit() == 0
    assert set(some) <= scene.ids_of(TaskState.COMPLETED)


class Slow:
    """A database that answers when it is let; notes who asked what."""

    exchanges_at_once = 2

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.strays: list[Owned] = []
        self.begun: queue.SimpleQueue[Exchange] = queue.SimpleQueue()
        self.let = threading.Event()

    def exchange(self, request: Exchange) -> Exchanged:
        self.begun.put(request)
        self.let.wait(30.0)
        self.asked.append("exchange")
        count = len(request.ended)
        claims = [] if request.claim is None else [claim_of() for _ in range(request.claim.limit)]
        return Exchanged(verdicts=[Verdict.APPLIED] * count, states=[TaskState.COMPLETED] * count, claims=claims)

    def owned(self, _worker_id: str, among: list[str] | None = None) -> list[Owned]:
        self.asked.append("owned" if among is None else f"owned among {among}")
        return self.strays

    def claim_line(self, _ask: ClaimAsk) -> None:
        """Like SQLite."""

    def close(self) -> None:
        self.asked.append("close")

    def fold_ledgers(self, worker_id: str, names: list[str]) -> None:
        self.asked.append(f"fold {worker_id} {names}")


def in_flight(store: Any) -> Claimer:
    """A claimer that is no actor, with a large round under way that claims nothing."""
    claimer = that_flies(store)
    claimer._round()
    return claimer


def that_flies(store: Any) -> Claimer:
    """A claimer that is no actor; enough attempts have ended for a large round."""
    board = Board(memory(4096))
    board.worker_id = WORKER
    process: Any = SimpleNamespace(name="claimer", settings=Settings(), board=board, tell_parent=lambda _message: None)
    claimer = Claimer(process)
    claimer._carrier = Carrier([store, store], claimer.actor_ref.tell)
    claimer._lookout = Lookout(claimer._carrier, Scout(lambda: store, claimer.actor_ref.tell), claimer._timer, claimer._outage)
    sees: Any = (claimer._lookout, claimer._carrier, claimer._roster, claimer._outbox, claimer._watcher, board)
    claimer._sweeps = Sweeps(*sees)
    claimer._worker_id = WORKER
    for _ in range(SHARE):
        claimer._outbox.end(Waiting(ended(claim_of())))
    return claimer


def lands(claimer: Claimer) -> None:
    """Let it deal with its messages up to the next round that lands."""
    landed = None
    while not isinstance(landed, Landed):
        landed = claimer.actor_inbox.get(timeout=10).message
    claimer.receive(landed)


@pytest.fixture
def claiming(monkeypatch: pytest.MonkeyPatch) -> tuple[Claimer, Slow]:
    """A claimer whose large claim is under way, with another in line behind it, and what has ended beside it."""
    store = Slow()
    claimer = that_flies(store)
    carrier, lanes = claimer._carrier, claimer._lanes

    def claim_ask(_store: object) -> ClaimAsk | None:
        ask = ClaimAsk(lanes=[LaneAsk(queue="default", priority=0, limit=SHARE)], limit=SHARE, running=0, types=[])
        if carrier.claiming and carrier.line is None:
            return None
        lanes.asked(ask)
        return ask

    monkeypatch.setattr(claimer, "_claim_ask", claim_ask)
    lanes.full_rounds = 1
    for _ in range(4):
        claimer._round()
    return claimer, store


def test_what_has_ended_goes_beside_a_large_claim_and_no_claim_beside_a_claim(
    claiming: tuple[Claimer, Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two claims at a time would pass over each other's rows one by one, and what has ended need not wait for one."""
    claimer, store = claiming
    with monkeypatch.context() as patch:
        patch.setattr(claimer._roster, "usable", lambda: pytest.fail("it looks for room while it claims"))
        assert Claimer._claim_ask(claimer, store) is None  # type: ignore[arg-type]  # the fixture has put its own in that place
    under_way = [store.begun.get(timeout=10) for _ in range(2)]
    assert sorted((len(one.ended), one.claim is not None) for one in under_way) == [(0, True), (SHARE, False)]
    assert not claimer._outbox, "all of it is under way"
    assert claimer._outbox.owes_outcomes
    assert store.begun.empty(), "the second claim waits for the first"
    store.let.set()
    monkeypatch.setattr(claimer, "_claim_ask", lambda _store: None)
    for _ in range(3):
        lands(claimer)
    assert not {one.ended.task_id for one in claimer._outbox._owed()}
    assert store.begun.get(timeout=10).claim is not None
    assert store.begun.empty()


def test_what_was_claimed_for_a_worker_that_is_declared_dead_is_given_back(claiming: tuple[Claimer, Slow]) -> None:
    claimer, store = claiming
    claimer._board.worker_id = "worker-2"
    store.let.set()
    for _ in range(3):
        lands(claimer)
    assert len(claimer._outbox.leases()) == 2 * SHARE


def test_who_asks_for_a_round_while_one_is_under_way_gets_it_when_it_has_landed() -> None:
    """A poll, a ring or a start is told once; a worker that forgot it would sleep beside a full queue."""
    store = Slow()
    claimer = in_flight(store)
    claimer._outbox.start(Lease(claim_of().task_id, 1))
    claimer.receive(claimer.actor_inbox.get(timeout=10).message)  # the look for another large one
    assert not store.asked and claimer.actor_inbox.empty()
    store.let.set()
    while len(store.asked) < 2:
        claimer.receive(claimer.actor_inbox.get(timeout=10).message)
    assert store.asked == ["exchange", "exchange"]


def test_what_nobody_holds_is_given_back_when_no_round_is_under_way() -> None:
    """A round's claims are ours in the database before the claimer has heard of them: so it is asked a second time."""
    store = Slow()
    claimer = in_flight(store)
    stray = claim_of()
    store.strays = [Owned(task_id=stray.task_id, fence=stray.fence, status=TaskState.RUNNING, cancel_requested=False)]
    claimer.receive(Tick("reconcile"))
    claimer._outbox.end(Waiting(ended(claim_of())))
    claimer._round()
    assert store.asked == ["owned"]
    assert (stray.task_id, stray.fence) not in claimer._outbox.leases()
    store.let.set()
    lands(claimer)
    assert store.asked == ["owned", "exchange", f"owned among {[stray.task_id]}"]
    assert (stray.task_id, stray.fence) in claimer._outbox.leases()


def test_what_has_ended_while_the_database_was_asked_is_not_taken_for_a_stray(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Slow()
    claimer = that_flies(store)
    stray, fence = min(claimer._outbox.leases())
    store.strays = [Owned(task_id=stray, fence=fence, status=TaskState.RUNNING, cancel_requested=False)]
    store.let.set()

    def owned(_worker_id: str) -> list[Owned]:
        """It was there when the database looked, and is stored before the answer comes."""
        parcel = claimer._outbox.take()
        assert list(claimer._outbox.settle(parcel, store.exchange(Exchange(worker_id=WORKER, ended=parcel.ended))))
        return store.strays

    monkeypatch.setattr(store, "owned", owned)
    claimer.receive(Tick("reconcile"))
    assert (stray, fence) not in claimer._outbox.leases()
    assert not claimer._sweeps.doubtful


def test_while_lanes_are_dear_to_read_rounds_go_on_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Slow()
    store.let.set()
    claimer = that_flies(store)
    old, new = Lane(queue="old", priority=0), Lane(queue="new", priority=0)
    for _ in range(2):
        claimer._lanes.read([old], 0.0, 0.5)
    asked: list[None] = []
    may = threading.Event()

    def lanes(_queues: object) -> list[Lane]:
        asked.append(None)
        may.wait(10.0)
        return [new]

    monkeypatch.setattr(store, "lanes", lanes, raising=False)
    claimer._lanes.drained = True
    for _ in range(3):
        assert claimer._claiming._read(claimer._lookout) == [old]
    may.set()
    looked = claimer.actor_inbox.get(timeout=10).message
    assert looked == Looked("lanes")
    claimer.receive(looked)
    assert claimer._lanes.in_order() == [new]
    assert len(asked) == 1
    assert not claimer._lanes.drained, "there may be something for this worker"


@pytest.mark.parametrize(("outcomes", "poll_s", "asks"), [(1, FIRST_POLL_S, True), (0, FIRST_POLL_S, False), (1, 0.02, False)])
def test_who_stores_outcomes_while_tasks_come_asks_for_more_with_them(
    monkeypatch: pytest.MonkeyPatch, outcomes: int, poll_s: float, asks: bool
) -> None:
    """At half of the peak every claim empties the queue, and its tasks would wait for the next poll."""
    claimer = that_flies(Slow())
    if not outcomes:
        claimer._outbox.take()
    claimer._lanes.drained, claimer._lanes.poll_s = True, poll_s
    looked: list[None] = []
    monkeypatch.setattr(claimer._roster, "usable", lambda: looked.append(None) or [])
    store: Any = Slow()
    assert claimer._claim_ask(store) is None, "nobody is there to work"
    assert bool(looked) is asks


def test_what_full_ledgers_count_is_folded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Slow()
    store.let.set()
    claimer = in_flight(store)
    claimer._carrier.ledgers.full = ["worker-0/7", f"{WORKER}/1", f"{WORKER}/2"]
    set_: list[str] = []
    monkeypatch.setattr(claimer._timer, "sooner", lambda name, _delay_s: set_.append(name))
    lands(claimer)
    assert "fold" in set_
    claimer.receive(Tick("fold"))
    assert store.asked == ["exchange", f"fold {WORKER} {[f'{WORKER}/1', f'{WORKER}/2']}"]
    set_.clear()
    claimer._plan_next(None)
    assert "fold" not in set_


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> Claimer:
    """A claimer with room for 2,600 tasks, five of which could begin at once, in the middle of a backlog."""
    claimer = that_flies(Slow())
    peer: Any = SimpleNamespace(room=lambda *_windows: 2_600, free_slots=5, slots=10, types=(TYPE,), holdings={}, releasable=[])
    monkeypatch.setattr(claimer._roster, "usable", lambda: [peer])
    monkeypatch.setattr(claimer._roster, "types_of", lambda _peers: [TypeInfo(type=TYPE)])
    claimer._lanes.read([Lane(queue="default", priority=0)], time.monotonic(), 0.0)
    claimer._lanes.full_rounds = 1
    return claimer


def test_a_claim_leaves_room_for_another_one_behind_it(roomy: Claimer) -> None:
    asked = []
    for _ in range(3):
        under_way = sum(ask.limit for ask in asked)
        ask = roomy._claiming.ask(None, roomy._lookout, under_way)
        assert ask is not None
        asked.append(ask)
    assert [ask.limit for ask in asked] == [MOST_IN_FLIGHT, MOST_IN_FLIGHT, 2_600 - 2 * MOST_IN_FLIGHT]
    assert [ask.running for ask in asked] == [5, 0, 0]
    assert all(lane.limit == ask.limit for ask in asked for lane in ask.lanes)


def test_behind_a_claim_only_a_large_one_is_worth_while(roomy: Claimer) -> None:
    assert roomy._claiming.ask(None, roomy._lookout, 2_550) is None
    roomy._lanes.full_rounds = 0  # the last claim got less than it asked for
    assert roomy._claiming.ask(None, roomy._lookout, MOST_IN_FLIGHT) is None


def test_a_worker_among_others_claims_nothing_ahead_before_it_is_told_that_it_is_alone(roomy: Claimer) -> None:
    def claims_ahead() -> bool:
        return roomy._claiming.ask(None, roomy._lookout, MOST_IN_FLIGHT) is not None

    assert (claims_ahead(), roomy._claiming.in_turn) == (True, False), "by its settings it is the only one"
    roomy._claiming.change(Settings(distributed_mode=True))
    assert (claims_ahead(), roomy._claiming.in_turn) == (False, True)
    seen = []
    for alone in (False, True):
        flight = Flight(1, Exchange(worker_id=WORKER), roomy._outbox.nothing(), in_turn=False)
        flight.reply, flight.alone = Exchanged(verdicts=[], states=[], claims=[]), alone
        roomy._carrier._flights[1] = deque([flight])
        roomy._comes_back(Landed(1))
        seen.append((claims_ahead(), roomy._claiming.in_turn))
    assert seen == [(False, True), (True, True)]
    roomy._lanes.full_rounds = 0
    assert not roomy._claiming.in_turn, "few tasks are claimed without"
    roomy._claiming.change(Settings(distributed_mode=True, worker_pool_size=7))
    assert roomy._claiming.alone, "a reload changes nothing about that"


def test_of_a_claim_that_did_not_have_its_turn_nothing_is_learnt(roomy: Claimer) -> None:
    """Neither that the lane is empty, nor how long the database takes."""
    ask = roomy._claiming.ask(None, roomy._lookout)
    flight = Flight(1, Exchange(worker_id=WORKER, claim=ask), roomy._outbox.nothing(), in_turn=False)
    flight.reply, flight.refused = Exchanged(verdicts=[], states=[], claims=[]), True
    roomy._carrier._flights[1] = deque([flight])
    roomy._comes_back(Landed(1))
    assert not roomy._lanes.drained
    assert roomy._lanes.full_rounds == 1
    assert not roomy._claim_times.due()
    assert roomy._round_is_next, "it is asked for again"


class Anothers:
    """A database in which it is always another worker's turn."""

    exchanges_at_once = 2

    def __init__(self) -> None:
        self.bell = os.eventfd(1, os.EFD_NONBLOCK)
        self.sent: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def claim_line(self, _ask: ClaimAsk) -> Anothers:
        return self

    def fileno(self) -> int:
        return self.bell

    def send(self, _worker_id: str, _ask: ClaimAsk, in_turn: bool) -> None:
        self.sent.put(in_turn)

    def answer(self) -> Any:
        return SimpleNamespace(turn=Turn(mine=False, alone=False), claims=list)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("message", [control.Stop(drain_s=1.0, grace_s=1.0), control.Drain(seq=1), control.Leave()])
def test_who_is_to_stop_does_not_wait_for_its_turn(roomy: Claimer, message: control.ToChild) -> None:
    store = Anothers()
    roomy._claiming.change(Settings(distributed_mode=True))
    roomy._lanes.read([Lane(queue="default", priority=0)], time.monotonic(), 0.0)
    roomy._carrier = Carrier([store, store], roomy.actor_ref.tell)  # type: ignore[list-item]
    roomy._outbox.take()
    roomy._round()
    for _ in range(2):
        assert store.sent.get(timeout=10), "it asks for its turn, and again"
    if isinstance(message, control.Leave):
        roomy.leave()
    else:
        roomy.receive(message)
    landed = None
    while not isinstance(landed, Landed):
        landed = roomy.actor_inbox.get(timeout=10).message
    assert roomy._carrier.landed(landed).refused


def test_nothing_is_claimed_ahead_while_a_queue_has_a_limit(roomy: Claimer) -> None:
    """How many of its tasks are held is known when the claim before has been answered."""
    roomy._lanes.read([Lane(queue="default", priority=0, concurrency=2_000)], time.monotonic(), 0.0)
    assert roomy._claiming.ask(None, roomy._lookout, MOST_IN_FLIGHT) is None


def test_while_the_database_is_away_no_claim_waits_in_line(roomy: Claimer) -> None:
    ask = roomy._claim_ask(None)
    assert roomy._carrier.send(Exchange(worker_id=WORKER, claim=ask), roomy._outbox.nothing(), in_turn=False)
    assert roomy._claim_ask(None) is not None
    roomy._outage.wait_s(StoreUnavailable("gone"))
    assert roomy._claim_ask(None) is None


def test_a_claim_that_lands_after_a_reload_says_nothing_about_the_new_lanes(claiming: tuple[Claimer, Slow]) -> None:
    claimer, store = claiming
    claimer._claiming.change(Settings(only_queues=("other",)))
    lanes = claimer._lanes
    claimer._board.worker_id = "worker-2"  # so that nobody has to run what comes
    store.let.set()
    for _ in range(3):
        lands(claimer)
    assert not lanes.marks()
    assert not lanes.full_rounds
