"""Migrations, and the history's partitions day by day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import psycopg
import pytest
from store_harness import ManualClock, ended, finish, finish_one, lead, put, take, take_one

from shiftboss.errors import SchemaError
from shiftboss.model import TaskState
from shiftboss.store.base import Exchange, MigrationPlan, Retention
from shiftboss.store.postgres import migrate
from shiftboss.store.postgres.migrate import migrations
from shiftboss.store.postgres.store import PostgresStore, open_postgres
from tests.conftest import as_owner

DAY_S = 86_400.0


# ---- migrations


def test_twenty_workers_that_migrate_at_once(pg_empty_database: str) -> None:
    together = Barrier(20)
    plans: list[MigrationPlan] = []

    def start() -> None:
        store = open_postgres(pg_empty_database)
        together.wait()
        plans.append(store.migrate())
        store.check_schema()
        store.close()

    threads = [Thread(target=start) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(plans) == 20
    assert sum(len(plan.steps) for plan in plans) == len(migrations())


def test_the_plan_is_what_will_be_done(pg_empty_database: str) -> None:
    store = open_postgres(pg_empty_database)
    plan = store.migration_plan()
    assert (plan.current, plan.target) == (0, migrations()[-1][0])
    assert store.migrate() == plan
    assert store.migration_plan().steps == []
    assert store.migrate().steps == []
    store.close()


def test_a_schema_without_our_newest_migration_names_the_command(pg_database: str) -> None:
    store = open_postgres(pg_database)
    store.check_schema()
    with psycopg.connect(as_owner(pg_database), autocommit=True) as connection:
        connection.execute("UPDATE schema_migrations SET version = 0 WHERE version = %s", (migrations()[-1][0],))
        with pytest.raises(SchemaError, match="shiftboss db migrate"):
            store.check_schema()
        connection.execute("UPDATE schema_migrations SET version = %s WHERE version = 0", (migrations()[-1][0],))
    store.close()


def test_a_database_of_an_earlier_version_is_brought_up_to_date_with_its_tasks(
    pg_empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, every = open_postgres(pg_empty_database), migrations()
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "migrations", lambda: every[:2])
        store.migrate()
    with psycopg.connect(pg_empty_database) as connection:
        connection.execute("INSERT INTO tasks (id, type) VALUES ('01900000-0000-7000-8000-000000000001', 'mail:send')")
    with pytest.raises(SchemaError, match="shiftboss db migrate"):
        store.check_schema()
    assert [version for version, *_ in store.migrate().steps] == [version for version, *_ in every[2:]]
    store.check_schema()
    claim = take_one(store)
    answer = store.exchange(Exchange(worker_id="w1", ended=[ended(claim)], keep_completed=False))
    assert list(answer.states) == [TaskState.COMPLETED]
    assert store.has_trace(claim.task_id)
    store.close()


def test_a_schema_newer_than_we_are_is_left_alone(pg_database: str) -> None:
    store = open_postgres(pg_database)
    with psycopg.connect(as_owner(pg_database), autocommit=True) as connection:
        connection.execute("INSERT INTO schema_migrations (version, name) VALUES (9999, 'from_the_future')")
        for call in (store.check_schema, store.migrate):
            with pytest.raises(SchemaError, match=r"9999.*upgrade Shiftboss"):
                call()
        connection.execute("DELETE FROM schema_migrations WHERE version = 9999")
    store.close()


def test_a_migration_that_fails_leaves_nothing(pg_empty_database: str) -> None:
    with psycopg.connect(pg_empty_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE queues (mine text)")
    store = open_postgres(pg_empty_database)
    with pytest.raises(Exception, match="queues"):
        store.migrate()
    with pytest.raises(SchemaError, match="no Shiftboss schema"):
        store.check_schema()
    store.close()


# ---- partitions


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(pg_database: str, clock: ManualClock) -> Iterator[PostgresStore]:
    store = open_postgres(pg_database, clock=clock)
    yield store
    store.close()


def partitions(store: PostgresStore) -> list[str]:
    return [str(row[0]) for row in store._link.rows("partitions")]


def named(day: datetime) -> str:
    return f"task_history_{day:%Y%m%d}"


def test_a_migrated_database_has_today_and_the_week_ahead(store: PostgresStore, clock: ManualClock) -> None:
    wanted = {named(clock.now() + timedelta(days=ahead)) for ahead in range(7)}  # one less, if midnight has just passed
    assert wanted | {"task_history_default"} <= set(partitions(store))


def test_days_are_created_ahead_and_dropped_when_they_are_over(store: PostgresStore, clock: ManualClock) -> None:
    today = clock.now()
    task_id = put(store)
    finish_one(store, ended(take_one(store)))
    retention = Retention(completed_s=7 * DAY_S, cancelled_s=7 * DAY_S)
    midnight = (today + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    clock.advance((midnight - today).total_seconds() + 7 * DAY_S - 3600)
    store.prune(lead(store), retention)
    there = partitions(store)
    assert named(clock.now() + timedelta(days=7)) in there
    assert named(today) in there, "its last rows are not seven days old yet"
    clock.advance(2 * 3600)
    assert store.prune(lead(store), retention) >= 1
    assert named(today) not in partitions(store)
    assert store.get(task_id) is None


@pytest.mark.long
def test_dropping_a_day_waits_for_nobody(store: PostgresStore, clock: ManualClock, pg_database: str) -> None:
    today = clock.now()
    task_id = put(store)
    finish_one(store, ended(take_one(store)))
    clock.advance(9 * DAY_S)
    with psycopg.connect(pg_database) as reader:
        reader.execute("SELECT count(*) FROM task_history").fetchone()  # and stays in its transaction
        store.prune(lead(store), Retention())
        assert named(today) in partitions(store)
        put(store)
        assert finish_one(store, ended(take_one(store)))[1] is TaskState.COMPLETED
    store.prune(lead(store), Retention())
    assert named(today) not in partitions(store)
    assert store.get(task_id) is None


def test_a_day_that_nobody_prepared_is_kept_all_the_same(store: PostgresStore, clock: ManualClock) -> None:
    clock.advance(30 * DAY_S)
    ids = [put(store) for _ in range(3)]
    finish(store, *(ended(claim) for claim in take(store)))
    assert [store.get(task_id) is not None for task_id in ids] == [True] * 3
    store.prune(lead(store), Retention())
    assert named(clock.now()) not in partitions(store), "its rows stand in the default partition already"
    assert named(clock.now() + timedelta(days=1)) in partitions(store)
    clock.advance(8 * DAY_S)
    assert store.prune(lead(store), Retention()) >= 3
    assert [store.get(task_id) for task_id in ids] == [None] * 3


def test_every_partition_keeps_ids_unique(store: PostgresStore) -> None:
    found = store._link.rows("partitions")
    with store._link.connected() as connection:
        unique = connection.execute(
            "SELECT count(*) FROM pg_index i JOIN pg_inherits h ON h.inhrelid = i.indrelid "
            "WHERE h.inhparent = 'task_history'::regclass AND i.indisunique"
        ).fetchone()
    assert unique == (len(found),)


def test_the_planner_counts_days_in_utc(store: PostgresStore) -> None:
    with store._link.connected() as connection:
        connection.execute("SET TIME ZONE 'Pacific/Kiritimati'")
        bounds = connection.execute(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s", (named(datetime.now(UTC)),)
        ).fetchone()
        connection.execute("RESET TIME ZONE")
    assert bounds is not None
    assert "14:00:00+14" in str(bounds[0])
