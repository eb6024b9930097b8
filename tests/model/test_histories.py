"""Decisions that are pure are tried over thousands of histories in virtual time: hours pass in microseconds.

Every history has a number under one seed (SHIFTBOSS_SEED, printed); a failure names both, and `history(number)` plays it again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Final, cast

import pytest
from msgspec.structs import replace

from shiftboss.actors import lanebook
from shiftboss.actors.lanebook import LaneBook
from shiftboss.actors.planning import distribute, lane_asks
from shiftboss.actors.retire_plan import SUCCESSORS_S, Retirement, RetireStep
from shiftboss.actors.stop_plan import HELLO_S, LAST_TRY_S, StopPlan, StopStep
from shiftboss.model import Claim
from shiftboss.store.base import ClaimAsk, Store
from shiftboss.supervisor.plan import Ended, GiveUp, Leave, Pause, RestartAfter, StayDown, after_end, finish_drain, stop_plan
from shiftboss.supervisor.restart import MAX_BOOT_FAILURES, GroupHistory, RestartBudget
from shiftboss.supervisor.spec import ChildSpec, Restart, SupervisorSettings
from tests.model.lanes import Lanes, VirtualTime

SEED: Final = int(os.environ.get("SHIFTBOSS_SEED", "1"))
TICK_S: Final = 0.05
ROUNDING_S: Final = 1e-6
ENDLESS_S: Final = 100.0
MOST_CLAIMS: Final = 50  # of one round: 6 slots and at most 9 lanes
SETTINGS: Final = SupervisorSettings(max_restarts=5, restart_period_s=60.0, restart_backoff_s=0.5, restart_backoff_max_s=30.0)


def _histories(count: int, history: Callable[[random.Random], None], per_s: float) -> None:
    """Play `count` histories, at least `per_s` of them in a second of this process's own time."""
    began_s = time.process_time()
    for number in range(count):
        try:
            history(random.Random(SEED * 1_000_003 + number))
        except BaseException:
            print(f"{history.__name__}: seed {SEED}, history {number}")
            raise
    took_s = time.process_time() - began_s
    print(f"{history.__name__}: seed {SEED}, {count:,} histories, {count / took_s:,.0f} a second")
    assert count / took_s > per_s


# ---- the supervisor's restarts


def _some_spec(rng: random.Random) -> ChildSpec:
    kind = rng.choice([Restart.PERMANENT] * 4 + [Restart.TRANSIENT, Restart.TEMPORARY])
    return ChildSpec(name="c", argv=("c",), restart=kind, critical=rng.random() < 0.7, rolling=rng.random() < 0.4)


def _some_end(rng: random.Random, streak: int, steady: bool) -> Ended:
    ready = steady or rng.random() < 0.7
    return Ended(exit_code=rng.choice([None, 0, 1, 64, 75, 78]), was_ready=ready, planned=rng.random() < 0.1, streak=streak)


def _restarts(rng: random.Random) -> None:
    """A child that ends again and again, for hours."""
    spec, steady = _some_spec(rng), rng.random() < 0.5
    history = GroupHistory(RestartBudget(SETTINGS.max_restarts, SETTINGS.restart_period_s), ever_ready=steady)
    now_s, streak = 1_000.0, 0
    counted: list[float] = []
    for _ in range(rng.randint(1, 60)):
        now_s += rng.choice([0.0, 0.1, rng.expovariate(1 / 5.0), rng.expovariate(1 / 300.0)])
        ended = _some_end(rng, streak, steady)
        before = history.record_ready() if ended.was_ready else history
        chance = rng.random()
        action, history = after_end(spec, ended, before, SETTINGS, now_s=now_s, service_ready=steady, chance=chance)
        counted = [t for t in counted if t >= now_s - SETTINGS.restart_period_s]
        _check_action(spec, ended, action, before, history, steady)
        if isinstance(action, RestartAfter) and not ended.planned:
            counted.append(now_s)
            assert len(counted) <= SETTINGS.max_restarts, "more restarts within a period than are allowed"
        if not isinstance(action, RestartAfter):
            return
        now_s += action.delay_s
        streak = 0 if ended.planned else streak + 1


def _check_action(
    spec: ChildSpec, ended: Ended, action: object, before: GroupHistory, after: GroupHistory, service_ready: bool
) -> None:
    if ended.planned:
        assert action == RestartAfter(0.0)
        assert after == before, "a planned end counts nowhere"
        return
    match action:
        case RestartAfter(delay_s=delay_s):
            assert 0.0 <= delay_s <= SETTINGS.restart_backoff_max_s
            assert delay_s == 0.0 if ended.was_ready and ended.streak == 0 else delay_s >= 0.8 * SETTINGS.restart_backoff_s
            assert spec.restart is not Restart.TEMPORARY
            assert after.boot_failures < MAX_BOOT_FAILURES or after.ever_ready
        case Leave():
            assert spec.restart is Restart.TEMPORARY or (spec.restart is Restart.TRANSIENT and ended.exit_code == 0)
        case StayDown():
            assert not spec.critical
        case Pause():
            assert spec.rolling
            assert service_ready
            assert after.ever_ready
        case GiveUp(exit_code=exit_code):
            assert spec.critical
            assert exit_code
            final = not ended.was_ready and not service_ready and ended.exit_code in (64, 75, 78)
            assert final or after.cannot_boot or after.budget.exhausted
            pauses = spec.rolling and service_ready and after.ever_ready and after.budget.exhausted
            assert not pauses, "a pool that can boot pauses instead"


def test_no_child_is_started_more_often_than_it_may_and_every_end_has_an_answer() -> None:
    _histories(20_000, _restarts, per_s=500)


def _calm(rng: random.Random) -> None:
    """Crashes further apart than the budget's share of its period."""
    spec = ChildSpec(name="c", argv=("c",))
    history = GroupHistory(RestartBudget(SETTINGS.max_restarts, SETTINGS.restart_period_s)).record_ready()
    now_s = 0.0
    for _ in range(50):
        now_s += SETTINGS.restart_period_s / SETTINGS.max_restarts * rng.uniform(1.01, 3.0)
        ended = Ended(exit_code=1, was_ready=True)
        action, history = after_end(spec, ended, history, SETTINGS, now_s=now_s, service_ready=True, chance=rng.random())
        assert action == RestartAfter(0.0)


def test_a_service_that_crashes_seldom_never_gives_up() -> None:
    _histories(2_000, _calm, per_s=200)


# ---- the supervisor's stop


def _supervisor_stop(rng: random.Random) -> None:
    began_s = now_s = rng.uniform(0, 1e6)
    plan = first = stop_plan(SETTINGS, now_s, drain=rng.random() < 0.8)
    drainer, other = (
        ChildSpec(name="d", argv=("d",), drains=True),
        ChildSpec(name="o", argv=("o",), shutdown_s=rng.uniform(0, 20)),
    )
    while now_s < plan.end_s:
        now_s += rng.expovariate(1.0)
        if rng.random() < 0.1:
            hurried = plan.hurried(now_s)
            assert hurried.end_s <= plan.end_s, "a stop that is hurried ends no later"
            plan = hurried
        left_s = max(0.0, plan.end_s - now_s)
        assert 0.0 <= plan.patience_s(drainer, drains=True, now_s=now_s) <= left_s
        assert 0.0 <= plan.patience_s(other, drains=False, now_s=now_s) <= min(left_s, other.shutdown_s)
        assert plan.drain_left_s(now_s) + plan.grace_left_s(now_s) <= left_s + ROUNDING_S
        ended = Ended(exit_code=rng.choice([0, 1]), was_ready=rng.random() < 0.5, streak=rng.randint(0, 9))
        after = finish_drain(ended, plan, SETTINGS, now_s=now_s, chance=rng.random())
        if isinstance(after, RestartAfter):
            assert now_s + after.delay_s < plan.drainer_end_s, "started again only to be killed"
    assert plan.end_s <= first.end_s
    assert first.end_s - began_s <= SETTINGS.shutdown_timeout_s + SETTINGS.cancel_grace_s + 5.0 + ROUNDING_S


def test_a_stop_of_the_tree_ends_by_its_deadline_however_often_it_is_hurried() -> None:
    _histories(5_000, _supervisor_stop, per_s=300)


# ---- the claimer's stop, and one executor's retirement


def _claimer_stop(rng: random.Random) -> None:
    drain_s, grace_s = rng.choice([0.0, rng.uniform(0, 30)]), rng.uniform(0, 5)
    now_s = began_s = rng.uniform(0, 1e6)
    plan = StopPlan.begin(now_s, drain_s, grace_s)
    held, owes, silent = rng.random() < 0.8, rng.random() < 0.5, rng.random() < 0.3
    obedient, away = rng.random() < 0.5, rng.random() < 0.3  # whether a cancel helps; whether the database is away
    while True:
        step = plan.step(now_s, held=held, owes=owes, silent=silent)
        match step:
            case StopStep.END:
                late = now_s >= plan.gone_at_s + LAST_TRY_S
                assert late or not (held or owes), "it ends with something in its hands before its time"
                assert late or not silent or now_s >= plan.hello_until_s
                break
            case StopStep.CANCEL:
                assert now_s >= plan.drain_until_s
                assert not plan.cancelled, "asked twice"
                plan, held = replace(plan, cancelled=True), held and not obedient
            case StopStep.HAND_BACK:
                assert now_s >= plan.gone_at_s
                held, owes = False, True
            case StopStep.WAIT:
                now_s += TICK_S
                assert now_s - began_s < ENDLESS_S, "it never ends"
                held, silent = held and rng.random() > 0.02, silent and rng.random() > 0.05
                owes = owes and (away or rng.random() > 0.3)
                if rng.random() < 0.01:
                    hurried = plan.hurried(now_s, rng.uniform(0, 10), grace_s)
                    assert hurried.gone_at_s <= plan.gone_at_s
                    plan = hurried
    assert now_s - began_s <= max(drain_s + grace_s + LAST_TRY_S, HELLO_S) + 2 * TICK_S


def test_a_claimer_stops_in_time_and_never_with_work_in_its_hands_before() -> None:
    _histories(4_000, _claimer_stop, per_s=100)


def _retirement(rng: random.Random) -> None:
    drain_s, grace_s = rng.choice([0.0, rng.uniform(0, 30)]), rng.uniform(0, 5)
    now_s = began_s = rng.uniform(0, 1e6)
    plan = Retirement.start(now_s, drain_s, grace_s)
    held, storing, silent, relieved = rng.random() < 0.8, False, rng.random() < 0.3, rng.random() < 0.5
    while True:
        match plan.step(now_s, relieved=relieved, silent=silent, held=held, storing=storing):
            case RetireStep.BEGIN:
                assert not plan.begun
                assert relieved or now_s >= plan.begin_by_s, "capacity sank before its successor was there"
                plan = replace(plan, begun=True)
            case RetireStep.CANCEL:
                assert plan.begun
                assert now_s >= plan.drain_until_s
                plan = replace(plan, cancelled=True)
            case RetireStep.HAND_BACK:
                assert now_s >= plan.gone_at_s
                held, storing = False, True
            case RetireStep.RELEASE:
                assert plan.begun
                assert not held
                assert not storing
                break
            case RetireStep.WAIT:
                now_s += TICK_S
                assert now_s - began_s < ENDLESS_S, "it never ends"
                ended = held and rng.random() < 0.02
                held, storing = held and not ended, ended or (storing and rng.random() > 0.3)
                silent, relieved = silent and rng.random() > 0.05, relieved or rng.random() < 0.05
                if rng.random() < 0.01:
                    plan = plan.hurried(now_s, rng.uniform(0, 10), grace_s)
    assert now_s - began_s <= drain_s + grace_s + SUCCESSORS_S + 60 * TICK_S
    assert plan.begun


def test_an_executor_retires_in_time_and_is_released_with_empty_hands() -> None:
    _histories(4_000, _retirement, per_s=100)


# ---- what is claimed, and for whom


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    clock = VirtualTime()
    monkeypatch.setattr(lanebook, "time", clock)
    yield clock


def _claims_of_a_day(rng: random.Random, virtual: VirtualTime) -> None:
    """Tasks come (some with a bell that nobody hears), run and end; queues have limits; some types are unknown here."""
    world = Lanes(rng, virtual)
    book = LaneBook((), rng.choice(["priority", "weighted_random", "fifo", "lifo"]), longest_poll_s=1.0)
    poll_at_s = virtual.now_s
    for _ in range(rng.randint(20, 120)):
        virtual.now_s += rng.expovariate(1 / 0.05)
        if world.arrive():
            book.look_again(rung=True)
        if world.finish() & book.limited:
            book.drained = False  # as the claimer does: its queue has room again
        if book.drained and virtual.now_s >= poll_at_s:
            book.look_again(rung=False)
        _round(book, world)
        if book.drained:
            poll_at_s = min(poll_at_s, virtual.now_s + book.poll_s) if poll_at_s > virtual.now_s else virtual.now_s + book.poll_s
    _nothing_is_left(book, world, virtual)


def _round(book: LaneBook, world: Lanes) -> None:
    """One round of the claimer: ask, learn, send out."""
    for _ in range(MOST_CLAIMS):
        if book.drained or not world.room:
            return
        asks = lane_asks(book.lanes(cast(Store, world)), world.room, world.held, book.marks())
        if not asks:
            book.drained = True
            return
        ask = ClaimAsk(lanes=asks, limit=world.room, running=world.room, types=(), merge=book.merge)
        book.asked(ask)
        claims = world.claim(ask)
        _check_places(claims, world)
        book.learn(ask, claims, world.rng.choice([0.0, 0.001, 0.03, 0.4]))
    raise AssertionError("it asks again and again, and gets nothing")


def _check_places(claims: list[Claim], world: Lanes) -> None:
    free = [world.rng.randint(0, 3) for _ in range(3)]
    room = [slots + world.rng.randint(0, 4) for slots in free]
    places = distribute(len(claims), free, room)
    assert len(places) == min(len(claims), sum(room)), "there was room for more, or less"
    assert all(places.count(index) <= room[index] for index in range(3))
    slots = min(len(claims), sum(free))
    assert all(places[:slots].count(index) <= free[index] for index in range(3)), "one waits while a slot is free"


def _nothing_is_left(book: LaneBook, world: Lanes, virtual: VirtualTime) -> None:
    """Once nothing new comes, all that can run has run within so many polls."""
    for _ in range(400):
        if not world.left():
            return
        virtual.now_s += 1.1
        world.finish(everything=True)
        book.look_again(rung=False)
        _round(book, world)
    raise AssertionError(f"left out for ever: {world.left()}")


@pytest.mark.long
def test_no_due_task_is_left_out_for_ever_and_no_limit_is_exceeded(virtual: VirtualTime) -> None:
    def claims_of_a_day(rng: random.Random) -> None:
        _claims_of_a_day(rng, virtual)

    _histories(500, claims_of_a_day, per_s=20)
