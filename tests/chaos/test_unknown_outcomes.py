"""The commit whose outcome nobody learns: every writing call of the store, cut at every place, again and again.

The proxy has seen the server's answer before it cuts, so each case is what its name says, every time. After the cut the actor
does what it always does (it sends the same again, or looks what it owns), and everybody must find that it was done once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from shiftboss.errors import StoreUnavailable
from shiftboss.store.base import Store
from shiftboss.store.open import open_store
from tests.acceptance.worker import until
from tests.chaos.deeds import DEEDS, Deed, RunSql, Scene
from tests.chaos.proxy import Cut, Proxy, Rule, proxied
from tests.pg_cluster import PgCluster

TIMES = int(os.environ.get("UNKNOWN_OUTCOMES", 4 if os.environ.get("SHIFTBOSS_SLOW") else 1))  # of each deed and cut
CUTS = list(Cut) if os.environ.get("SHIFTBOSS_SLOW") or TIMES > 1 else [Cut.REPLY, Cut.LATE, Cut.ORPHAN]
DONE_WITHIN_S = 10.0
_TABLES = ("tasks", "task_history", "task_attempts", "task_traces", "workers", "departures", "counters", "queues", "leader")
_EMPTY = ";".join(f"DELETE FROM {table}" for table in _TABLES)
_ALL = " || ".join(f"(SELECT coalesce(string_agg(CAST(t AS text), ';'), '') FROM {table} t)" for table in _TABLES)

_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle' AND backend_type = 'client backend'
"""


@pytest.fixture(scope="module")
def database(pg_cluster: PgCluster) -> Iterator[str]:
    """Its name; one for all cases, emptied before each."""
    name = "unknown_outcomes"
    store = open_store(pg_cluster.create_database(name))
    store.migrate()
    store.close()
    yield name
    pg_cluster.drop_database(name)


@pytest.fixture(scope="module")
def proxy(pg_cluster: PgCluster) -> Iterator[Proxy]:
    with proxied(pg_cluster.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def sql(pg_cluster: PgCluster, database: str) -> Iterator[RunSql]:
    with psycopg.connect(pg_cluster.dsn(database), autocommit=True) as connection:

        def run(statement: str) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

        yield run


@pytest.fixture(scope="module")
def direct(pg_cluster: PgCluster, database: str) -> Iterator[Store]:
    store = open_store(pg_cluster.dsn(database))
    yield store
    store.close()


@pytest.fixture(scope="module")
def far(pg_cluster: PgCluster, database: str, proxy: Proxy) -> Iterator[Store]:
    """Through the proxy; kept open, so that prepared statements are cut as well as fresh ones."""
    store = open_store(pg_cluster.dsn(database, port=proxy.port))
    yield store
    store.close()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.name)
def test_is_done_once_whatever_became_of_the_answer(
    deed: Deed, cut: Cut, far: Store, direct: Store, sql: RunSql, proxy: Proxy
) -> None:
    for _ in range(TIMES):
        sql(_EMPTY)
        scene = Scene(direct, sql)
        deed.set_up(scene)
        before = sql(f"SELECT {_ALL}")
        rule = proxy.arm(Rule(deed.statements, cut))
        try:
            with pytest.raises(StoreUnavailable):
                deed.do(far, scene)
            if cut not in (Cut.LATE, Cut.ORPHAN):  # those go on while it is sent again
                assert rule.wait(1, DONE_WITHIN_S)
                _await_rest(sql)
                assert (sql(f"SELECT {_ALL}") != before) is cut.commits, "it was cut at another place than it was meant to be"
            (deed.again or deed.do)(far, scene)
            assert rule.wait(1, DONE_WITHIN_S), "its end has not reached the server"
        finally:
            proxy.disarm(rule)
        if cut in (Cut.LATE, Cut.ORPHAN) and deed.again is not None:
            _await_rest(sql)
            deed.again(far, scene)  # as at the next heartbeat: what came late is seen then
        deed.check(scene)


def _await_rest(sql: RunSql) -> None:
    """Until no transaction is open: the server may be about to notice that its client is gone."""
    until("no transaction is open", lambda: not sql(_OTHERS)[0][0])
