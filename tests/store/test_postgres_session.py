"""What a session brings to every statement, its deadlines and its plans, and how little an idle worker says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from store_harness import lead, put, worker

from shiftboss.store.base import Retention
from shiftboss.store.postgres import link
from shiftboss.store.postgres.store import PostgresStore, open_postgres

SPY = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('enable_seqscan')"
BOUNDED, PINNED, BARE = ("20s", "5s", "on"), ("20s", "5s", "off"), ("0", "0", "on")


@pytest.fixture
def store(pg_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresStore]:
    monkeypatch.setitem(link.queries(), "spy", SPY)  # type: ignore[arg-type]
    store = open_postgres(pg_database)
    yield store
    store.close()


def spied(store: PostgresStore, *, pinned: bool = False) -> tuple[Any, ...]:
    return store._link.rows("spy", pinned=pinned)[0]


def session(store: PostgresStore) -> tuple[Any, ...]:
    """What holds between our statements."""
    with store._link.connected() as connection:
        row = connection.execute(SPY).fetchone()
    assert row is not None
    return row


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that goes to the server, in order."""
    statements: list[str] = []
    execute = psycopg.Connection.execute

    def note(self: psycopg.Connection[Any], query: Any, *arguments: Any, **options: Any) -> Any:
        statements.append(str(query))
        return execute(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", note)
    return statements


def test_a_statement_alone_has_deadlines_and_the_plans_that_it_asks_for(store: PostgresStore) -> None:
    assert spied(store) == BOUNDED
    assert spied(store, pinned=True) == PINNED
    assert spied(store) == BOUNDED, "a session that is pinned for the claimer must plan other queries as ever"
    assert spied(store, pinned=True) == PINNED


def test_a_transaction_in_a_pinned_session_plans_as_it_asks(store: PostgresStore) -> None:
    spied(store, pinned=True)
    for pinned, expected in ((False, BOUNDED), (True, PINNED)):
        with store._link.transaction(pinned=pinned, lock_timeout_s=1.0) as connection:
            cursor = connection.execute(SPY)
        assert cursor.fetchone() == ("20s", "1s", expected[2])
    assert session(store) == PINNED


def test_the_isolation_is_ours_whatever_the_owner_of_the_database_made_the_default(pg_database: str) -> None:
    store = open_postgres(f"{pg_database}&options=-c%20default_transaction_isolation%3Dserializable")
    with store._link.connected() as connection:
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
    store.close()


def test_behind_a_pooler_nothing_is_left_in_the_session(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next transaction there is somebody else's."""
    monkeypatch.setattr(link, "is_pooled", lambda _connection: True)
    assert spied(store, pinned=True) == PINNED
    assert spied(store) == BOUNDED
    assert session(store) == BARE


def test_a_new_connection_is_settled_anew(store: PostgresStore) -> None:
    assert spied(store, pinned=True) == PINNED
    store._link.close()
    assert spied(store) == BOUNDED
    assert session(store) == BOUNDED


def test_a_migration_takes_as_long_as_it_takes(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = "SELECT set_config('shiftboss.seen', current_setting('statement_timeout') || current_setting('lock_timeout'), false)"
    monkeypatch.setitem(link.queries(), "lock_migrations", seen)  # type: ignore[arg-type]
    store.migrate()
    with store._link.connected() as connection:
        assert connection.execute("SELECT current_setting('shiftboss.seen')").fetchone() == ("00",)
    assert session(store) == BOUNDED


def test_what_an_idle_worker_asks_again_and_again_is_one_statement_each(store: PostgresStore, said: list[str]) -> None:
    store.register(worker("w"), timeout_s=30.0, exclusive=False)
    lease = lead(store)
    put(store)
    store.lanes()  # the first one settles the plans of the session
    for ask in (
        lambda: store.lanes(),
        lambda: store.owned("w"),
        lambda: store.cancel_requests("w"),
        lambda: store.set_sleeping("w", True),
    ):
        said.clear()
        ask()
        assert len(said) == 1, said
    others = open_postgres(store._link.address.conninfo)
    others.now()
    others.prune(lease, Retention(completed_s=60.0, cancelled_s=60.0, dead_letter_s=60.0, result_s=60.0))
    for ask in (
        lambda: others.beat("w", 0, 8, 30.0),
        lambda: others.renew(lease, 30.0),
        lambda: others.recover(lease),
        lambda: others.counts(),
    ):
        said.clear()
        ask()
        assert len(said) == 1, said
    others.close()
