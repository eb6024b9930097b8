"""Claiming on PostgreSQL under contention: nobody waits, nothing is claimed twice, no more is locked than is claimed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Barrier, Thread
from typing import Any

import psycopg
import pytest
from store_harness import ManualClock, ended, finish, info, lead, new, put, status, take

from shiftboss.model import Claim, Lease, Outcome, TaskState, Verdict
from shiftboss.store.base import ClaimAsk, Election, Exchange, LaneAsk, Recovered
from shiftboss.store.postgres.exchange import _claim_statement, _end_statements
from shiftboss.store.postgres.link import BoundedConnection, bounds, run
from shiftboss.store.postgres.store import PostgresStore, open_postgres

TASKS = 2_000
BATCH = 25


@pytest.fixture
def store(pg_database: str) -> Iterator[PostgresStore]:
    store = open_postgres(pg_database)
    yield store
    store.close()


def wish(limit: int, merge: str | None = None, priorities: tuple[int, ...] = (0,)) -> ClaimAsk:
    lanes = [LaneAsk(queue="default", priority=priority, limit=limit) for priority in priorities]
    return ClaimAsk(lanes=lanes, limit=limit, running=limit, types=[info()], merge=merge)


@pytest.mark.parametrize("merge", [None, "fifo", "lifo"])
def test_four_workers_at_once_run_each_task_once(pg_database: str, store: PostgresStore, merge: str | None) -> None:
    store.enqueue([new(priority=i % 3) for i in range(TASKS)])
    started = Barrier(4)
    ran: list[list[Claim]] = [[] for _ in range(4)]
    verdicts: Counter[Verdict] = Counter()

    def work(number: int) -> None:
        mine = open_postgres(pg_database)
        started.wait()
        claims: list[Claim] = []
        while len(seen := [claim for one in ran for claim in one]) < TASKS:
            answer = mine.exchange(
                Exchange(
                    worker_id=f"w{number}",
                    ended=[ended(claim) for claim in claims],
                    claim=wish(BATCH, merge, (2, 1, 0)),
                )
            )
            verdicts.update(answer.verdicts)
            claims = list(answer.claims)
            ran[number].extend(claims)
            del seen
        finish(mine, *(ended(claim) for claim in claims), worker_id=f"w{number}")
        mine.close()

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ids = [claim.task_id for one in ran for claim in one]
    assert len(ids) == len(set(ids)) == TASKS
    assert set(verdicts) == {Verdict.APPLIED}
    assert store.status_counts() == {("mail:send", "completed"): TASKS}
    assert all(ran), "somebody got nothing at all"


@contextmanager
def claiming(store: PostgresStore, ask: ClaimAsk) -> Iterator[list[str]]:
    """A claim that has not been committed yet; the ids claimed."""
    with store._link.connected() as connection, connection.transaction():
        bounds(connection, pinned=True)
        found = _claimed(connection, ask)
        yield found


def _claimed(connection: BoundedConnection, ask: ClaimAsk) -> list[str]:
    return [row[1] for row in run(connection, *_claim_statement(Exchange(worker_id="w1"), ask, None))]


@pytest.mark.parametrize("merge", [None, "fifo", "lifo"])
def test_no_row_more_is_locked_than_is_claimed(store: PostgresStore, pg_database: str, merge: str | None) -> None:
    store.enqueue([new(priority=i % 2) for i in range(100)])
    with claiming(store, wish(10, merge, (1, 0))) as claimed, psycopg.connect(pg_database) as other:
        unlocked = other.execute("SELECT id::text FROM tasks FOR UPDATE SKIP LOCKED").fetchall()
    assert len(claimed) == 10
    assert {row[0] for row in unlocked}.isdisjoint(claimed)
    assert len(unlocked) == 90


@pytest.mark.parametrize("merge", [None, "fifo", "lifo"])
def test_a_second_claimer_takes_the_next_ones_without_waiting(store: PostgresStore, pg_database: str, merge: str | None) -> None:
    store.enqueue([new() for _ in range(40)])
    other = open_postgres(pg_database)
    with claiming(store, wish(10, merge)) as claimed:
        answer = other.exchange(Exchange(worker_id="w2", claim=wish(10, merge)))
    assert len(answer.claims) == 10
    assert {claim.task_id for claim in answer.claims}.isdisjoint(claimed)
    other.close()


def test_an_end_finds_the_row_that_someone_changes_meanwhile(store: PostgresStore, pg_database: str) -> None:
    task_id = put(store)
    (claim,) = take(store)
    answers: list[tuple[Verdict, TaskState | None]] = []
    worker = Thread(target=lambda: answers.extend(finish(store, ended(claim))))
    with psycopg.connect(pg_database) as operator:
        operator.execute("UPDATE tasks SET cancel_requested = true, last_error = 'asked' WHERE id = %s", (task_id,))
        worker.start()
        worker.join(0.3)
        assert worker.is_alive(), "it should wait for the operator's commit"
    worker.join(10)
    assert answers == [(Verdict.APPLIED, TaskState.COMPLETED)]
    found = store.get(task_id)
    assert found is not None
    assert found.last_error == "asked", "the row was moved as it stood before the other's change"


def test_an_end_of_a_row_that_is_given_to_another_meanwhile_is_fenced(store: PostgresStore, pg_database: str) -> None:
    task_id = put(store)
    (claim,) = take(store)
    answers: list[tuple[Verdict, TaskState | None]] = []
    worker = Thread(target=lambda: answers.extend(finish(store, ended(claim))))
    with psycopg.connect(pg_database) as other:
        other.execute("UPDATE tasks SET fence = fence + 1, worker_id = 'w2' WHERE id = %s", (task_id,))
        worker.start()
        worker.join(0.3)
    worker.join(10)
    assert answers == [(Verdict.FENCED, None)]
    assert status(store, task_id) is TaskState.RUNNING


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILED])
def test_an_end_that_meets_its_own_earlier_commit_under_way_is_already_applied(
    store: PostgresStore, pg_database: str, outcome: Outcome
) -> None:
    put(store)
    (claim,) = take(store)
    end = ended(claim, outcome, retry_in_s=60.0)
    answers: list[tuple[Verdict, TaskState | None]] = []
    again = Thread(target=lambda: answers.extend(finish(store, end)))
    lost = open_postgres(pg_database)  # its client has given up; the server still works on it
    with closing(lost), lost._link.connected() as connection, connection.transaction():
        for statement in _end_statements(Exchange(worker_id="w1"), [end], None):
            run(connection, statement.query, statement.params)
        again.start()
        again.join(0.3)
        assert again.is_alive(), "it should wait for the commit"
    again.join(10)
    assert answers == [(Verdict.ALREADY_APPLIED, None)]


def test_no_finish_waits_for_another_workers_transaction(store: PostgresStore, pg_database: str) -> None:
    store.enqueue([new() for _ in range(2)])
    first, second = (take(store, 1, worker_id=f"w{n}")[0] for n in (1, 2))
    with psycopg.connect(pg_database) as slow:  # one that has finished a task of the same type, and not committed yet
        slow.execute("INSERT INTO departures (slot, type, n) VALUES ('w1', 'mail:send', 1)")
        slow.execute("DELETE FROM tasks WHERE id = %s", (first.task_id,))
        slow.execute("INSERT INTO counters VALUES ('w1', 'tasks_completed_total', '{}', 1)")
        assert finish(store, ended(second), worker_id="w2") == [(Verdict.APPLIED, TaskState.COMPLETED)]
        slow.rollback()


def test_a_release_of_many_is_one_statement_with_no_row_twice(store: PostgresStore) -> None:
    ids = [put(store) for _ in range(3)]
    claims = take(store, running=0)
    leases = [Lease(claim.task_id, claim.fence) for claim in claims]
    store.exchange(Exchange(worker_id="w1", releases=[*leases, *leases]))
    assert {status(store, task_id) for task_id in ids} == {TaskState.PENDING}


def test_a_new_leader_waits_for_what_the_old_one_is_writing(pg_database: str) -> None:
    clock = ManualClock()
    old, new_one = open_postgres(pg_database, clock=clock), open_postgres(pg_database, clock=clock)
    lease = lead(old, "a", 30.0)
    won: list[Election] = []
    with old._link.connected() as connection, connection.transaction():
        assert run(connection, "hold_term", {"worker_id": "a", "term": lease.term, "now": clock.now()}).fetchone()
        clock.advance(31)
        other = Thread(target=lambda: won.append(new_one.elect("b", 30.0)))
        other.start()
        other.join(0.3)
        assert won == [], "it must not lead beside the other's open transaction"
    other.join(10)
    assert won[0].lease is not None
    assert won[0].lease.term == lease.term + 1
    old.close()
    new_one.close()


def test_recovery_passes_over_a_row_that_a_late_finish_still_holds(store: PostgresStore, pg_database: str) -> None:
    ids = [put(store) for _ in range(3)]
    take(store, worker_id="gone")
    lease = lead(store)
    with psycopg.connect(pg_database) as late:
        late.execute("SELECT 1 FROM tasks WHERE id = %s FOR UPDATE", (ids[1],))
        assert store.recover(lease).pending == 2
    assert store.recover(lease).pending == 1


def test_a_lead_that_is_lost_after_the_look_recovers_nothing(
    store: PostgresStore, pg_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tells cheaply whether there is anything to do holds no term: another may lead before it is done."""
    orphan = put(store)
    take(store, worker_id="gone")
    lease = lead(store)
    looked = store._link.rows

    def look_and_lose_the_lead(query: str, *args: Any, **kwargs: Any) -> list[tuple[Any, ...]]:
        found = looked(query, *args, **kwargs)
        if query == "look_for_dead":
            with psycopg.connect(pg_database, autocommit=True) as other:
                other.execute("UPDATE leader SET worker_id = 'another', term = term + 1")
        return found

    monkeypatch.setattr(store._link, "rows", look_and_lose_the_lead)
    assert store.recover(lease) == Recovered()
    assert status(store, orphan) is TaskState.RUNNING
