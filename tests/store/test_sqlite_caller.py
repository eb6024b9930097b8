"""Enqueueing inside a transaction of the caller's, and doorbells beside the file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from store_harness import new, put

from shiftboss.errors import StoreUnavailable
from shiftboss.store.sqlite import SqliteStore, enqueue_in, open_sqlite, ring


@pytest.fixture
def only(tmp_path: Path) -> Iterator[SqliteStore]:
    store = open_sqlite(tmp_path / "tasks.db")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def caller(only: SqliteStore) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(only.path)  # as applications open it: a transaction begins by itself
    yield connection
    connection.close()


def _through(connection: sqlite3.Connection) -> Any:
    def execute(sql: str, values: dict[str, Any]) -> Sequence[Any]:
        return connection.execute(sql, values).fetchall()

    return execute


def test_commit_makes_it_visible_and_rollback_makes_it_never_have_been(only: SqliteStore, caller: sqlite3.Connection) -> None:
    (stored,) = enqueue_in(_through(caller), [new()], only.now())
    assert caller.in_transaction
    assert only.get(stored.id) is None
    caller.rollback()
    assert only.get(stored.id) is None
    (stored,) = enqueue_in(_through(caller), [new()], only.now())
    caller.commit()
    assert only.get(stored.id) is not None


def test_a_unique_key_is_seen_inside_the_transaction(only: SqliteStore, caller: sqlite3.Connection) -> None:
    before = put(only, unique_key="a")
    answers = enqueue_in(_through(caller), [new(unique_key="a"), new(unique_key="b")], only.now())
    (again,) = enqueue_in(_through(caller), [new(unique_key="b")], only.now())
    assert [answer.existing for answer in (*answers, again)] == [True, False, True]
    assert (answers[0].id, again.id) == (before, answers[1].id)
    caller.rollback()


def test_the_statements_run_under_sqlalchemy_too(only: SqliteStore) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(f"sqlite:///{only.path}")
    with engine.begin() as connection:
        done = enqueue_in(
            lambda sql, values: connection.execute(sqlalchemy.text(sql), values).fetchall(),
            [new(unique_key="k"), new(unique_key="k"), new()],
            only.now(),
        )
    engine.dispose()
    assert [stored.existing for stored in done] == [False, True, False]
    assert only.counts().pending == {"mail:send": 2}


# ---- doorbells


def test_ringing_where_nobody_listens_does_nothing(tmp_path: Path, only: SqliteStore) -> None:
    assert ring(only.path) == 0
    assert ring(tmp_path / "no" / "such.db") == 0


def test_who_begins_to_listen_later_is_told(only: SqliteStore) -> None:
    put(only)
    assert ring(only.path) == 0
    listener = only.listener("late")
    assert ring(only.path) == 1
    listener.close()
    assert ring(only.path) == 0  # the folder stays


def test_the_bell_of_a_dead_listener_is_taken_down(only: SqliteStore) -> None:
    alive, dead = only.listener("alive"), only.listener("dead")
    dead._socket.close()  # as after SIGKILL: the name stays, nobody is behind it
    folder = only.path.parent / "tasks.db.bells"
    assert len(list(folder.iterdir())) == 2
    assert ring(only.path) == 1
    assert [bell.name.partition(".")[0] for bell in folder.iterdir()] == ["alive"]
    assert alive.wait(5.0)
    alive.close()
    assert list(folder.iterdir()) == []
    os.close(dead._end)


def test_a_full_bell_neither_blocks_nor_fails(only: SqliteStore) -> None:
    listener = only.listener("busy")
    for _ in range(2_000):
        assert ring(only.path) == 1
    assert listener.wait(0.0) is True
    assert listener.wait(0.0) is False
    listener.close()


def test_a_bell_that_was_removed_is_noticed(only: SqliteStore) -> None:
    listener = only.listener("w")
    for bell in (only.path.parent / "tasks.db.bells").iterdir():
        bell.unlink()
    with pytest.raises(StoreUnavailable, match="new listener"):
        listener.wait(0.0)
    listener.close()


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    store = open_sqlite(folder / "tasks.db")
    store.migrate()
    listener = store.listener("host/with:odd characters-" + "x" * 200)
    put(store)
    assert listener.wait(5.0) is True
    listener.close()
    store.close()
