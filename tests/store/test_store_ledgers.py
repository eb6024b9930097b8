"""What rounds count under names of their own is one sum, before and after it is folded."""

from __future__ import annotations

import psycopg
from store_harness import ended, info, put, take

from shiftboss.model import Outcome
from shiftboss.store.base import Exchange, Store
from shiftboss.store.postgres.store import open_postgres

NAMES = ["w1/1", "w1/2", "w1/3"]
TYPES = ["mail:send", "mail:fetch"]


def finish_under(store: Store, ledger: str, count: int) -> None:
    for type_ in TYPES:
        for _ in range(count):
            put(store, type_)
    claims = [claim for type_ in TYPES for claim in take(store, types=[info(type_)])]
    store.exchange(Exchange(worker_id="w1", ended=[ended(one, Outcome.SUCCESS) for one in claims], ledger=ledger))


def totals(store: Store) -> tuple[dict[str, int], dict[tuple[str, str], float]]:
    counters = {(one.name, one.labels): one.value for one in store.counters("w1")}
    return dict(store.counts().enqueued), counters


def test_folding_changes_no_sum(store: Store) -> None:
    for count, name in enumerate(NAMES, 2):
        finish_under(store, name, count)
    before = totals(store)
    assert before[0] == dict.fromkeys(TYPES, 9)
    for _ in range(2):
        store.fold_ledgers("w1", NAMES[:2])
        assert totals(store) == before
    finish_under(store, NAMES[0], 1)  # a claimer that was started again begins with the same names
    store.fold_ledgers("w1", NAMES)
    enqueued, counters = totals(store)
    assert enqueued == dict.fromkeys(TYPES, 10)
    assert sum(value for (name, _labels), value in counters.items() if name == "task_duration_seconds_bucket") == 20


def test_folding_leaves_what_others_count_and_one_row_for_each_figure(pg_database: str) -> None:
    store = open_postgres(pg_database)
    store.migrate()
    for name in (*NAMES, "w10/1", "w1"):
        finish_under(store, name, 1)
    store.fold_ledgers("w1", NAMES[:2])
    with psycopg.connect(pg_database) as connection:
        rows = connection.execute('SELECT slot, type, n FROM departures ORDER BY slot COLLATE "C", type DESC').fetchall()
        kept = connection.execute("SELECT DISTINCT worker_id FROM counters").fetchall()
    store.close()
    expected = [("w1", 1), ("w1/0", 2), ("w1/3", 1), ("w10/1", 1)]
    assert rows == [(slot, type_, n) for slot, n in expected for type_ in TYPES]
    assert {one for (one,) in kept} == {slot for slot, _ in expected}
