"""NOTIFY is sent only while a claimer says that it sleeps, since every NOTIFY takes a database-wide lock at commit."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest
from store_harness import new, put, worker

from shiftboss.store.postgres.store import PostgresStore, open_postgres


@pytest.fixture
def store(pg_database: str) -> Iterator[PostgresStore]:
    store = open_postgres(pg_database)
    store.register(worker("w1"), timeout_s=30.0, exclusive=False)
    yield store
    store.close()


@pytest.fixture
def ear(pg_database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(pg_database, autocommit=True) as connection:
        connection.execute("LISTEN shiftboss")
        yield connection


def heard(ear: psycopg.Connection[tuple[object, ...]]) -> int:
    """Everything sent so far: notifications arrive before the answer to a statement of ours."""
    ear.execute("SELECT 1")
    return len(list(ear.notifies(timeout=0.2)))


def test_nobody_rings_while_all_are_awake(store: PostgresStore, ear: psycopg.Connection[tuple[object, ...]]) -> None:
    put(store)
    assert heard(ear) == 0


def test_one_ring_for_a_whole_batch(store: PostgresStore, ear: psycopg.Connection[tuple[object, ...]]) -> None:
    store.set_sleeping("w1", True)
    store.enqueue([new() for _ in range(50)])
    assert heard(ear) == 1
    store.set_sleeping("w1", False)
    put(store)
    assert heard(ear) == 0


def test_what_is_due_later_or_there_already_wakes_nobody(
    store: PostgresStore, ear: psycopg.Connection[tuple[object, ...]]
) -> None:
    put(store, unique_key="k")
    store.set_sleeping("w1", True)
    put(store, unique_key="k")
    put(store, delay_s=60.0)
    assert heard(ear) == 0


def test_a_ring_comes_with_the_commit(
    store: PostgresStore, pg_database: str, ear: psycopg.Connection[tuple[object, ...]]
) -> None:
    from shiftboss.transaction import enqueue_in

    store.set_sleeping("w1", True)
    with psycopg.connect(pg_database) as caller:
        enqueue_in(caller, pg_database, [new()])
        assert heard(ear) == 0
        caller.commit()
        assert heard(ear) == 1
        enqueue_in(caller, pg_database, [new()])
        caller.rollback()
        assert heard(ear) == 0
    assert store.counts().pending == {"mail:send": 1}


def test_a_ring_is_heard_at_once_and_once(store: PostgresStore) -> None:
    store.set_sleeping("w1", True)
    listener = store.listener("w1")
    began_s = time.monotonic()
    for _ in range(3):
        put(store)
        assert listener.wait(9.0)
    assert time.monotonic() - began_s < 5.0, "it was heard by chance, when the connection was probed"
    assert not listener.wait(0.1)
    listener.close()


def test_behind_a_pooler_the_listener_only_waits(pg_database: str) -> None:
    store = open_postgres(f"{pg_database}&listen=off")
    listener = store.listener("w1")
    assert not listener.listening
    store.register(worker("w1"), timeout_s=30.0, exclusive=False)
    store.set_sleeping("w1", True)
    put(store)
    assert not listener.wait(0.1)
    listener.close()
    store.close()
