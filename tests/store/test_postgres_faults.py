"""The server goes away, stalls, turns read-only or is held up: nothing hangs, nothing is lost, the next call reconnects."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from threading import Thread

import psycopg
import pytest
from pg_harness import Proxy, proxied
from store_harness import ask, ended, finish, finish_one, info, lease, put, status, take, take_one

from shiftboss.config import Settings
from shiftboss.errors import SchemaError, StoreError, StoreUnavailable
from shiftboss.model import Outcome, Progress, TaskState, Verdict, new_task_id
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk
from shiftboss.store.postgres import exchange, link
from shiftboss.store.postgres.dsn import parse_dsn
from shiftboss.store.postgres.errors import is_unavailable, one_line
from shiftboss.store.postgres.listen import PostgresListener
from shiftboss.store.postgres.store import PostgresStore, open_postgres
from tests.conftest import as_owner
from tests.pg_cluster import PgCluster


@pytest.fixture
def store(pg_database: str) -> Iterator[PostgresStore]:
    store = open_postgres(pg_database)
    yield store
    store.close()


@pytest.fixture
def proxy(pg_cluster: PgCluster) -> Iterator[Proxy]:
    with proxied(pg_cluster.port) as proxy:
        yield proxy


@pytest.fixture
def far_store(pg_cluster: PgCluster, pg_database: str, proxy: Proxy) -> Iterator[PostgresStore]:
    """The same database through the proxy."""
    database = psycopg.conninfo.conninfo_to_dict(pg_database)["dbname"]
    store = open_postgres(pg_cluster.dsn(str(database), port=proxy.port))
    yield store
    store.close()


def terminate(dsn: str) -> None:
    """End all other sessions of the database, and wait until they are gone."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


# ---- no connection


@pytest.fixture
def refusing() -> Iterator[list[int]]:
    """Ports of loopback that somebody has and nobody listens at."""
    with socket.socket() as one, socket.socket() as other:
        for taken in (one, other):
            taken.bind(("127.0.0.1", 0))
        yield [taken.getsockname()[1] for taken in (one, other)]


HINT = "Is the server running on that host and accepting TCP/IP connections?"


def refusal(*ports: int) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    with pytest.raises(StoreUnavailable) as refused:
        open_postgres(f"postgresql://app@{hosts}/shop").lanes(None)
    return str(refused.value)


def test_a_refused_connection_is_told_in_one_line(refusing: list[int]) -> None:
    port = refusing[0]
    told = refusal(port)
    assert told == (
        f"PostgreSQL at 127.0.0.1:{port}/shop cannot be used now: connection failed: "
        f'connection to server at "127.0.0.1", port {port} failed: Connection refused; {HINT}'
    )


def test_every_address_that_was_tried_is_told_in_that_line(refusing: list[int]) -> None:
    told = refusal(*refusing)
    assert not any(ord(char) < ord(" ") for char in told)
    assert told.count(HINT) == 1
    assert "All failures were: host: '127.0.0.1'" in told
    for port in refusing:
        assert f"; host: '127.0.0.1', port: '{port}'" in told or f": host: '127.0.0.1', port: '{port}'" in told
        assert f"port {port} failed: Connection refused" in told


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", ""),
        ("  the connection is closed\n", "the connection is closed"),
        (
            "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n"
            "\tbefore or while processing the request.\n",
            "server closed the connection unexpectedly; This probably means the server terminated abnormally before or while "
            "processing the request.",
        ),
        ("one address\n\n  Is it?\nanother\r\n  Is it?", "one address; Is it?; another"),
    ],
)
def test_what_libpq_says_in_lines_becomes_clauses(said: str, line: str) -> None:
    assert one_line(said) == line


# ---- lost connections


def test_a_terminated_backend_is_one_error_and_then_a_new_connection(store: PostgresStore, pg_database: str) -> None:
    put(store)
    claim = take_one(store)
    terminate(pg_database)
    with pytest.raises(StoreUnavailable):
        finish_one(store, ended(claim))
    assert finish_one(store, ended(claim)) == (Verdict.APPLIED, TaskState.COMPLETED)


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILED, Outcome.SNOOZED])
def test_a_commit_whose_answer_was_lost_is_already_applied_when_sent_again(
    store: PostgresStore, far_store: PostgresStore, proxy: Proxy, outcome: Outcome
) -> None:
    task_id = put(store)
    claim = take_one(store)
    end = ended(claim, outcome, retry_in_s=60.0)
    proxy.answers_lost_after = b"COMMIT\x00"
    with pytest.raises(StoreUnavailable):
        finish_one(far_store, end)
    assert _until(lambda: status(store, task_id) is not TaskState.RUNNING)
    assert finish_one(far_store, end) == (Verdict.ALREADY_APPLIED, None)
    counted = {delta.name: delta.value for delta in store.counters("w1")}
    assert counted.get("tasks_completed_total", 1.0) == 1.0


def test_a_request_that_was_cut_before_its_commit_changed_nothing(
    store: PostgresStore, far_store: PostgresStore, proxy: Proxy
) -> None:
    put(store)
    claim = take_one(store)
    proxy.answers_lost_after = b"BEGIN"
    with pytest.raises(StoreUnavailable):
        finish_one(far_store, ended(claim))
    assert finish_one(far_store, ended(claim)) == (Verdict.APPLIED, TaskState.COMPLETED)


@pytest.mark.parametrize(("alone", "last"), [(True, b"shiftboss_claim\x00"), (False, b"COMMIT\x00")])
def test_a_claim_whose_answer_was_lost_shows_among_what_the_worker_owns(
    store: PostgresStore, far_store: PostgresStore, proxy: Proxy, alone: bool, last: bytes
) -> None:
    """By itself it is one statement, with something else a transaction."""
    task_id = put(store)
    ask = ClaimAsk(lanes=[LaneAsk(queue="default", priority=0, limit=1)], limit=1, running=1, types=[info()])
    progress = [] if alone else [Progress(task_id=new_task_id(), fence=1, percent=1)]
    proxy.answers_lost_after = last
    with pytest.raises(StoreUnavailable):
        far_store.exchange(Exchange(worker_id="w1", claim=ask, progress=progress))
    assert _until(lambda: [owned.task_id for owned in store.owned("w1")] == [task_id])


def test_a_server_that_says_nothing_more_is_given_up(
    far_store: PostgresStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    far_store.workers()
    monkeypatch.setattr(link, "_GRACE_S", 0.3 - link.STATEMENT_TIMEOUT_S)
    proxy.stall()
    started_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match="deadline"):
        far_store.workers()
    assert time.monotonic() - started_s < 5.0
    monkeypatch.undo()
    proxy.flow()
    assert far_store.workers() == []


def test_a_restarted_server_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with PgCluster(fsync="off") as cluster:
        store = open_postgres(cluster.dsn())
        store.migrate()
        task_id = put(store)
        cluster.stop()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                store.get(task_id)
        cluster.start()
        assert status(store, task_id) is TaskState.PENDING
        store.close()


def test_the_server_looks_after_a_silent_client(far_store: PostgresStore) -> None:
    far_store.workers()
    with far_store._link.connected() as connection:
        rows = connection.execute("SELECT name, CAST(setting AS integer) FROM pg_settings WHERE name LIKE 'tcp_%'").fetchall()
    of = dict(rows)
    assert 0 < of["tcp_keepalives_idle"] + of["tcp_keepalives_interval"] * of["tcp_keepalives_count"] <= 25
    assert 0 < of["tcp_user_timeout"] <= 15_000, "an answer that nobody acknowledges is not a silence to be broken"


def test_whoever_waits_for_a_frozen_server_is_not_taken_for_hung() -> None:
    assert Settings().ping_timeout_s > link.STATEMENT_TIMEOUT_S + link._GRACE_S


def test_nobody_at_the_address() -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
        open_postgres("postgresql://someone:secret@127.0.0.1:1/none").workers()


def test_no_message_has_the_password() -> None:
    for dsn in ("postgresql://someone:s3cret@127.0.0.1:1/none", "postgresql://someone:s3cret@127.0.0.1:port/none"):
        with pytest.raises(StoreError) as caught:
            open_postgres(dsn).workers()
        assert "s3cret" not in str(caught.value)


# ---- a server that answers, but not as hoped


def test_a_read_only_server_is_unavailable_until_it_can_be_written(pg_cluster: PgCluster, pg_database: str) -> None:
    store = open_postgres(pg_database)
    task_id = put(store)
    _set_read_only(pg_cluster, "on")
    try:
        with pytest.raises(StoreUnavailable, match="read-only"):
            take(store)
    finally:
        _set_read_only(pg_cluster, "off")
    assert [claim.task_id for claim in take(store)] == [task_id]
    store.close()


def _set_read_only(cluster: PgCluster, value: str) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.read_only = None
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        connection.execute("SELECT pg_reload_conf()")
    assert _until(lambda: _shows(cluster, "default_transaction_read_only") == value)


def _shows(cluster: PgCluster, name: str) -> str:
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        return str(connection.execute(f"SHOW {name}").fetchone()[0])  # type: ignore[index]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are waited for shortly."""
    monkeypatch.setitem(link.Link.transaction.__wrapped__.__kwdefaults__, "lock_timeout_s", 0.2)  # type: ignore[attr-defined]
    monkeypatch.setattr(exchange, "EXCHANGE_LOCK_TIMEOUT_S", 0.2)


@pytest.mark.usefixtures("impatient")
def test_a_locked_table_is_waited_for_only_so_long(store: PostgresStore, pg_database: str) -> None:
    put(store)
    claim = take_one(store)
    with psycopg.connect(pg_database) as operator:
        operator.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="lock"):
            finish_one(store, ended(claim))
    assert finish_one(store, ended(claim))[0] is Verdict.APPLIED


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILED])
def test_a_locked_row_holds_up_nothing_but_itself(
    store: PostgresStore, pg_database: str, outcome: Outcome, cautious: bool
) -> None:
    ids = [put(store) for _ in range(3)]
    claims = {claim.task_id: claim for claim in take(store)}
    waiting = put(store)
    with psycopg.connect(pg_database) as operator:
        operator.execute("SELECT 1 FROM tasks WHERE id = %s FOR UPDATE", (ids[1],))
        ends = [ended(claims[task_id], outcome, retry_in_s=60.0) for task_id in ids]
        answer = store.exchange(Exchange(worker_id="w1", ended=ends, claim=ask(store), cautious=cautious))
        assert answer.verdicts == [Verdict.APPLIED, Verdict.LATER, Verdict.APPLIED]
        assert answer.states[1] is None
        assert answer.later == {ids[1]}
        assert [claim.task_id for claim in answer.claims] == [waiting]
        assert status(store, ids[1]) is TaskState.RUNNING
    assert finish_one(store, ends[1])[0] is Verdict.APPLIED


@pytest.mark.usefixtures("impatient")
def test_starts_and_releases_of_locked_rows_are_told_to_come_later(store: PostgresStore, pg_database: str) -> None:
    ids = [put(store) for _ in range(4)]
    leases = {claim.task_id: lease(claim) for claim in take(store, running=0)}
    started, released = ids[:2], ids[2:]
    with psycopg.connect(pg_database) as operator:
        operator.execute("SELECT 1 FROM tasks WHERE id IN (%s, %s) FOR UPDATE", (started[0], released[0]))
        starts, releases = [leases[one] for one in started], [leases[one] for one in released]
        answer = store.exchange(Exchange(worker_id="w1", starts=starts, releases=releases))
        assert answer.later == {started[0], released[0]}
        assert [status(store, one) for one in ids] == [
            TaskState.CLAIMED,
            TaskState.RUNNING,
            TaskState.CLAIMED,
            TaskState.PENDING,
        ]


@pytest.mark.usefixtures("impatient")
def test_a_cautious_worker_does_not_wait_at_all(store: PostgresStore, pg_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "EXCHANGE_LOCK_TIMEOUT_S", 60.0)
    put(store)
    claim = take_one(store)
    with psycopg.connect(pg_database) as operator:
        operator.execute("SELECT 1 FROM tasks FOR UPDATE")
        answer = store.exchange(Exchange(worker_id="w1", ended=[ended(claim)], cautious=True))
    assert answer.verdicts == [Verdict.LATER]


def test_what_libpq_says_without_a_state_is_no_word_of_the_server() -> None:
    """Such as "lost synchronization with server": it has no SQLSTATE and no class of its own."""
    assert is_unavailable(psycopg.DatabaseError("lost synchronization with server"))
    assert not is_unavailable(psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"))


def test_a_statement_has_a_deadline(store: PostgresStore) -> None:
    with pytest.raises(StoreUnavailable, match="deadline"), store._link.transaction(statement_timeout_s=0.1) as connection:
        connection.execute("SELECT pg_sleep(30)")
    assert store.workers() == []


def test_a_client_that_freezes_in_a_transaction_loses_it(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "IDLE_TIMEOUT_S", 1.0)  # long enough for the look before it is over
    put(store)
    claim = take_one(store)
    with pytest.raises(StoreUnavailable), store._link.transaction() as connection:
        connection.execute("UPDATE tasks SET priority = 1")
        connection.collect()
        assert _others_in_transaction(store)
        assert _until(lambda: not _others_in_transaction(store))
    assert finish_one(store, ended(claim))[0] is Verdict.APPLIED


def _others_in_transaction(store: PostgresStore) -> bool:
    with psycopg.connect(store._link.address.conninfo, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        ).fetchone()
    assert found is not None
    return bool(found[0])


def test_a_missing_schema_names_the_command(pg_empty_database: str) -> None:
    store = open_postgres(pg_empty_database)
    for call in (store.check_schema, store.workers):
        with pytest.raises(SchemaError, match="shiftboss db migrate"):
            call()
    store.close()


def test_a_deadlock_with_an_operator_is_no_error(store: PostgresStore, pg_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "EXCHANGE_LOCK_TIMEOUT_S", 10.0)  # so that it is found to be a deadlock before
    ids = sorted(put(store) for _ in range(2))
    claims = {claim.task_id: claim for claim in take(store)}
    with psycopg.connect(as_owner(pg_database)) as operator:
        operator.execute("SET deadlock_timeout = '60s'")  # so that it is always ours that gives way
        operator.execute("UPDATE tasks SET priority = 1 WHERE id = %s", (ids[1],))
        answers: list[tuple[Verdict, TaskState | None]] = []
        worker = Thread(target=lambda: answers.extend(finish(store, *(ended(claims[i]) for i in ids))))
        worker.start()
        assert _until(lambda: _waits_for_a_lock(pg_database))
        operator.execute("UPDATE tasks SET priority = 1 WHERE id = %s", (ids[0],))
        operator.commit()
        worker.join(20)
    assert [verdict for verdict, _ in answers] == [Verdict.APPLIED] * 2


def _waits_for_a_lock(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    assert found is not None
    return bool(found[0])


# ---- the doorbell


def test_a_half_open_listen_connection_is_noticed(pg_cluster: PgCluster, proxy: Proxy) -> None:
    address = parse_dsn(pg_cluster.dsn(port=proxy.port), "test")
    listener = PostgresListener(address, probe_every_s=0.2, probe_answer_s=0.3)
    assert not listener.wait(0.5)  # probed, and well
    proxy.stall()
    started_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match="LISTEN"):
        listener.wait(30.0)
    assert time.monotonic() - started_s < 5.0
    listener.close()


def test_as_it_is_a_half_open_connection_is_noticed_within_fifteen_seconds(pg_dsn: str) -> None:
    listener = PostgresListener(parse_dsn(pg_dsn, "test"))
    assert listener._probe_every_s + listener._probe_answer_s < 15
    listener.close()


def test_a_terminated_listen_connection_is_noticed_at_once(store: PostgresStore, pg_database: str) -> None:
    listener = store.listener("w1")
    terminate(pg_database)
    with pytest.raises(StoreUnavailable, match="LISTEN connection is gone") as gone:
        listener.wait(30.0)
    assert "\n" not in str(gone.value)
    listener.close()


def _until(holds: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Ask again and again until it holds."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if holds():
            return True
        time.sleep(0.01)
    return False
