"""The plans that the server really used, with much history and much future in the way, whatever ANALYZE saw last.

`status` must stay out of the planner's sight in guards on the primary key, or a finish walks a partial index.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from pg_harness import nodes, pages, plans_of, watched_plans
from store_harness import ended, finish, info, lead, new, take, worker

from shiftboss.model import Claim, Lease, Outcome, Progress, new_task_id
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk, TaskFilter
from shiftboss.store.postgres.enqueue import enqueue_in, psycopg_sql
from shiftboss.store.postgres.store import PostgresStore, open_postgres
from tests.pg_cluster import PgCluster

ROWS = 60_000
BATCH = 50
DEAD = 20_000
# Enough for the server to have made a generic plan, and for us to have seen both kinds.
ROUNDS = 8
CLAIMABLE = "idx_tasks_claimable"

_FUTURE = """
INSERT INTO tasks (id, type, queue, priority, run_at)
SELECT gen_random_uuid(), 'mail:send', 'default', 0, now() + interval '1 day' + n * interval '1 second'
FROM generate_series(1, %s) n
"""
_HISTORY = """
INSERT INTO task_history (id, type, queue, status, priority, args, attempts, fence, enqueued_at, run_at, finished_at, updated_at)
SELECT gen_random_uuid(), 'mail:send', 'default', 'completed', 0, '{}', 1, 1, now(), now(),
  now() + (n %% 3) * interval '1 day', now()
FROM generate_series(1, %s) n
"""
_FINISHED = """
INSERT INTO task_history (id, type, queue, status, priority, args, attempts, fence, enqueued_at, run_at, finished_at, updated_at)
SELECT gen_random_uuid(), 'mail:send', 'default', 'completed', 0, '{}', 1, 1, now(), now(), CAST(%(at)s AS timestamptz), now()
FROM generate_series(1, %(rows)s) n
"""
_TRACES = """
INSERT INTO task_traces (first_id, last_id, ended_at, ids, fences)
SELECT id, id, now(), ARRAY[id], '{1}'
FROM generate_series(1, %s) n CROSS JOIN LATERAL (SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid) AS id) made
"""
_ENDED = """
INSERT INTO tasks (id, type, status, worker_id, fence, attempts)
SELECT gen_random_uuid(), 'mail:send', 'running', %s, 1, 1 FROM generate_series(1, %s)
"""
_DAYS = "SELECT CAST(inhrelid AS regclass) FROM pg_inherits WHERE inhparent = CAST('task_history' AS regclass)"
_OTHERS_LOOK = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"


@pytest.fixture(scope="module", params=["analyzed before", "analyzed after"])
def crowded(pg_cluster: PgCluster, request: pytest.FixtureRequest) -> Iterator[PostgresStore]:
    """A database with far more rows that do not matter than rows that do."""
    name = "plans_" + request.param.split()[1]
    dsn = pg_cluster.create_database(name)
    store = open_postgres(dsn)
    store.migrate()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)")
        if request.param == "analyzed before":
            connection.execute("ANALYZE")
        connection.execute(_FUTURE, (ROWS,))
        connection.execute(_HISTORY, (ROWS,))
        connection.execute(_TRACES, (ROWS,))
        if request.param == "analyzed after":
            connection.execute("ANALYZE")
    yield store
    store.close()
    pg_cluster.drop_database(name)


def exchange(store: PostgresStore, ends: list[Claim], merge: str | None = None) -> list[Claim]:
    lanes = [LaneAsk(queue="default", priority=0, limit=BATCH)]
    ask = ClaimAsk(lanes=lanes, limit=BATCH, running=BATCH, types=[info()], merge=merge)
    ending = [ended(claim, Outcome.FAILED if number % 5 == 0 else Outcome.SUCCESS) for number, claim in enumerate(ends)]
    return list(store.exchange(Exchange(worker_id="w1", ended=ending, claim=ask)).claims)


def scans(plan: dict[str, Any]) -> set[tuple[str, str]]:
    """(table, index or kind of scan) of every read of a table."""
    reads = (node for node in nodes(plan["Plan"]) if "Relation Name" in node and node["Node Type"] != "ModifyTable")
    return {(node["Relation Name"], node.get("Index Name", node["Node Type"])) for node in reads}


@pytest.mark.parametrize("merge", [None, "fifo", "lifo"])
def test_claims_and_ends_go_by_their_indexes(crowded: PostgresStore, merge: str | None) -> None:
    crowded.enqueue([new() for _ in range(BATCH * ROUNDS)])
    claims = exchange(crowded, [], merge)
    with watched_plans(crowded) as plans:
        for _ in range(ROUNDS - 1):
            claims = exchange(crowded, claims, merge)
            assert len(claims) == BATCH
        exchange(crowded, claims, merge)
    claimed = [plan for plan in plans if "SKIP LOCKED" in plan["Query Text"]]
    ends = [plan for plan in plans if "task_history" in plan["Query Text"]]
    assert len(claimed) == ROUNDS
    assert len(ends) == 2 * ROUNDS
    for plan in claimed:
        found_again = {("tasks", "tasks_pkey")} if merge else set()
        read = {scan for scan in scans(plan) if scan[0] != "queues"}  # asked for each lane whether it is paused
        assert read == {("tasks", CLAIMABLE), ("tasks", "Tid Scan"), *found_again}
        assert pages(plan) < 60 * BATCH
    for plan in ends:
        assert {scan for scan in scans(plan) if scan[0] == "tasks"} == {("tasks", "tasks_pkey")}
        assert pages(plan) < 80 * BATCH


def seen_empty(dsn: str) -> PostgresStore:
    """A database in which the last vacuum has seen nothing but empty pages of tasks."""
    store = open_postgres(dsn)
    store.migrate()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)")
        connection.execute(_FUTURE, (1_000,))
        connection.execute("DELETE FROM tasks")
        connection.execute("VACUUM (ANALYZE, TRUNCATE off) tasks")
    return store


@pytest.mark.parametrize("merge", [None, "fifo", "lifo"])
def test_rows_are_found_by_their_keys_where_a_vacuum_saw_an_empty_table(pg_database: str, merge: str | None) -> None:
    """A queue is empty most of the time. A million tasks later the plans made for that would read all of them for every batch."""
    store = seen_empty(pg_database)
    store.enqueue([new() for _ in range(5 * BATCH)])
    with watched_plans(store) as plans:
        first, second, third, fourth, fifth = [exchange(store, [], merge) for _ in range(5)]
        exchange(store, first)  # some of them with a failure
        store.exchange(Exchange(worker_id="w1", ended=list(map(ended, second)), keep_completed=False))
        store.exchange(Exchange(worker_id="w1", ended=[ended(claim, Outcome.CANCELLED) for claim in third]))
        store.exchange(Exchange(worker_id="w1", starts=[Lease(claim.task_id, claim.fence) for claim in fourth]))
        made = [Progress(task_id=claim.task_id, fence=claim.fence, percent=1.0) for claim in fifth]
        store.exchange(Exchange(worker_id="w1", progress=made))
    found = [node for plan in plans for node in nodes(plan["Plan"]) if node.get("Index Name") == "tasks_pkey"]
    assert len(found) >= 5
    assert all("Index Cond" in node for node in found)
    store.close()


def test_an_empty_claim_costs_next_to_nothing(crowded: PostgresStore) -> None:
    settle(crowded)
    with watched_plans(crowded) as plans:
        for _ in range(ROUNDS):
            assert exchange(crowded, []) == []
    claimed = [plan for plan in plans if "SKIP LOCKED" in plan["Query Text"]]
    assert len(claimed) == ROUNDS
    assert all(pages(plan) < 50 for plan in claimed)


def settle(store: PostgresStore) -> None:
    """Have the index entries marked that the claims of other tests have left: until then every claim visits their rows.

    The server marks them when a claim walks over them, but not while somebody looks at the database as it was before (here
    autovacuum, when it analyzes what was filled in), and not before it has seen another transaction since.
    """
    name = psycopg.conninfo.conninfo_to_dict(store._link.address.conninfo)["dbname"]
    with psycopg.connect(store._link.address.conninfo, autocommit=True) as watch:
        deadline_s = time.monotonic() + 30.0
        while watch.execute(_OTHERS_LOOK, (name,)).fetchone() != (0,):
            assert time.monotonic() < deadline_s
        watch.execute("SELECT txid_current()")
    assert exchange(store, []) == []


def test_lanes_cost_by_their_number_not_by_their_tasks(crowded: PostgresStore) -> None:
    crowded.enqueue([new(queue=f"q{number}", priority=number) for number in range(5)])
    with watched_plans(crowded) as plans:
        for _ in range(ROUNDS):
            assert {lane.queue for lane in crowded.lanes()} == {"default", *(f"q{number}" for number in range(5))}
    looked = [plan for plan in plans if "RECURSIVE" in plan["Query Text"]]
    assert len(looked) == ROUNDS
    assert all(pages(plan) < 150 for plan in looked)
    for number in range(5):
        lanes = [LaneAsk(queue=f"q{number}", priority=number, limit=1)]
        assert take(crowded, 1, lanes=lanes)


def test_an_enqueue_looks_at_no_more_than_its_own_rows(crowded: PostgresStore) -> None:
    with watched_plans(crowded) as plans:
        for _ in range(ROUNDS):
            crowded.enqueue([new(delay_s=86_400.0, unique_key=f"key {number}") for number in range(BATCH)])
    stored = [plan for plan in plans if "json_to_recordset" in plan["Query Text"]]
    assert len(stored) >= ROUNDS
    assert all(pages(plan) < 120 * BATCH for plan in stored)
    for plan in stored:
        assert {table for table, kind in scans(plan) if kind == "Seq Scan"} <= {"workers"}


def test_an_enqueue_reads_nothing_of_a_day_that_has_filled_since_its_plan_was_made(pg_database: str) -> None:
    """Every midnight a new day begins, which the server believes to be empty until somebody has analysed it."""
    store = open_postgres(pg_database)
    store.migrate()
    with psycopg.connect(pg_database, autocommit=True) as connection:
        connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)")
        for (partition,) in connection.execute(_DAYS).fetchall():
            connection.execute(f"ALTER TABLE {partition} SET (autovacuum_enabled = off)")  # type: ignore[arg-type]

        def enqueue_sent_before() -> None:
            for _ in range(ROUNDS):
                store.enqueue([new(delay_s=86_400.0) for _ in range(BATCH)])

        enqueue_sent_before()
        connection.execute(_HISTORY, (ROWS,))
    with watched_plans(store) as plans:
        enqueue_sent_before()
    looked = [plan for plan in plans if "task_history h" in plan["Query Text"]]
    assert len(looked) == 2 * ROUNDS, "when it is stored, and before it is committed"
    assert all(pages(plan) < 120 * BATCH for plan in looked)
    store.close()


def test_an_enqueue_on_a_callers_connection_reads_nothing_of_the_next_day(pg_database: str) -> None:
    """Its plans are not ours to fix, and they are made while the next day is empty and known to be."""
    store = open_postgres(pg_database)
    store.migrate()
    store.close()
    with psycopg.connect(pg_database, autocommit=True, prepare_threshold=0) as connection:

        def execute(sql: str, params: dict[str, Any]) -> list[Any]:
            cursor = connection.execute(psycopg_sql(sql), params)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

        def enqueue() -> None:
            for _ in range(ROUNDS):
                enqueue_in(execute, [new(delay_s=86_400.0) for _ in range(BATCH)], in_transaction=False)

        for (table,) in [("tasks",), *connection.execute(_DAYS).fetchall()]:
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        connection.execute("SET plan_cache_mode = force_generic_plan")  # as it is after a few
        connection.execute(_FINISHED, {"rows": 3_000, "at": "now()"})
        connection.execute("ANALYZE")
        enqueue()
        connection.execute(_FINISHED, {"rows": ROWS, "at": "tomorrow"})
        with plans_of(connection) as plans:
            enqueue()
    looked = [plan for plan in plans if "task_history h" in plan["Query Text"]]
    assert len(looked) == 2 * ROUNDS
    assert max(map(pages, looked)) < 30 * BATCH


def test_an_enqueue_opens_the_history_of_few_days(crowded: PostgresStore) -> None:
    """Of all that exist, past and coming: opening them costs a single enqueue more than storing its row."""
    for ago in range(1, 8):
        crowded._link.rows("add_history_day", {"day": (crowded.now() - timedelta(days=ago)).date()})
    crowded.enqueue([new(id=new_task_id())])
    with watched_plans(crowded) as plans:
        crowded.enqueue([new(id=new_task_id())])
    (plan,) = [plan for plan in plans if "json_to_recordset" in plan["Query Text"]]
    days = {table for table, _kind in scans(plan) if table.startswith("task_history")}
    assert 3 <= len(days) <= 4, "yesterday, today, tomorrow and the one for all other days"
    assert sum(node.get("Subplans Removed", 0) for node in nodes(plan["Plan"])) >= 10


def test_who_keeps_no_history_goes_by_the_key(crowded: PostgresStore) -> None:
    crowded.enqueue([new() for _ in range(BATCH * ROUNDS)])
    with watched_plans(crowded) as plans:
        for claims in [exchange(crowded, []) for _ in range(ROUNDS)]:
            answer = crowded.exchange(Exchange(worker_id="w1", ended=list(map(ended, claims)), keep_completed=False))
            assert len(answer.states) == BATCH
    ends = [plan for plan in plans if "DELETE FROM tasks" in plan["Query Text"]]
    assert len(ends) == ROUNDS
    for plan in ends:
        assert scans(plan) == {("tasks", "tasks_pkey")}
        assert pages(plan) < 30 * BATCH


def test_traces_are_looked_into_by_their_index(crowded: PostgresStore) -> None:
    """By an enqueue that is sent again, by one whose ids are new, by a verdict, and by who asks for one task."""
    sent = [new() for _ in range(400)]
    crowded.enqueue(sent)
    while claims := exchange(crowded, []):
        crowded.exchange(Exchange(worker_id="w1", ended=list(map(ended, claims)), keep_completed=False))
    with watched_plans(crowded) as plans:
        for _ in range(ROUNDS):
            assert {stored.existing for stored in crowded.enqueue(sent)} == {True}
            assert not crowded.enqueue([new(delay_s=86_400.0) for _ in range(400)])[0].existing
            assert crowded.has_trace(sent[0].id)
            crowded.exchange(Exchange(worker_id="w1", ended=[ended(Lease(task.id, 1)) for task in sent[:BATCH]]))
    looked = [plan for plan in plans if "task_traces c" in plan["Query Text"]]
    assert len(looked) >= 4 * ROUNDS
    for plan in looked:
        assert {kind for table, kind in scans(plan) if table == "task_traces"} <= {"idx_task_traces_ids"}, plan
        assert pages(plan) < 60 * len(sent)


def test_verdicts_go_by_indexes(crowded: PostgresStore) -> None:
    gone = [Claim(**{**_blank, "task_id": new().id}) for _ in range(BATCH)]
    with watched_plans(crowded) as plans:
        for _ in range(ROUNDS):
            crowded.exchange(Exchange(worker_id="w1", ended=[ended(claim) for claim in gone]))
    judged = [plan for plan in plans if "task_attempts a" in plan["Query Text"] and "EXISTS" in plan["Query Text"]]
    assert len(judged) == ROUNDS
    assert all(pages(plan) < 60 * BATCH for plan in judged)


@contextmanager
def dead_entries(store: PostgresStore, worker_id: str) -> Iterator[None]:
    """While a snapshot is held: entries of tasks that `worker_id` held, and that have ended since."""
    dsn = store._link.address.conninfo
    with psycopg.connect(dsn) as pin, psycopg.connect(dsn, autocommit=True) as connection:
        pin.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        pin.execute("SELECT 1 FROM tasks LIMIT 1")
        connection.execute(_ENDED, (worker_id, DEAD))
        connection.execute("DELETE FROM tasks WHERE status = 'running' AND worker_id = %s", (worker_id,))
        yield


def test_cancel_requests_are_found_behind_a_held_snapshot(crowded: PostgresStore) -> None:
    """Looked for every second: what has ended must not be walked over, however long its entries stay in the index."""
    with dead_entries(crowded, "w1"):
        tasks = [new(queue="asked") for _ in range(BATCH)]
        crowded.enqueue(tasks)
        lanes = [LaneAsk(queue="asked", priority=0, limit=BATCH)]
        claims = take(crowded, BATCH, lanes=lanes)
        crowded.cancel(TaskFilter(ids=[tasks[7].id]))
        with watched_plans(crowded) as plans:
            for _ in range(ROUNDS):
                assert [lease.task_id for lease in crowded.cancel_requests("w1")] == [tasks[7].id]
        assert len(plans) == ROUNDS
        # The one page of the index, the row, and as much again for a page that has been split or an entry of another test.
        assert all(pages(plan) <= 6 for plan in plans), [pages(plan) for plan in plans]
        finish(crowded, *(ended(claim) for claim in claims))


def test_cancel_requests_go_by_their_index_where_a_vacuum_saw_an_empty_table(pg_database: str) -> None:
    store = seen_empty(pg_database)
    with watched_plans(store) as plans:
        for _ in range(ROUNDS):
            assert store.cancel_requests("w1") == []
    assert {scan for plan in plans for scan in scans(plan)} == {("tasks", "idx_tasks_cancel_requested")}
    store.close()


def test_the_look_for_the_dead_reads_no_task(crowded: PostgresStore) -> None:
    lease = lead(crowded, "w1", 3_600.0)
    crowded.recover(lease)  # what other tests have left
    held_by(crowded, "alive")
    with watched_plans(crowded) as plans:
        for _ in range(ROUNDS):
            assert crowded.recover(lease).workers == []
    looked = [plan for plan in plans if "claim_ranges" in plan["Query Text"]]
    assert len(looked) == ROUNDS
    assert not any("SKIP LOCKED" in plan["Query Text"] for plan in plans), "nothing to recover"
    assert {table for plan in looked for table, _ in scans(plan)} == {"claim_ranges", "workers", "leader"}
    crowded.deregister("alive")
    crowded.recover(lease)
    crowded.resign(lease)


def test_what_is_held_is_found_by_the_ranges_of_claims(crowded: PostgresStore) -> None:
    lease = lead(crowded, "w1", 3_600.0)
    crowded.recover(lease)
    held_by(crowded, "alive")
    with watched_plans(crowded) as plans:
        for _ in range(ROUNDS):
            assert len(crowded.owned("alive")) == BATCH
        crowded.deregister("alive")
        assert crowded.recover(lease).pending == BATCH
    looked = [plan for plan in plans if "first_due" in plan["Query Text"]]
    assert len(looked) == ROUNDS + 2, "orphans, and what may be forgotten"
    for plan in looked:
        locked = (
            {("tasks", "tasks_pkey")} if "SKIP LOCKED" in plan["Query Text"] and "DISTINCT t.id" in plan["Query Text"] else set()
        )
        assert {scan for scan in scans(plan) if scan[0] == "tasks"} == {("tasks", CLAIMABLE)} | locked
    # The rows, the pages of the index, and what other tests have left dead in it.
    assert all(pages(plan) <= 8 * BATCH for plan in looked), [pages(plan) for plan in looked]
    crowded.resign(lease)


def held_by(store: PostgresStore, worker_id: str) -> None:
    """A living worker with some tasks."""
    store.register(worker(worker_id), timeout_s=3_600.0, exclusive=False)
    store.enqueue([new(queue="held") for _ in range(BATCH)])
    assert len(take(store, BATCH, worker_id, lanes=[LaneAsk(queue="held", priority=0, limit=BATCH)])) == BATCH


_blank: dict[str, Any] = {
    "fence": 1,
    "attempt": 1,
    "type": "mail:send",
    "queue": "default",
    "priority": 0,
    "args": b"{}",
    "max_attempts": 1,
    "timeout_s": None,
    "running": True,
    "enqueued_at": 0.0,
    "due_at": 0.0,
}
