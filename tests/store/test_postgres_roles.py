"""Roles with as few rights as their work needs. That a service's role suffices is shown by every test that takes `store`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg import sql
from store_harness import ManualClock, ended, finish_one, lead, new, put, raw_json, take, take_one

from shiftboss.cli.main import main
from shiftboss.client import Client
from shiftboss.errors import OptionError, StoreError
from shiftboss.model import TaskState
from shiftboss.store.base import Exchange, Retention, TaskFilter
from shiftboss.store.open import open_store
from shiftboss.store.postgres.roles import grant_roles
from shiftboss.store.postgres.store import PostgresStore, open_postgres
from tests.conftest import PG_ROLES, as_owner, as_role
from tests.pg_cluster import PgCluster

SECRET = "not for everybody"
TABLES = (
    *("tasks", "task_history", "task_attempts", "task_traces", "workers", "leader", "queues", "counters", "departures"),
    *("claim_ranges", "schema_migrations"),
)


@pytest.fixture
def dsn(pg_cluster: PgCluster, pg_database: str) -> str:
    """As the owner, whatever role the run is for."""
    return as_owner(pg_database)


@pytest.fixture
def worker(dsn: str) -> Iterator[PostgresStore]:
    store = open_postgres(as_role(dsn, "worker"))
    yield store
    store.close()


@pytest.fixture
def reader(dsn: str) -> Iterator[PostgresStore]:
    store = open_postgres(as_role(dsn, "reader"))
    yield store
    store.close()


def denied(dsn: str, statement: str) -> bool:
    """Whether the server refuses it for lack of a right, and for nothing else."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        try:
            connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
    return False


# ---- a service


def test_a_service_turns_the_days_of_the_history_and_owns_none(dsn: str) -> None:
    clock = ManualClock()
    store = open_postgres(as_role(dsn, "worker"), clock=clock)
    task_id = put(store)
    finish_one(store, ended(take_one(store)))
    clock.advance(9 * 86_400.0)
    assert store.prune(lead(store), Retention()) >= 1
    assert store.get(task_id) is None
    name = f"task_history_{clock.now() + timedelta(days=7):%Y%m%d}"
    owners = store._link.rows("partitions")
    assert name in [row[0] for row in owners]
    with psycopg.connect(dsn) as connection:
        (owner,) = connection.execute("SELECT tableowner FROM pg_tables WHERE tablename = %s", (name,)).fetchone() or ("",)
    assert owner == "shiftboss"
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE task_history_default",
        "TRUNCATE tasks",
        "ALTER TABLE tasks DISABLE TRIGGER ALL",
        "ALTER TABLE tasks ADD COLUMN mine text",
        "CREATE TABLE mine (id integer)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE INDEX mine ON tasks (type)",
        "CREATE ROLE mine",
        "DELETE FROM leader",
        "UPDATE task_attempts SET outcome = 'failed'",
        "DELETE FROM queues",
        "INSERT INTO schema_migrations VALUES (99, 'mine')",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM pg_authid",
        "ALTER FUNCTION add_history_day(date) RESET ALL",
        "COPY tasks TO PROGRAM 'true'",
    ],
)
def test_a_service_may_not(statement: str, dsn: str) -> None:
    assert denied(as_role(dsn, "worker"), statement)


def test_a_temporary_table_does_not_pass_for_one_of_ours_in_a_function_of_the_owner(dsn: str) -> None:
    """Else whoever may call it would decide what it drops, or what it reads with the owner's rights."""
    with psycopg.connect(as_role(dsn, "worker"), autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE task_history_default (finished_at timestamptz)")
        connection.execute("INSERT INTO task_history_default VALUES ('2040-01-01 12:00Z')")
        connection.execute("CREATE TEMPORARY TABLE task_history_20400102 (id uuid)")
        assert connection.execute("SELECT add_history_day('2040-01-01')").fetchone() == (True,)
        assert connection.execute("SELECT add_history_day('2040-01-02')").fetchone() == (True,)
        assert connection.execute("SELECT drop_history_day('2040-01-02')").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM pg_temp.task_history_20400102").fetchone() == (0,)
        assert connection.execute("SELECT drop_history_day('2040-01-01')").fetchone() == (0,)
        assert connection.execute("SELECT drop_history_day('2039-01-01')").fetchone() == (0,), "no such day"


def test_others_may_not_call_the_functions_of_the_owner(dsn: str) -> None:
    for kind in ("producer", "reader"):
        assert denied(as_role(dsn, kind), "SELECT add_history_day('2040-01-01')")
        assert denied(as_role(dsn, kind), "SELECT drop_history_day(current_date)")


def test_a_migration_by_a_role_that_may_not_says_what_to_do(pg_empty_database: str) -> None:
    store = open_postgres(as_role(pg_empty_database, "worker"))
    with pytest.raises(StoreError, match=r"permission denied.*has not the right"):
        store.migrate()
    store.close()


def test_a_migration_with_nothing_to_do_needs_no_right_to_create(worker: PostgresStore) -> None:
    assert worker.migrate().steps == []


# ---- a program that enqueues


def test_a_producer_enqueues_by_its_own_connection_and_in_a_transaction(dsn: str, worker: PostgresStore) -> None:
    with Client(as_role(dsn, "producer")) as client:
        one = client.enqueue_by_name("mail:send", {"n": 1}, unique="k", tags=["a"], meta={"m": 1}, max_attempts=3, timeout=9)
        again = client.enqueue_by_name("mail:send", {"n": 1}, unique="k")
        assert (again.id, again.existing) == (one.id, True)
        with psycopg.connect(as_role(dsn, "producer")) as tx:
            joined = client.enqueue_by_name("mail:send", {"n": 2}, tx=tx)
    assert {claim.task_id for claim in take(worker)} == {one.id, joined.id}


@pytest.mark.parametrize(
    "statement",
    [
        *(f"SELECT * FROM {table}" for table in TABLES if table != "schema_migrations"),
        "SELECT args FROM tasks",
        "SELECT meta FROM tasks",
        "SELECT last_error FROM tasks",
        "SELECT type FROM tasks",
        "SELECT result FROM task_history",
        "SELECT error FROM task_attempts",
        "SELECT fences FROM task_traces",
        "DELETE FROM task_traces",
        "INSERT INTO tasks (id, type, status, worker_id) VALUES (gen_random_uuid(), 't', 'running', 'w')",
        "INSERT INTO tasks (id, type, fence) VALUES (gen_random_uuid(), 't', 9)",
        "INSERT INTO tasks (id, type, attempts) VALUES (gen_random_uuid(), 't', 9)",
        "INSERT INTO tasks (id, type) VALUES (gen_random_uuid(), 't') RETURNING args",
        "UPDATE tasks SET status = 'pending'",
        "DELETE FROM tasks",
        "TRUNCATE tasks",
        "SELECT id FROM tasks FOR UPDATE",
        "UPDATE queues SET paused = true",
        "DELETE FROM workers",
        "UPDATE leader SET term = term + 1",
        "CREATE TABLE mine (id integer)",
    ],
)
def test_a_producer_may_not(statement: str, dsn: str) -> None:
    assert denied(as_role(dsn, "producer"), statement)


def test_a_producer_that_sends_again_is_known_also_where_no_history_is_kept(dsn: str, worker: PostgresStore) -> None:
    producer = open_postgres(as_role(dsn, "producer"))
    batches = [[new()], [new() for _ in range(400)]]
    for batch in batches:
        producer.enqueue(batch)
        ends = list(map(ended, take(worker, 1_000)))
        worker.exchange(Exchange(worker_id="w1", ended=ends, keep_completed=False))
        assert {stored.existing for stored in producer.enqueue(batch)} == {True}
    producer.close()


def test_a_producer_that_asks_for_a_task_is_told_why_not(dsn: str) -> None:
    with Client(as_role(dsn, "producer")) as client:
        handle = client.enqueue_by_name("mail:send", {})
        with pytest.raises(StoreError, match=r"permission denied.*db roles"):
            client.get(handle.id)
        with pytest.raises(StoreError, match="permission denied"):
            client.cancel(handle.id)


# ---- one that only looks


def test_a_reader_sees_everything_but_what_tasks_carry(reader: PostgresStore, worker: PostgresStore) -> None:
    waiting = put(worker, args=raw_json({"a": SECRET}))
    done = put(worker, args=raw_json({"a": SECRET}), queue="q2")
    finish_one(worker, ended(next(claim for claim in take(worker) if claim.task_id == done), result=raw_json(SECRET)))
    reader.check_schema()
    listed = reader.list_tasks(TaskFilter(), 10)
    assert {task.id: task.status for task in listed}[done] is TaskState.COMPLETED
    assert reader.get(waiting) is not None
    assert reader.attempts(waiting) == []
    assert SECRET not in msgspec.json.encode([listed, reader.get(waiting), reader.get(done)]).decode()
    assert bytes(listed[0].args) == b"null"
    assert sum(reader.status_counts().values()) == 2
    assert {queue.name for queue in reader.queues()} == {"default"}, "the other's is over"
    assert reader.workers() == []
    assert reader.counts().enqueued == {"mail:send": 2}
    assert reader.counters("w") is not None
    assert msgspec.json.encode(worker.get(done)).decode().count(SECRET) == 2, "or this test proves nothing"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT args FROM tasks",
        "SELECT meta FROM tasks",
        "SELECT progress FROM tasks",
        "SELECT args FROM task_history",
        "SELECT result FROM task_history",
        "SELECT * FROM task_history_default",
        "INSERT INTO tasks (id, type) VALUES (gen_random_uuid(), 't')",
        *(f"DELETE FROM {table}" for table in TABLES),
        "UPDATE tasks SET status = 'pending'",
        "UPDATE workers SET sleeping = true",
        "SELECT id FROM tasks FOR UPDATE",
        "BEGIN; LOCK tasks IN ACCESS EXCLUSIVE MODE",
        "CREATE TABLE mine (id integer)",
    ],
)
def test_a_reader_may_not(statement: str, dsn: str) -> None:
    assert denied(as_role(dsn, "reader"), statement)


# ---- the command


@pytest.fixture
def owned(pg_cluster: PgCluster) -> Iterator[str]:
    """A database whose owner is no superuser and may make no roles; as that owner."""
    name = "owned"
    with psycopg.connect(pg_cluster.dsn(), autocommit=True) as connection:
        connection.execute("CREATE ROLE plain_owner LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB")
        connection.execute('CREATE ROLE "odd-Name" LOGIN')
        connection.execute("CREATE DATABASE owned OWNER plain_owner")
    yield re.sub(r"//[^@]*@", "//plain_owner@", pg_cluster.dsn(name))
    pg_cluster.drop_database(name)
    with psycopg.connect(pg_cluster.dsn(), autocommit=True) as connection:
        connection.execute('DROP ROLE plain_owner; DROP ROLE "odd-Name"')


def run(dsn: str, *arguments: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setenv("DATABASE_URL", dsn)
    capfd.readouterr()
    code = main(["db", *arguments])
    return code, "".join(capfd.readouterr())


def test_an_owner_without_special_rights_migrates_and_grants(
    owned: str, worker: PostgresStore, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`worker` is there so that the roles are."""
    assert worker
    grants = [f"--{kind}={role}" for kind, role in PG_ROLES.items()]
    assert run(owned, "migrate", capfd=capfd, monkeypatch=monkeypatch)[0] == 0
    as_worker = as_role(owned, "worker")
    assert run(as_worker, "check", capfd=capfd, monkeypatch=monkeypatch)[0] == 75
    for _ in range(2):
        code, said = run(owned, "roles", *grants, capfd=capfd, monkeypatch=monkeypatch)
        assert code == 0, said
        assert "shiftboss_producer" in said
    store = open_store(as_worker)
    store.check_schema()
    put(store)
    assert finish_one(store, ended(take_one(store)))[1] is TaskState.COMPLETED
    store.prune(lead(store), Retention())
    store.close()


def test_what_is_printed_is_what_is_done_and_a_name_is_quoted(
    owned: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(owned, "migrate", capfd=capfd, monkeypatch=monkeypatch)
    _, printed = run(owned, "roles", "--worker", "odd-Name", "--print", capfd=capfd, monkeypatch=monkeypatch)
    odd = owned.replace("plain_owner", "odd-Name")
    assert denied(odd, "SELECT 1 FROM tasks"), "printing grants nothing"
    with psycopg.connect(owned, autocommit=True) as connection:
        connection.execute(printed.encode())
    assert not denied(odd, "SELECT 1 FROM tasks")
    run(owned, "roles", "--reader", "odd-Name", capfd=capfd, monkeypatch=monkeypatch)
    assert denied(odd, "SELECT args FROM tasks"), "what it had as a worker is taken from it"
    run(owned, "roles", "--reader", "odd-Name", "--producer", "odd-Name", capfd=capfd, monkeypatch=monkeypatch)
    assert not denied(odd, "SELECT type FROM tasks")
    assert not denied(odd, "INSERT INTO tasks (id, type) VALUES (gen_random_uuid(), 't')")


def test_roles_that_cannot_be_meant_are_refused(dsn: str, worker: PostgresStore) -> None:
    for name in ("public", "PUBLIC", "none", "pg_monitor", "", "a b", 'x" TO postgres; --', "x\n", "x" * 64, "é"):
        with pytest.raises(OptionError, match="cannot be the name"):
            grant_roles(dsn, {"worker": [name]})
    with pytest.raises(StoreError, match=r'no such role: sb_nobody.*CREATE ROLE "sb_nobody" LOGIN'):
        grant_roles(dsn, {"worker": ["sb_nobody"]})
    with pytest.raises(StoreError, match="shiftboss: owns the tables"):
        grant_roles(dsn, {"reader": ["shiftboss"]})
    with pytest.raises(StoreError, match=r"only the owner of the tables.*connect as shiftboss"):
        grant_roles(as_role(dsn, "worker"), {"reader": ["shiftboss_reader"]})
    assert worker.now()


def test_sqlite_has_no_roles(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    code, said = run(url, "roles", "--worker", "x", capfd=capfd, monkeypatch=monkeypatch)
    assert (code, "no roles" in said) == (64, True)
    code, said = run(url, "roles", capfd=capfd, monkeypatch=monkeypatch)
    assert (code, "at least one role" in said) == (64, True)


def test_every_table_and_function_of_ours_is_named_in_the_grants(dsn: str) -> None:
    """Or a role would keep, or never get, its rights to a new one."""
    text = (Path(__file__).parents[2] / "shiftboss/store/postgres/roles.sql").read_text()
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            sql.SQL("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace")
        ).fetchall()
        functions = connection.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace").fetchall()
    names = [row[0] for row in (*tables, *functions) if not re.fullmatch(r"task_history_\d{8}", row[0])]
    assert len(names) == len(TABLES) + 3
    assert [name for name in names if f"{{schema}}.{name}" not in text] == []
