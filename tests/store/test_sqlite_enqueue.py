"""The quick way of storing a batch on SQLite says the same of every task as the slow one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from store_harness import new

from shiftboss.store.sqlite.store import open_sqlite

# What somebody keeps of every task that comes in: rows that are not ours must not be taken for stored tasks.
AUDIT = """
CREATE TABLE audit (id TEXT);
CREATE TRIGGER audit_tasks AFTER INSERT ON tasks BEGIN INSERT INTO audit VALUES (new.id); END;
"""


@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_task_that_was_not_stored_is_not_said_to_be(tmp_path: Path, size: int, audited: bool) -> None:
    path = tmp_path / "tasks.db"
    store = open_sqlite(path)
    store.migrate()
    if audited:
        with sqlite3.connect(path) as connection:
            connection.executescript(AUDIT)
        connection.close()
    (first,) = store.enqueue([new(unique_key="one")])
    batch = [new(unique_key="one"), *(new() for _ in range(size - 1))]
    answers = store.enqueue(batch)
    assert [(answer.id, answer.existing) for answer in answers] == [(first.id, True), *((one.id, False) for one in batch[1:])]
    assert store.get(batch[0].id) is None
    assert all(store.get(one.id) is not None for one in batch[1:])
    store.close()
