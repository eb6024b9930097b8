"""Heartbeats, terms, and the maintenance that only the holder of a term does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from store_harness import (
    TYPE,
    World,
    by_id,
    ended,
    finish_one,
    info,
    lead,
    put,
    put_into_history,
    raw_json,
    take,
    take_one,
    view,
    worker,
)

from shiftboss.lease import LeaderLease
from shiftboss.model import MAX_REFUNDS, Lease, Outcome, TaskState
from shiftboss.store.base import CounterDelta, Exchange, Retention, Store

KEEP = Retention()


# ---- workers


def test_a_worker_is_alive_while_its_heartbeat_is_young(world: World) -> None:
    store = world.store
    assert store.register(worker("w1", pool_size=4, hostname="here", pid=7), timeout_s=30.0, exclusive=False) == 0
    world.clock.advance(20.0)
    assert store.beat("w1", active=3, pool_size=4, timeout_s=30.0)
    (found,) = store.workers()
    assert (found.id, found.hostname, found.pid, found.pool_size, found.active, found.alive) == ("w1", "here", 7, 4, 3, True)
    assert found.last_heartbeat == world.clock.now() == found.started_at + timedelta(seconds=20)
    assert store.counts().workers == 1
    world.clock.advance(31.0)
    assert [found.alive for found in store.workers()] == [False]
    assert store.counts().workers == 0


def test_a_beat_says_how_many_slots_there_are_now_and_how_long_it_is_good_for(world: World) -> None:
    store = world.store
    store.register(worker("w1", pool_size=4), timeout_s=30.0, exclusive=False)
    assert store.beat("w1", active=0, pool_size=9, timeout_s=60.0)
    assert [found.pool_size for found in store.workers()] == [9]
    world.clock.advance(59.0)
    assert [found.alive for found in store.workers()] == [True]
    world.clock.advance(2.0)
    assert [found.alive for found in store.workers()] == [False]
    assert list(store.recover(lead(store)).workers) == ["w1"]


def test_a_worker_without_a_row_learns_that_it_is_fenced(store: Store) -> None:
    assert not store.beat("nobody", active=0, pool_size=1, timeout_s=30.0)
    store.register(worker("w1"), 30.0, exclusive=False)
    store.deregister("w1")
    assert not store.beat("w1", active=0, pool_size=1, timeout_s=30.0)
    assert store.workers() == []


def test_a_single_instance_recovers_at_its_start_what_all_others_held(store: Store) -> None:
    store.register(worker("old"), 30.0, exclusive=False)
    ids = [put(store) for _ in range(3)]
    take(store, 1, worker_id="old")
    take(store, 1, worker_id="gone without a row", running=0)
    assert store.register(worker("new"), 30.0, exclusive=True) == 2
    assert [found.id for found in store.workers()] == ["new"]
    assert {view(store, task_id).status for task_id in ids} == {TaskState.PENDING}
    assert [view(store, task_id).attempts for task_id in ids] == [1, 0, 0]


# ---- terms


def test_one_leads_at_a_time_and_terms_rise(world: World) -> None:
    store, other, clock = world.store, world.open(), world.clock
    first = lead(store, "a", term_s=30.0)
    assert (first.worker_id, first.term) == ("a", 1)
    refused = other.elect("b", 30.0)
    assert refused.lease is None
    assert 29.0 < refused.retry_in_s <= 30.0
    clock.advance(31.0)
    second = other.elect("b", 30.0).lease
    assert second == LeaderLease("b", 2)
    assert store.elect("a", 30.0).lease is None
    assert not store.renew(first, 30.0)
    assert store.counts().leader == "b"


def test_electing_oneself_again_renews_the_term(world: World) -> None:
    lease = lead(world.store, "a", 30.0)
    world.clock.advance(20.0)
    assert lead(world.store, "a", 30.0) == lease
    world.clock.advance(20.0)
    assert world.open().elect("b", 30.0).lease is None


def test_a_past_leader_gets_a_new_term_not_its_old_one(world: World) -> None:
    old = lead(world.store, "a", 30.0)
    world.clock.advance(31.0)
    new = lead(world.store, "a", 30.0)
    assert new.term == old.term + 1
    assert not world.store.renew(old, 30.0)
    assert world.store.renew(new, 30.0)


def test_a_renewal_holds_from_now_and_not_after_the_end(world: World) -> None:
    lease = lead(world.store, "a", 30.0)
    world.clock.advance(29.0)
    assert world.store.renew(lease, 30.0)
    world.clock.advance(29.0)
    assert world.open().elect("b", 30.0).lease is None
    world.clock.advance(2.0)
    assert not world.store.renew(lease, 30.0)


def test_resigning_lets_another_lead_at_once_and_keeps_the_number(store: Store, other_store: Store) -> None:
    lease = lead(store, "a")
    store.resign(lease)
    assert store.counts().leader is None
    assert other_store.elect("b", 30.0).lease == LeaderLease("b", 2)
    store.resign(lease)  # a late one changes nothing
    assert store.counts().leader == "b"


def test_the_list_of_workers_shows_the_leader(store: Store) -> None:
    for worker_id in ("a", "b"):
        store.register(worker(worker_id), 30.0, exclusive=False)
    lead(store, "b")
    assert {found.id: found.is_leader for found in store.workers()} == {"a": False, "b": True}


def test_a_replaced_leader_changes_nothing(world: World) -> None:
    store, clock = world.store, world.clock
    old = lead(store, "a", 30.0)
    clock.advance(31.0)
    new = lead(world.open(), "b", 30.0)
    done, orphan = put(store), put(store)
    finish_one(store, ended(take_one(store)))
    take_one(store)
    store.register(worker("w"), timeout_s=1.0, exclusive=False)
    clock.advance(20.0)
    recovered = store.recover(old)
    assert (list(recovered.workers), recovered.pending, recovered.dead_letter) == ([], 0, 0)
    assert store.prune(old, Retention(completed_s=1.0)) == 0
    assert view(store, done).status is TaskState.COMPLETED
    assert view(store, orphan).status is TaskState.RUNNING
    assert [found.id for found in store.workers()] == ["w"]
    recovered = store.recover(new)
    assert (list(recovered.workers), recovered.pending) == (["w"], 1)


# ---- a clock that is set back


HOUR_S = 3600.0


def test_a_term_of_the_future_is_taken_at_once_and_its_holder_told(world: World) -> None:
    """Its holder may have died while the clock was ahead, and nobody would lead for an hour."""
    old = lead(world.store, "a", 30.0)
    world.clock.set_back(HOUR_S)
    assert world.open().elect("b", 30.0).lease == LeaderLease("b", 2)
    assert not world.store.renew(old, 30.0)
    assert world.store.counts().leader == "b"


def test_a_leader_keeps_its_term_and_renews_it_by_the_clock_as_it_is_now(world: World) -> None:
    lease = lead(world.store, "a", 30.0)
    world.clock.set_back(HOUR_S)
    assert world.store.renew(lease, 30.0)
    assert world.open().elect("b", 30.0).lease is None
    world.clock.advance(31.0)
    assert world.open().elect("b", 30.0).lease == LeaderLease("b", 2)


def test_a_dead_worker_has_one_timeout_left_and_not_as_long_as_the_clock_jumped(world: World) -> None:
    store, clock = world.store, world.clock
    for worker_id in ("dead", "alive"):
        store.register(worker(worker_id), timeout_s=30.0, exclusive=False)
    held = put(store)
    take_one(store, worker_id="dead")
    clock.set_back(HOUR_S)
    first = store.recover(lead(store))
    assert first.workers == []
    assert first.next_in_s == pytest.approx(30.0)
    clock.advance(20.0)
    store.beat("alive", 0, 1, 30.0)
    clock.advance(11.0)
    recovered = store.recover(lead(store))
    assert (list(recovered.workers), recovered.pending) == (["dead"], 1)
    assert view(store, held).status is TaskState.PENDING


# ---- recovery


def test_what_an_expired_worker_held_runs_again(world: World) -> None:
    store, clock = world.store, world.clock
    for worker_id in ("dead", "alive"):
        store.register(worker(worker_id), timeout_s=30.0, exclusive=False)
    started, prefetched = put(store), put(store)
    take(store, worker_id="dead", running=1)
    kept = put(store)
    take_one(store, worker_id="alive")
    clock.advance(29.0)
    assert store.recover(lead(store)).workers == []
    store.beat("alive", 1, 1, 30.0)
    clock.advance(2.0)
    recovered = store.recover(lead(store))
    assert (list(recovered.workers), recovered.pending, recovered.dead_letter) == (["dead"], 2, 0)
    assert recovered.next_in_s == pytest.approx(28.0)
    assert view(store, kept).status is TaskState.RUNNING
    assert (view(store, started).attempts, view(store, prefetched).attempts) == (1, 0)
    (lost,) = store.attempts(started)
    assert (lost.outcome, lost.attempt, lost.fence, lost.worker_id) == (Outcome.LOST, 1, 1, "dead")
    assert "dead" in (view(store, started).last_error or "")
    assert len(take(store)) == 2  # at once


def test_recovery_waits_for_nobody_when_there_is_no_worker(store: Store) -> None:
    assert store.recover(lead(store)).next_in_s is None


@pytest.mark.parametrize("gone", ["HOST-1", "a", "host-1", "host-1-b", "host-1-c", "host-10-a", "host-9-z", "host_1", "ø"])
@pytest.mark.parametrize("alive", [(), ("host-1-a",), ("host-1-a", "host-1-b1", "host-2-a", "Host-3-a")])
def test_whoever_has_no_row_is_found_wherever_its_id_stands_among_the_others(
    store: Store, alive: tuple[str, ...], gone: str
) -> None:
    for one in alive:
        store.register(worker(one), 30.0, exclusive=False)
        put(store)
        assert take(store, 1, worker_id=one)
    lease = lead(store)
    assert store.recover(lease).pending == 0
    orphan = put(store)
    assert take(store, 1, worker_id=gone)
    assert store.recover(lease).pending == 1
    assert view(store, orphan).status is TaskState.PENDING
    assert store.recover(lease).pending == 0
    assert all(store.owned(one) for one in alive)


def test_the_last_attempt_lost_makes_a_dead_letter(store: Store) -> None:
    task_id = put(store, max_attempts=1)
    take_one(store)
    recovered = store.recover(lead(store))
    assert (recovered.pending, recovered.dead_letter) == (0, 1)
    assert "lost" in (view(store, task_id).last_error or "")
    assert [attempt.outcome for attempt in store.attempts(task_id)] == [Outcome.LOST]


def test_a_prefetched_task_whose_workers_keep_dying_ends_in_the_end(world: World) -> None:
    task_id = put(world.store, max_attempts=2)
    world.raw(f"UPDATE tasks SET refunds = {MAX_REFUNDS - 1}")
    lease = lead(world.store, term_s=600.0)
    for attempts in (0, 1, 2):
        take_one(world.store, running=0)
        world.store.recover(lease)
        assert view(world.store, task_id).attempts == attempts
    assert view(world.store, task_id).status is TaskState.DEAD_LETTER


def test_recovery_goes_in_steps_of_its_limit(store: Store) -> None:
    for _ in range(7):
        put(store)
    take(store)
    lease = lead(store)
    first = store.recover(lease, limit=5)
    assert (first.pending, first.next_in_s) == (5, 0.0)
    assert store.recover(lease, limit=5).pending == 2


def test_a_row_that_cannot_be_recovered_stops_no_other(world: World) -> None:
    store = world.store
    ids = [put(store) for _ in range(5)]
    take(store)
    # By hand: an attempt with the same fence exists already, and a task of this id stands in the history.
    world.raw(
        "INSERT INTO task_attempts (task_id, fence, attempt, outcome, ended_at) "
        f"SELECT id, fence, 1, 'failed', updated_at FROM tasks WHERE id = '{ids[1]}'"
    )
    put_into_history(world.raw, ids[3], "completed")
    world.raw(f"UPDATE tasks SET cancel_requested = {'1' if world.backend == 'sqlite' else 'true'} WHERE id = '{ids[3]}'")
    store.recover(lead(store))
    good = [ids[0], ids[1], ids[2], ids[4]]
    assert sorted(claim.task_id for claim in take(store, worker_id="w2")) == good
    assert store.owned("w1") == []


def test_a_recovered_task_asked_to_stop_is_cancelled(store: Store) -> None:
    for running in (0, 1):
        task_id = put(store)
        take_one(store, running=running)
        store.cancel(by_id(task_id))
        store.recover(lead(store))
        assert view(store, task_id).status is TaskState.CANCELLED


# ---- retention


def test_each_kind_is_kept_for_its_own_time(world: World) -> None:
    store, clock = world.store, world.clock
    ids = {}
    for outcome in (Outcome.SUCCESS, Outcome.CANCELLED, Outcome.FAILED):
        ids[outcome] = put(store)
        finish_one(store, ended(take_one(store), outcome, error="x"))
    waiting = put(store)
    retention = Retention(completed_s=86_400.0, cancelled_s=3 * 86_400.0, dead_letter_s=5 * 86_400.0)
    kept = []
    for _ in range(4):
        clock.advance(2 * 86_400.0)
        store.prune(lead(store), retention)
        kept.append([outcome for outcome, task_id in ids.items() if store.get(task_id)])
    assert kept == [[Outcome.CANCELLED, Outcome.FAILED], [Outcome.FAILED], [], []]
    assert store.attempts(ids[Outcome.FAILED]) == []
    assert view(store, waiting).status is TaskState.PENDING
    assert store.counts().enqueued == {"mail:send": 4}


def test_results_are_cleared_before_the_task_is(world: World) -> None:
    task_id = put(world.store)
    finish_one(world.store, ended(take_one(world.store), result=raw_json([1, 2])))
    world.store.prune(lead(world.store), Retention(result_s=3_600.0))
    assert view(world.store, task_id).result is not None
    world.clock.advance(3_601.0)
    world.store.prune(lead(world.store), Retention(result_s=3_600.0))
    found = view(world.store, task_id)
    assert (found.status, found.result) == (TaskState.COMPLETED, None)


# ---- figures


def test_counts_are_exact_however_tasks_come_and_go(world: World) -> None:
    store, clock = world.store, world.clock
    lease = lead(store, term_s=10 * 86_400.0)
    ids = [put(store, f"t{n % 2}") for n in range(12)]
    types = [info("t0"), info("t1")]
    claims = take(store, 8, running=6, types=types)
    finish_one(store, ended(claims[0]))
    finish_one(store, ended(claims[1], Outcome.FAILED))
    finish_one(store, ended(claims[2], Outcome.FAILED, retry_in_s=60.0))
    finish_one(store, ended(claims[3], Outcome.CANCELLED))
    store.cancel(by_id(ids[11]))
    store.delete(by_id(ids[10]))
    counts = store.counts()
    assert counts.pending == {"t0": 2, "t1": 1}
    assert counts.running == {"t0": 1, "t1": 1}
    assert counts.enqueued == {"t0": 6, "t1": 6}
    assert store.retry(by_id(claims[1].task_id, claims[3].task_id, ids[11])) == 3
    assert store.counts().enqueued == {"t0": 6, "t1": 6}
    clock.advance(9 * 86_400.0)
    store.prune(lease, Retention(completed_s=1.0, cancelled_s=1.0, dead_letter_s=1.0))
    store.recover(lease)
    assert store.counts().enqueued == {"t0": 6, "t1": 6}
    assert sum(store.counts().pending.values()) == 10
    assert store.delete(by_id(*ids)) == 10
    assert store.counts().enqueued == {"t0": 6, "t1": 6}
    assert store.counts().pending == {}


def _counters(store: Store, worker_id: str) -> dict[tuple[str, str], float]:
    return {(delta.name, delta.labels): delta.value for delta in store.counters(worker_id)}


def test_counters_add_up_for_each_worker(store: Store) -> None:
    delta = CounterDelta(name="claims", labels='{"type":"mail:send"}', value=1.0)
    store.exchange(Exchange(worker_id="w1", counters=[delta, delta]))
    store.exchange(Exchange(worker_id="w1", counters=[CounterDelta(name="a", labels="{}", value=0.5)]))
    store.exchange(Exchange(worker_id="w2", counters=[delta]))
    assert store.counters("w1") == [
        CounterDelta(name="a", labels="{}", value=0.5),
        CounterDelta(name="claims", labels='{"type":"mail:send"}', value=2.0),
    ]
    assert store.counters("nobody") == []


def test_outcomes_are_counted_once_with_the_row_they_count(store: Store) -> None:
    for _ in range(4):
        put(store, max_attempts=2)
    good, again, bad, fenced = take(store)
    batch = [
        ended(good, duration_s=0.3),
        ended(again, Outcome.FAILED, retry_in_s=0.0, duration_s=2.0),
        ended(bad, Outcome.TIMEOUT, duration_s=float("nan")),
        ended(Lease(fenced.task_id, fenced.fence + 1)),
        ended(good, duration_s=0.3),
    ]
    for _ in range(2):  # the second time all of it is a resend
        store.exchange(Exchange(worker_id="w1", ended=batch))
    counted = _counters(store, "w1")
    assert counted["tasks_completed_total", '{"status":"success","type":"mail:send"}'] == 1.0
    assert counted["tasks_completed_total", '{"status":"failed","type":"mail:send"}'] == 2.0
    assert counted["tasks_dead_letter_total", '{"type":"mail:send"}'] == 1.0
    assert counted["task_retries_total", '{"attempt":"1","type":"mail:send"}'] == 1.0
    assert counted["task_duration_seconds_sum", '{"type":"mail:send"}'] == pytest.approx(2.3)


def test_a_dead_letter_made_by_recovery_is_counted_by_the_leaders_worker(store: Store) -> None:
    store.register(worker("w1"), 30.0, exclusive=False)
    put(store, max_attempts=1)
    put(store, max_attempts=5)
    take(store, 2, worker_id="gone")
    recovered = store.recover(lead(store, "w1"))
    assert (recovered.pending, recovered.dead_letter) == (1, 1)
    assert store.counters("w1") == [CounterDelta(name="tasks_dead_letter_total", labels=f'{{"type":"{TYPE}"}}', value=1.0)]


@pytest.mark.parametrize("exclusive", [True, False])
def test_only_a_single_instance_takes_the_lead_from_its_predecessor_at_once(store: Store, exclusive: bool) -> None:
    store.register(worker("old"), 30.0, exclusive=False)
    before = lead(store, "old", 30.0)
    store.register(worker("new"), 30.0, exclusive=exclusive)
    lease = store.elect("new", 30.0).lease
    assert lease == (LeaderLease("new", before.term + 1) if exclusive else None)
    assert store.renew(before, 30.0) is not exclusive
