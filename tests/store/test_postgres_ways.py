"""The short ways to PostgreSQL are taken where they can be, ring as the others do, and survive what happens to a session."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import psycopg
import pytest
from pg_harness import Proxy, proxied
from store_harness import ended, finish_one, new, raw_json, take_one, view, worker

from shiftboss.errors import StoreUnavailable
from shiftboss.model import Enqueued, NewTask, TaskState, new_task_id
from shiftboss.store.postgres import copying, link
from shiftboss.store.postgres.store import PostgresStore, open_postgres
from shiftboss.transaction import enqueue_in
from tests.pg_cluster import PgCluster

MANY = copying.MIN_ROWS
MIDDLE = MANY // 2


@pytest.fixture
def store(pg_database: str) -> Iterator[PostgresStore]:
    store = open_postgres(pg_database)
    yield store
    store.close()


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every COPY that was begun."""
    begun: list[str] = []
    copy = psycopg.Cursor.copy

    def note(self: psycopg.Cursor[Any], statement: Any, *arguments: Any, **options: Any) -> Any:
        begun.append(str(statement))
        return copy(self, statement, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "copy", note)
    return begun


def fresh(store: PostgresStore, **fields: Any) -> str:
    (stored,) = store.enqueue([new(id=new_task_id(), **fields)], fresh=True)
    assert not stored.existing
    return stored.id


def prepared(store: PostgresStore) -> set[str]:
    with store._link.connected() as connection:
        return connection.prepared


def test_one_task_goes_by_a_statement_that_the_server_knows(store: PostgresStore) -> None:
    for _ in range(link._PREPARE_THRESHOLD):
        fresh(store)
        assert prepared(store) == set()
    fresh(store)
    assert prepared(store) == {"enqueue_one"}


def test_a_session_that_has_forgotten_its_statements_learns_them_again(store: PostgresStore) -> None:
    for forget in ("BEGIN; ROLLBACK", "DEALLOCATE ALL"):  # after the first the driver has it done with the next statement
        for _ in range(8):
            fresh(store)
        assert prepared(store) == {"enqueue_one"}
        with store._link.connected() as connection:
            connection.execute(forget.encode())
    task_id = fresh(store)
    assert view(store, task_id).id == task_id
    store._link.close()
    assert view(store, fresh(store)).attempts == 0


@pytest.mark.parametrize("why", ["told not to", "pooler"])
def test_where_nothing_may_be_prepared_nothing_is(pg_database: str, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "pooler":
        monkeypatch.setattr(link, "is_pooled", lambda _connection: True)
    store = open_postgres(pg_database if why == "pooler" else f"{pg_database}&prepare_threshold=0")
    for _ in range(10):
        fresh(store)
    tasks = [new() for _ in range(MANY)]
    assert store.enqueue(tasks) == [Enqueued(id=task.id) for task in tasks]
    with store._link.connected() as connection:
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        if why == "pooler":
            assert connection.execute("SHOW statement_timeout").fetchone() == ("0",), "nothing is left for the next one"
    store.close()


def test_a_client_that_speaks_another_encoding_loses_no_character(pg_database: str, copied: list[str]) -> None:
    store = open_postgres(f"{pg_database}&client_encoding=latin1")
    args = raw_json({"name": "blåbær"})
    ids = [fresh(store, args=args) for _ in range(8)]
    tasks = [new(args=args, tags=("blå",)) for _ in range(MANY)]
    store.enqueue(tasks)
    assert not copied
    assert {bytes(view(store, task_id).args) for task_id in (*ids, tasks[-1].id)} == {bytes(args)}
    assert view(store, tasks[-1].id).tags == ("blå",)
    store.close()


def test_one_task_rings_for_who_sleeps_and_only_when_it_is_due(store: PostgresStore, pg_database: str) -> None:
    store.register(worker("w1"), timeout_s=30.0, exclusive=False)
    store.register(worker("w2"), timeout_s=30.0, exclusive=False)
    with psycopg.connect(pg_database, autocommit=True) as ear:
        ear.execute("LISTEN shiftboss")
        for number in range(8):
            fresh(store, unique_key=f"k{number}")
        assert heard(ear) == 0, "both are awake"
        store.set_sleeping("w1", True)
        store.set_sleeping("w2", True)
        fresh(store, delay_s=60.0)
        assert [it.existing for it in store.enqueue([new(id=new_task_id(), unique_key="k1")], fresh=True)] == [True]
        assert heard(ear) == 0
        fresh(store)
        fresh(store, delay_s=0.0)
        assert heard(ear) == 2


def test_a_copy_rings_once_and_only_when_something_is_due(store: PostgresStore, pg_database: str, copied: list[str]) -> None:
    store.register(worker("w1"), timeout_s=30.0, exclusive=False)
    with psycopg.connect(pg_database, autocommit=True) as ear:
        ear.execute("LISTEN shiftboss")
        store.enqueue([new() for _ in range(MANY)])
        assert heard(ear) == 0
        store.set_sleeping("w1", True)
        store.enqueue([new(delay_s=60.0) for _ in range(MANY)])
        assert heard(ear) == 0
        store.enqueue([*(new(delay_s=60.0) for _ in range(MANY)), new()])
        assert heard(ear) == 1
    assert len(copied) == 3


def heard(ear: psycopg.Connection[tuple[object, ...]]) -> int:
    ear.execute("SELECT 1")
    return len(list(ear.notifies(timeout=0.2)))


def test_few_tasks_and_tasks_with_keys_are_not_copied(store: PostgresStore, copied: list[str]) -> None:
    store.enqueue([new() for _ in range(MANY - 1)])
    store.enqueue([*(new() for _ in range(MANY)), new(unique_key="k")])
    assert not copied
    store.enqueue([new() for _ in range(MANY)])
    assert len(copied) == 1


def test_an_earlier_sending_that_is_still_under_way_is_waited_for(store: PostgresStore, pg_database: str) -> None:
    """Whose answer was lost, say: its commit may yet come."""
    tasks = [new() for _ in range(MANY)]
    answers: list[Enqueued] = []
    sending = Thread(target=lambda: answers.extend(store.enqueue(tasks)))
    with psycopg.connect(pg_database) as earlier, psycopg.connect(pg_database, autocommit=True) as watch:
        earlier.execute("INSERT INTO tasks (id, type) VALUES (%s, 'mail:send')", (tasks[MIDDLE].id,))
        sending.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid' AND query LIKE 'COPY%'"
        deadline_s = time.monotonic() + 4.0
        while watch.execute(waiting).fetchone() != (1,):
            assert time.monotonic() < deadline_s
        earlier.commit()
    sending.join(30)
    assert [it.existing for it in answers] == [number == MIDDLE for number in range(MANY)]


def test_a_task_that_ends_while_it_is_sent_again_is_not_stored_again(
    store: PostgresStore, pg_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves `tasks` just before the rows come in: only who looks afterwards sees it in the history."""
    tasks = [new() for _ in range(MANY)]
    chunks = copying._chunks

    def ended_meanwhile(*arguments: Any) -> Iterator[bytes]:
        with psycopg.connect(pg_database) as other:
            other.execute(
                "INSERT INTO task_history (id, type, queue, status, priority, args, attempts, fence, enqueued_at, run_at,"
                " finished_at, updated_at)"
                " SELECT %s, 'mail:send', 'default', 'completed', 0, '{}', 1, 1, now(), now(), now(), now()",
                (tasks[MIDDLE].id,),
            )
        return chunks(*arguments)

    monkeypatch.setattr(copying, "_chunks", ended_meanwhile)
    assert [it.existing for it in store.enqueue(tasks)] == [number == MIDDLE for number in range(MANY)]
    assert store.counts().pending == {"mail:send": MANY - 1}


WAYS: dict[str, Callable[[str, NewTask], list[Enqueued]]] = {
    "a store of ours": lambda url, task: _through_a_store(url, task),
    "a transaction": lambda url, task: _through_a_connection(url, task, autocommit=False),
    "autocommit": lambda url, task: _through_a_connection(url, task, autocommit=True),
}


def _through_a_store(url: str, task: NewTask) -> list[Enqueued]:
    with contextlib.closing(open_postgres(url)) as store:
        return store.enqueue([task])


def _through_a_connection(url: str, task: NewTask, *, autocommit: bool) -> list[Enqueued]:
    with psycopg.connect(url, autocommit=autocommit) as connection:
        done = enqueue_in(connection, url, [task])
        assert (connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE) == autocommit
        return done


@pytest.mark.parametrize("way", WAYS)
def test_a_task_whose_end_is_just_being_committed_is_not_stored_again(store: PostgresStore, pg_database: str, way: str) -> None:
    """The statement waits for that commit, but what it looked up in the history before is from before."""
    task = new()
    store.enqueue([task])
    claim = take_one(store)
    answers: list[Enqueued] = []
    sending = Thread(target=lambda: answers.extend(WAYS[way](pg_database, task)))
    with psycopg.connect(pg_database) as ending, psycopg.connect(pg_database, autocommit=True) as watch:
        ending.execute("DELETE FROM tasks WHERE id = %s", (claim.task_id,))
        ending.execute(
            "INSERT INTO task_history (id, type, queue, status, priority, args, attempts, fence, enqueued_at, run_at,"
            " finished_at, updated_at)"
            " SELECT %s, 'mail:send', 'default', 'completed', 0, '{}', 1, 1, now(), now(), now(), now()",
            (claim.task_id,),
        )
        sending.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid' AND query LIKE '%INSERT INTO tasks%'"
        deadline_s = time.monotonic() + 4.0
        while watch.execute(waiting).fetchone() != (1,):
            assert time.monotonic() < deadline_s
        ending.commit()
    sending.join(30)
    assert answers == [Enqueued(id=task.id, existing=True)]
    assert store.counts().pending == {}


@pytest.fixture
def proxy(pg_cluster: PgCluster) -> Iterator[Proxy]:
    with proxied(pg_cluster.port) as proxy:
        yield proxy


@pytest.mark.parametrize(("fields", "fresh", "round_trips"), [({}, True, 1), ({}, False, 2), ({"unique_key": "k"}, False, 2)])
def test_an_enqueue_asks_the_server_no_more_often_than_it_must(
    pg_cluster: PgCluster, pg_database: str, proxy: Proxy, fields: dict[str, Any], fresh: bool, round_trips: int
) -> None:
    """Once more when it may have been sent before: what has ended meanwhile is told before the commit."""
    far = open_postgres(pg_cluster.dsn(psycopg.conninfo.conninfo_to_dict(pg_database)["dbname"], port=proxy.port))
    for _ in range(8):
        far.enqueue([new(id=new_task_id())], fresh=fresh)
    before = proxy.round_trips
    far.enqueue([new(id=new_task_id(), **fields)], fresh=fresh)
    assert proxy.round_trips - before == round_trips
    far.close()


@pytest.mark.parametrize("count", [1, MANY])
def test_a_server_that_does_not_answer_is_waited_for_until_the_deadline(
    pg_cluster: PgCluster, pg_database: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    far = open_postgres(pg_cluster.dsn(psycopg.conninfo.conninfo_to_dict(pg_database)["dbname"], port=proxy.port))
    for _ in range(8):
        fresh(far)
    assert prepared(far) == {"enqueue_one"}
    monkeypatch.setattr(link, "_GRACE_S", 0.3 - link.STATEMENT_TIMEOUT_S)
    proxy.stall()
    tasks = [new(id=new_task_id()) for _ in range(count)]
    started_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match="deadline"):
        far.enqueue(tasks, fresh=True)
    assert time.monotonic() - started_s < 5.0
    monkeypatch.undo()
    proxy.flow()
    assert len(far.enqueue(tasks)) == count
    far.close()


def test_tasks_that_ended_between_the_ids_of_a_batch_do_not_keep_it_from_being_copied(
    store: PostgresStore, copied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shiftboss.store.postgres.store.plan_enqueue", None)
    tasks, inside = [new() for _ in range(MANY)], new(id="01900000-0000-7000-8000-fffffffffffe")
    store.enqueue([inside, *(new(delay_s=60.0) for _ in range(MANY))])
    finish_one(store, ended(take_one(store)))
    assert view(store, inside.id).status is TaskState.COMPLETED
    batch = [*tasks, new(id="01900000-0000-7000-8000-ffffffffffff")]
    assert store.enqueue(batch) == [Enqueued(id=task.id) for task in batch]
    assert len(copied) == 2
