"""Who may end a task: fences, resends, zombies, and what each outcome leaves behind."""

from __future__ import annotations

import pytest
from store_harness import (
    World,
    ask,
    by_id,
    ended,
    finish,
    finish_one,
    info,
    lead,
    lease,
    put,
    raw_json,
    status,
    take,
    take_one,
    view,
)

from shiftboss.model import (
    MAX_REFUNDS,
    Lease,
    Outcome,
    Progress,
    TaskState,
    Verdict,
    new_task_id,
)
from shiftboss.store.base import Exchange, LaneAsk, Store

UNSUCCESSFUL = [Outcome.FAILED, Outcome.TIMEOUT, Outcome.CRASHED, Outcome.INTERRUPTED, Outcome.SNOOZED, Outcome.CANCELLED]
BY_OWNER = [Outcome.SUCCESS, *UNSUCCESSFUL]
APPLIED, ALREADY, FENCED = Verdict.APPLIED, Verdict.ALREADY_APPLIED, Verdict.FENCED


@pytest.fixture(params=[True, False], ids=["running", "claimed"])
def running(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("outcome", BY_OWNER)
def test_a_resend_is_told_already_applied_and_changes_nothing(store: Store, outcome: Outcome, running: bool) -> None:
    task_id = put(store)
    end = ended(take_one(store, running=int(running)), outcome, error="e", retry_in_s=5.0)
    assert finish_one(store, end)[0] is APPLIED
    before = view(store, task_id), store.attempts(task_id)
    assert finish_one(store, end) == (ALREADY, None)
    assert (view(store, task_id), store.attempts(task_id)) == before


@pytest.mark.parametrize("outcome", [outcome for outcome in UNSUCCESSFUL if outcome is not Outcome.CANCELLED])
def test_a_resend_while_someone_else_runs_the_task_is_still_true(world: World, outcome: Outcome) -> None:
    store = world.store
    task_id = put(store)
    first = ended(take_one(store), outcome, error="e", retry_in_s=0.0)
    finish_one(store, first)
    second = take_one(store, worker_id="w2")
    assert finish_one(store, first) == (ALREADY, None)
    assert view(store, task_id).worker_id == "w2"
    assert finish_one(store, ended(second)) == (APPLIED, TaskState.COMPLETED)


@pytest.mark.parametrize("said", BY_OWNER)
@pytest.mark.parametrize("stored", BY_OWNER)
def test_another_outcome_than_the_one_that_is_stored_is_fenced(
    store: Store, stored: Outcome, said: Outcome, running: bool
) -> None:
    """Handed back when the time to stop was over, and completed a moment later: nobody is told that the success is stored."""
    task_id = put(store)
    claim = take_one(store, running=int(running))
    assert finish_one(store, ended(claim, stored, error="e", retry_in_s=5.0))[0] is APPLIED
    before = view(store, task_id), store.attempts(task_id)
    later = ended(claim, said, error="late", retry_in_s=1.0)
    assert finish_one(store, later) == (ALREADY if said is stored else FENCED, None)
    assert (view(store, task_id), store.attempts(task_id)) == before


@pytest.mark.parametrize("outcome", BY_OWNER)
def test_a_stale_fence_changes_nothing(store: Store, outcome: Outcome, running: bool) -> None:
    task_id = put(store)
    stale = take_one(store)
    store.exchange(Exchange(worker_id="w1", releases=[lease(stale)]))
    take_one(store, worker_id="w1", running=int(running))  # the same worker: only the fence tells the two apart
    before = view(store, task_id)
    assert finish_one(store, ended(stale, outcome, error="late", retry_in_s=1.0)) == (FENCED, None)
    store.exchange(Exchange(worker_id="w1", starts=[lease(stale)], releases=[lease(stale)]))
    store.exchange(Exchange(worker_id="w1", progress=[Progress(task_id=task_id, fence=stale.fence, percent=50.0)]))
    assert view(store, task_id) == before
    assert store.attempts(task_id) == []


@pytest.mark.parametrize("outcome", BY_OWNER)
def test_a_zombie_is_fenced_after_its_task_was_recovered(store: Store, outcome: Outcome) -> None:
    task_id = put(store)
    zombie = take_one(store)
    store.recover(lead(store))
    assert finish_one(store, ended(zombie, outcome, error="late")) == (FENCED, None)
    assert view(store, task_id).status is TaskState.PENDING
    assert [attempt.outcome for attempt in store.attempts(task_id)] == [Outcome.LOST]


@pytest.mark.parametrize("outcome", BY_OWNER)
def test_a_zombie_is_fenced_after_recovery_made_its_task_a_dead_letter(store: Store, outcome: Outcome) -> None:
    # The dead letter carries the zombie's own fence: fence alone must not read as "your result stands".
    task_id = put(store, max_attempts=1)
    zombie = take_one(store)
    assert store.recover(lead(store)).dead_letter == 1
    assert finish_one(store, ended(zombie, outcome, error="late")) == (FENCED, None)
    assert view(store, task_id).status is TaskState.DEAD_LETTER


def test_an_owner_is_fenced_when_an_operator_cancelled_what_it_had_given_back(store: Store) -> None:
    task_id = put(store)
    claim = take_one(store)
    store.exchange(Exchange(worker_id="w1", releases=[lease(claim)]))
    store.cancel(by_id(task_id))
    assert finish_one(store, ended(claim)) == (FENCED, None)
    assert view(store, task_id).status is TaskState.CANCELLED


def test_an_owner_is_fenced_when_recovery_cancelled_its_task(store: Store) -> None:
    task_id = put(store)
    claim = take_one(store)
    store.cancel(by_id(task_id))
    store.recover(lead(store))
    assert view(store, task_id).status is TaskState.CANCELLED
    assert finish_one(store, ended(claim, Outcome.CANCELLED)) == (FENCED, None)


def test_the_end_of_an_unknown_task_is_fenced(store: Store) -> None:
    assert finish_one(store, ended(Lease(new_task_id(), 1))) == (FENCED, None)


def test_the_fence_rises_at_every_claim_and_never_falls(store: Store) -> None:
    task_id = put(store, max_attempts=2)
    fences = []
    for retry_in_s in (0.0, None):
        claim = take_one(store)
        fences.append(claim.fence)
        finish_one(store, ended(claim, Outcome.FAILED, retry_in_s=retry_in_s))
    assert store.retry(by_id(task_id)) == 1
    fences.append(take_one(store).fence)
    assert fences == [1, 2, 3]


def test_one_batch_gets_one_verdict_for_each_of_its_ends(store: Store) -> None:
    ids = [put(store) for _ in range(4)]
    good, bad, twice, stale = sorted(take(store), key=lambda claim: ids.index(claim.task_id))
    batch = [
        ended(good),
        ended(twice),
        ended(bad, Outcome.FAILED, error="no"),
        ended(twice, Outcome.FAILED, error="second word"),
        ended(twice),
        ended(Lease(stale.task_id, stale.fence - 1)),
        ended(stale),
    ]
    assert finish(store, *batch) == [
        (APPLIED, TaskState.COMPLETED),
        (APPLIED, TaskState.COMPLETED),
        (APPLIED, TaskState.DEAD_LETTER),
        (FENCED, None),
        (ALREADY, None),
        (FENCED, None),
        (APPLIED, TaskState.COMPLETED),
    ]


@pytest.mark.parametrize("keep", [True, False], ids=["history", "no history"])
def test_of_a_batch_of_successes_only_those_are_stored_that_hold_their_task(store: Store, keep: bool) -> None:
    """The others are another's now, wait again, or were never there; of each type one is stored."""
    ids = [put(store, type_) for type_ in ("a", "b", "a", "b", "a")]
    types = [info("a"), info("b")]
    ours, elses, back, theirs, too = take(store, types=types)
    store.exchange(Exchange(worker_id="w1", releases=[lease(elses), lease(back), lease(theirs)]))
    again = take(store, 1, worker_id="w2", types=types)
    assert [claim.task_id for claim in again] == [elses.task_id]
    unknown = Lease(new_task_id(), 1)
    batch = [ended(one, result=raw_json(n)) for n, one in enumerate((ours, elses, back, theirs, unknown, too))]
    answer = store.exchange(Exchange(worker_id="w1", ended=batch, keep_completed=keep))
    assert answer.verdicts == [APPLIED, FENCED, FENCED, FENCED, FENCED, APPLIED]
    assert [status(store, ids[place]) for place in (1, 2, 3)] == [TaskState.RUNNING, TaskState.PENDING, TaskState.PENDING]
    found = [store.get(ids[place]) for place in (0, 4)]
    assert [None if one is None else one.result for one in found] == ([raw_json(0), raw_json(5)] if keep else [None, None])
    assert store.counts().enqueued == {"a": 3, "b": 2}
    assert finish(store, *map(ended, again), worker_id="w2") == [(APPLIED, TaskState.COMPLETED)]


def test_two_connections_ending_the_same_lease_store_it_once(store: Store, other_store: Store) -> None:
    put(store)
    end = ended(take_one(store))
    assert finish_one(store, end)[0] is APPLIED
    assert finish_one(other_store, end)[0] is ALREADY


# ---- what each outcome leaves


def test_success(world: World, running: bool) -> None:
    task_id = put(world.store, tags=("a", "b"), meta=raw_json({"k": 1}), unique_key="u", priority=3, timeout_s=9.0)
    claim = take_one(world.store, running=int(running))
    world.clock.advance(2.0)
    finish_one(world.store, ended(claim, result=raw_json({"answer": 42}), duration_s=1.5))
    found = view(world.store, task_id)
    assert (found.status, found.attempts, found.fence, found.worker_id) == (TaskState.COMPLETED, 1, 1, "w1")
    assert found.result is not None
    assert bytes(found.result).replace(b" ", b"") == b'{"answer":42}'
    assert (found.finished_at, found.duration_s) == (world.clock.now(), 1.5)
    assert (found.tags, found.unique_key, found.priority, found.timeout_s) == (("a", "b"), "u", 3, 9.0)
    assert world.store.attempts(task_id) == []


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMEOUT, Outcome.CRASHED])
def test_a_failure_with_attempts_left_is_tried_again_after_its_delay(world: World, outcome: Outcome, running: bool) -> None:
    store, clock = world.store, world.clock
    task_id = put(store, max_attempts=3)
    end = ended(
        take_one(store, running=int(running)), outcome, error="boom", traceback="Traceback…", retry_in_s=60.0, duration_s=0.5
    )
    assert finish_one(store, end) == (APPLIED, TaskState.PENDING)
    found = view(store, task_id)
    assert (found.attempts, found.last_error, found.worker_id) == (1, "boom", None)
    assert found.next_retry_at is not None
    assert (found.next_retry_at - clock.now()).total_seconds() == 60.0
    (attempt,) = store.attempts(task_id)
    assert (attempt.attempt, attempt.outcome, attempt.error, attempt.traceback) == (1, outcome, "boom", "Traceback…")
    assert (attempt.fence, attempt.worker_id, attempt.duration_s) == (1, "w1", 0.5)
    clock.advance(59.0)
    assert take(store) == []
    clock.advance(1.0)
    assert take_one(store).attempt == 2


def test_the_last_attempt_makes_a_dead_letter(store: Store, running: bool) -> None:
    task_id = put(store, max_attempts=1)
    end = ended(take_one(store, running=int(running)), Outcome.FAILED, error="boom", retry_in_s=1.0)
    assert finish_one(store, end) == (APPLIED, TaskState.DEAD_LETTER)
    found = view(store, task_id)
    assert (found.attempts, found.max_attempts, found.last_error) == (1, 1, "boom")


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.SNOOZED])
def test_interrupted_and_snoozed_give_the_attempt_back(world: World, outcome: Outcome, running: bool) -> None:
    store = world.store
    task_id = put(store, max_attempts=1)
    end = ended(take_one(store, running=int(running)), outcome, retry_in_s=60.0 if outcome is Outcome.SNOOZED else None)
    assert finish_one(store, end) == (APPLIED, TaskState.PENDING)
    assert view(store, task_id).attempts == 0
    assert [attempt.outcome for attempt in store.attempts(task_id)] == [outcome]
    assert len(take(store)) == (1 if outcome is Outcome.INTERRUPTED else 0)
    world.clock.advance(60.0)
    assert len(take(store)) == (0 if outcome is Outcome.INTERRUPTED else 1)


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.SNOOZED])
def test_past_the_cap_an_attempt_stays_charged(world: World, outcome: Outcome, running: bool) -> None:
    task_id = put(world.store, max_attempts=2)
    world.raw(f"UPDATE tasks SET refunds = {MAX_REFUNDS}")
    for expected in (TaskState.PENDING, TaskState.DEAD_LETTER):
        end = ended(take_one(world.store, running=int(running)), outcome)
        assert finish_one(world.store, end) == (APPLIED, expected)
    found = view(world.store, task_id)
    assert found.attempts == 2
    assert str(MAX_REFUNDS) in (found.last_error or "")  # and it says why


def test_snoozing_for_ever_ends(world: World) -> None:
    put(world.store, max_attempts=1)
    world.raw(f"UPDATE tasks SET refunds = {MAX_REFUNDS - 3}")
    runs = 0
    while claims := take(world.store):
        runs += 1
        finish_one(world.store, ended(claims[0], Outcome.SNOOZED, retry_in_s=0.0))
    assert runs == 4


def test_a_release_of_a_claimed_task_costs_nothing_and_keeps_its_place(store: Store) -> None:
    first, _second = put(store), put(store)
    claim = take_one(store, running=0)
    assert claim.task_id == first
    store.exchange(Exchange(worker_id="w1", releases=[lease(claim)]))
    found = view(store, first)
    assert (found.status, found.attempts, found.worker_id) == (TaskState.PENDING, 0, None)
    assert take_one(store).task_id == first
    assert store.attempts(first) == []


def test_a_release_of_a_running_task_gives_its_attempt_back(store: Store) -> None:
    task_id = put(store)
    claim = take_one(store)
    store.exchange(Exchange(worker_id="w1", releases=[lease(claim), lease(claim)]))
    found = view(store, task_id)
    assert (found.status, found.attempts) == (TaskState.PENDING, 0)


def test_a_release_past_the_cap_is_charged_and_recorded(world: World) -> None:
    task_id = put(world.store, max_attempts=2)
    world.raw(f"UPDATE tasks SET refunds = {MAX_REFUNDS}")
    for expected in (TaskState.PENDING, TaskState.DEAD_LETTER):
        world.store.exchange(Exchange(worker_id="w1", releases=[lease(take_one(world.store))]))
        assert status(world.store, task_id) is expected
    found = world.store.attempts(task_id)
    assert [(attempt.attempt, attempt.outcome) for attempt in found] == [(1, Outcome.INTERRUPTED), (2, Outcome.INTERRUPTED)]
    assert all(str(MAX_REFUNDS) in (attempt.error or "") for attempt in found)  # each says why it counts


def test_a_start_charges_the_attempt_once(store: Store) -> None:
    task_id = put(store)
    claim = take_one(store, running=0)
    assert (claim.attempt, view(store, task_id).attempts) == (1, 0)
    for _ in range(2):
        store.exchange(Exchange(worker_id="w1", starts=[lease(claim)]))
    found = view(store, task_id)
    assert (found.status, found.attempts) == (TaskState.RUNNING, 1)
    assert found.started_at is not None
    finish_one(store, ended(claim))
    assert view(store, task_id).attempts == 1


def test_end_start_and_claim_of_one_exchange_happen_in_this_order(store: Store) -> None:
    put(store, queue="q")
    claim = take_one(store)
    wish = ask(store, lanes=[LaneAsk(queue="q", priority=0, limit=1)])
    answer = store.exchange(
        Exchange(worker_id="w1", ended=[ended(claim, Outcome.FAILED, retry_in_s=0.0)], starts=[lease(claim)], claim=wish)
    )
    assert answer.states == [TaskState.PENDING]
    (again,) = answer.claims  # what failed just now may be claimed in the same transaction
    assert (again.task_id, again.fence, again.attempt) == (claim.task_id, 2, 2)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.INTERRUPTED, Outcome.SNOOZED])
def test_a_task_asked_to_stop_is_cancelled_instead_of_tried_again(store: Store, outcome: Outcome) -> None:
    task_id = put(store)
    claim = take_one(store)
    assert store.cancel(by_id(task_id)).requested == 1
    assert finish_one(store, ended(claim, outcome, error="x", retry_in_s=0.0)) == (APPLIED, TaskState.CANCELLED)
    assert finish_one(store, ended(claim, outcome, error="x", retry_in_s=0.0)) == (ALREADY, None)
    assert take(store) == []


def test_a_task_asked_to_stop_is_cancelled_instead_of_given_back(store: Store, running: bool) -> None:
    task_id = put(store)
    claim = take_one(store, running=int(running))
    store.cancel(by_id(task_id))
    store.exchange(Exchange(worker_id="w1", releases=[lease(claim)]))
    assert view(store, task_id).status is TaskState.CANCELLED


def test_a_task_asked_to_stop_that_succeeds_has_succeeded(store: Store) -> None:
    task_id = put(store)
    claim = take_one(store)
    store.cancel(by_id(task_id))
    assert finish_one(store, ended(claim)) == (APPLIED, TaskState.COMPLETED)


def test_caution_changes_nothing_where_nothing_is_locked(store: Store) -> None:
    ids = [put(store) for _ in range(4)]
    waiting = put(store, priority=-1)
    claims = {claim.task_id: claim for claim in take(store, 4, running=2)}
    running, claimed = ids[:2], ids[2:]
    gone = ended(Lease(new_task_id(), 1))
    answer = store.exchange(
        Exchange(
            worker_id="w1",
            ended=[ended(claims[running[0]]), gone, ended(claims[running[1]], Outcome.FAILED)],
            starts=[lease(claims[claimed[0]])],
            releases=[lease(claims[claimed[1]])],
            claim=ask(store, lanes=[LaneAsk(queue="default", priority=-1, limit=1)]),
            cautious=True,
        )
    )
    assert answer.verdicts == [APPLIED, FENCED, APPLIED]
    assert not answer.later
    assert [claim.task_id for claim in answer.claims] == [waiting]
    assert [status(store, one) for one in ids] == [
        TaskState.COMPLETED,
        TaskState.DEAD_LETTER,
        TaskState.RUNNING,
        TaskState.PENDING,
    ]
