"""Claims on PostgreSQL stay on their page and out of every index; what a worker holds is found by the ranges of its claims."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
from store_harness import ManualClock, ask, ended, finish, finish_one, lead, new, put, status, take, take_one, worker

from shiftboss.lease import LeaderLease
from shiftboss.model import Lease, TaskState, Verdict
from shiftboss.store.base import Exchange, Retention
from shiftboss.store.postgres import migrate, upkeep
from shiftboss.store.postgres.exchange import _claim_statement
from shiftboss.store.postgres.link import bounds, run
from shiftboss.store.postgres.migrate import migrations
from shiftboss.store.postgres.store import PostgresStore, open_postgres
from tests.conftest import as_owner

DAY_S = 86_400.0
PATIENCE_S = 20.0
KEEP = Retention(completed_s=DAY_S, cancelled_s=DAY_S, dead_letter_s=DAY_S, result_s=DAY_S)
_INDEXED = """
SELECT DISTINCT a.attname FROM pg_index i
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refobjid = i.indrelid
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE i.indrelid = 'tasks'::regclass AND a.attnum > 0
"""
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
_REWRITTEN = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'tasks'"


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock()
    clock.advance(-clock.now().timestamp() % 5)  # where a period begins
    return clock


@pytest.fixture
def store(pg_database: str, clock: ManualClock) -> Iterator[PostgresStore]:
    store = open_postgres(pg_database, clock=clock)
    yield store
    store.close()


def owned(store: PostgresStore, worker_id: str = "w1") -> list[str]:
    return [one.task_id for one in store.owned(worker_id)]


def ranges(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(as_owner(dsn)) as connection:
        query = "SELECT worker_id, queue, priority, first_due, last_due FROM claim_ranges ORDER BY 1, 2, 3"
        return connection.execute(query).fetchall()


@contextmanager
def claiming(dsn: str, store: PostgresStore, clock: ManualClock, waits: int) -> Iterator[None]:
    """A claim of `w1` for one task that is committed as soon as so many sessions wait for it."""
    request = Exchange(worker_id="w1", claim=ask(store, 1))
    assert request.claim is not None
    with store._link.connected() as connection, connection.transaction():
        bounds(connection, pinned=True)
        query, params = _claim_statement(request, request.claim, clock.now())
        assert len(run(connection, query, params).fetchall()) == 1
        yield
        assert until_told(as_owner(dsn), _WAITING, lambda row: row[0] == waits) == (waits,)


def until_told(dsn: str, query: str, is_it: Callable[[tuple[Any, ...]], bool]) -> tuple[Any, ...]:
    """The server's counters ring for nobody: ask until they are right, or have had time enough; the last answer."""
    pause, give_up_s = Event(), time.monotonic() + PATIENCE_S
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            row = connection.execute(query).fetchone()
            assert row is not None
            if is_it(row) or time.monotonic() > give_up_s:
                return row
            pause.wait(0.02)


# ---- the page


def test_no_index_mentions_what_a_claim_changes(pg_database: str) -> None:
    with psycopg.connect(as_owner(pg_database)) as connection:
        mentioned = {row[0] for row in connection.execute(_INDEXED)}
    assert mentioned == {"id", "queue", "priority", "due_at", "dead_at", "unique_key", "cancel_requested"}


def test_claims_and_starts_are_written_on_the_page_of_their_task(pg_empty_database: str) -> None:
    store = open_postgres(pg_empty_database)
    store.migrate()
    store.enqueue([new() for _ in range(400)])
    claims = take(store, 400, running=0)
    store.exchange(Exchange(worker_id="w1", starts=[Lease(claim.task_id, claim.fence) for claim in claims[::4]]))
    store.close()  # a session tells its counts when it ends
    rewritten, in_place = until_told(pg_empty_database, _REWRITTEN, lambda row: row[0] >= 500)
    assert rewritten == 500
    assert in_place >= 450, "a page has room for the claim of each of its tasks, and for some starts"


# ---- what a worker holds


def test_all_that_is_held_is_found_in_every_lane(store: PostgresStore) -> None:
    ids = [put(store, queue=queue, priority=priority) for queue in ("default", "mail") for priority in (0, 5)]
    claims = take(store, 10)
    assert owned(store) == sorted(ids)
    assert owned(store, "w2") == []
    finish(store, ended(claims[0]))
    assert owned(store) == sorted(claim.task_id for claim in claims[1:])


def test_what_was_due_before_and_after_the_first_claim_is_found(store: PostgresStore, clock: ManualClock) -> None:
    middle = put(store)
    take_one(store)
    clock.advance(10.0)
    after = put(store)
    take_one(store)
    before = put(store, run_at=clock.now() - timedelta(days=1))
    take_one(store)
    assert owned(store) == sorted([before, middle, after])


def test_claims_of_another_period_have_ranges_of_their_own(pg_database: str, store: PostgresStore, clock: ManualClock) -> None:
    """One row that every claim writes would be walked over, version by version, while somebody holds a snapshot."""
    ids = []
    for _ in range(3):
        ids.append(put(store, run_at=clock.now() - timedelta(days=1)))
        take_one(store)
        clock.advance(5.0)
    assert len(ranges(pg_database)) == 3
    assert owned(store) == ids


def test_ranges_become_as_short_as_what_is_held(pg_database: str, store: PostgresStore, clock: ManualClock) -> None:
    put(store)
    (old,) = take(store)
    clock.advance(1.0)
    held = put(store)
    take_one(store)
    assert owned(store) == [old.task_id, held]
    assert len(ranges(pg_database)) == 1
    finish(store, ended(old))
    assert owned(store) == [held]
    assert ranges(pg_database) == [("w1", "default", 0, clock.now(), clock.now())]
    assert owned(store) == [held]


def test_no_range_is_left_where_nothing_is_held(pg_database: str, store: PostgresStore) -> None:
    put(store)
    finish(store, ended(take_one(store)))
    for _ in range(2):  # it is found empty, and then removed
        assert ranges(pg_database) != []
        assert owned(store) == []
    assert ranges(pg_database) == []
    task_id = put(store)
    take_one(store)
    assert owned(store) == [task_id]


def test_a_range_is_not_emptied_under_a_claim(pg_database: str, store: PostgresStore, clock: ManualClock) -> None:
    put(store)
    finish(store, ended(take_one(store)))
    task_id = put(store)
    other = open_postgres(pg_database, clock=clock)
    looking = Thread(target=other.owned, args=("w1",))
    with claiming(pg_database, store, clock, waits=1):
        looking.start()
    looking.join(PATIENCE_S)
    assert owned(store) == [task_id]
    other.close()


def test_an_empty_range_is_not_removed_under_a_claim(pg_database: str, store: PostgresStore, clock: ManualClock) -> None:
    put(store)
    finish(store, ended(take_one(store)))
    assert owned(store) == []
    task_id = put(store)
    other = open_postgres(pg_database, clock=clock)
    with claiming(pg_database, store, clock, waits=0):
        assert owned(other) == []
    assert owned(store) == [task_id]
    other.close()


def test_a_range_is_not_made_shorter_under_a_claim(pg_database: str, store: PostgresStore, clock: ManualClock) -> None:
    put(store)
    (first,) = take(store)
    clock.advance(1.0)
    late = put(store)
    take_one(store)
    finish(store, ended(first))
    between = put(store, run_at=clock.now() - timedelta(seconds=0.5))
    other = open_postgres(pg_database, clock=clock)
    looking = Thread(target=other.owned, args=("w1",))
    with claiming(pg_database, store, clock, waits=1):
        looking.start()
    looking.join(PATIENCE_S)
    assert owned(store) == sorted([between, late])
    other.close()


# ---- the dead


def test_what_a_removed_worker_claims_meanwhile_is_recovered(pg_database: str, store: PostgresStore, clock: ManualClock) -> None:
    put(store)
    finish(store, ended(take_one(store)))  # w1 has no row: it was frozen for too long
    task_id = put(store)
    other = open_postgres(pg_database, clock=clock)
    lease = lead(other)
    looking = Thread(target=other.recover, args=(lease,))
    with claiming(pg_database, store, clock, waits=1):
        looking.start()
    looking.join(PATIENCE_S)
    assert status(store, task_id) is TaskState.RUNNING
    assert other.recover(lease).pending == 1
    assert status(store, task_id) is TaskState.PENDING
    assert ranges(pg_database) == []
    other.close()


def test_who_has_left_in_order_leaves_nothing(pg_database: str, store: PostgresStore) -> None:
    store.register(worker("w1"), timeout_s=30.0, exclusive=False)
    put(store)
    finish(store, ended(take_one(store)))
    store.deregister("w1")
    lease = lead(store)
    assert store.recover(lease).pending == 0
    assert ranges(pg_database) == []


def test_the_ranges_of_the_living_stay(pg_database: str, store: PostgresStore) -> None:
    store.register(worker("w1"), timeout_s=3_600.0, exclusive=False)
    put(store)
    finish(store, ended(take_one(store)))
    put(store)
    take(store, worker_id="gone")
    assert store.recover(lead(store)).pending == 1
    assert [row[0] for row in ranges(pg_database)] == ["w1"]


def test_what_no_claim_of_ours_has_leased_is_found_by_the_next_cleaning(pg_database: str, store: PostgresStore) -> None:
    task_id = put(store)
    with psycopg.connect(as_owner(pg_database), autocommit=True) as connection:
        connection.execute("UPDATE tasks SET status = 'running', worker_id = 'of an older version', attempts = 1, fence = 1")
    lease = lead(store)
    assert store.recover(lease).pending == 0
    store.prune(lease, KEEP)
    assert store.recover(lease).pending == 1
    assert status(store, task_id) is TaskState.PENDING


def test_a_cleaning_goes_through_the_whole_table_in_steps(
    store: PostgresStore, pg_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_COVER_BATCH", 2)
    ids = [put(store, queue=f"q{number}") for number in range(6)]
    with psycopg.connect(as_owner(pg_database), autocommit=True) as connection:
        connection.execute("UPDATE tasks SET status = 'running', worker_id = 'w1', attempts = 1, fence = 1")
    lease = lead(store)
    for _ in range(2):  # the second time from the beginning again
        with psycopg.connect(as_owner(pg_database), autocommit=True) as connection:
            connection.execute("DELETE FROM claim_ranges")
        assert owned(store) == []
        store.prune(lease, KEEP)
        assert owned(store) == ids


def test_a_leader_that_was_replaced_covers_nothing(store: PostgresStore, pg_database: str) -> None:
    put(store)
    with psycopg.connect(as_owner(pg_database), autocommit=True) as connection:
        connection.execute("UPDATE tasks SET status = 'running', worker_id = 'w1', attempts = 1, fence = 1")
    lease = lead(store)
    store._upkeep._cover(LeaderLease(lease.worker_id, lease.term - 1), None)
    assert ranges(pg_database) == []


def test_a_schema_before_ranges_is_brought_up_to_date_under_a_worker(
    pg_empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, every = open_postgres(pg_empty_database), migrations()
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "migrations", lambda: every[:4])
        store.migrate()
    held, dead = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"
    with psycopg.connect(pg_empty_database) as connection:
        columns, values = "id, type, status, worker_id, fence, attempts, unique_key", "%s, 'mail:send', %s, 'w1', 1, 1, %s"
        connection.execute(f"INSERT INTO tasks ({columns}) VALUES ({values})", (held, "running", None))
        connection.execute(f"INSERT INTO tasks ({columns}) VALUES ({values})", (dead, "dead_letter", "once"))
    store.migrate()
    assert owned(store) == [held]
    put(store, unique_key="once")  # a dead letter holds no key
    assert finish_one(store, ended(Lease(held, 1))) == (Verdict.APPLIED, TaskState.COMPLETED)
    assert store.prune(lead(store), Retention(completed_s=DAY_S, cancelled_s=DAY_S, dead_letter_s=0.0, result_s=DAY_S)) == 1
    store.close()
