"""Fixtures for tests that need PostgreSQL: one private server per run, one clean database per test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import count

import psycopg
import pytest
from psycopg import sql

from tests.pg_cluster import PgCluster, PostgresMissing, find_server_programs

_TEMPLATE = "shiftboss_template"
_numbers = count(1)

PG_ROLES = {"worker": "shiftboss_worker", "producer": "shiftboss_producer", "reader": "shiftboss_reader"}
"""By kind, the roles that have their rights in every database of the fixture `pg_database`."""

_TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
_DISCONNECT = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# Whatever a test could have changed in the schema; two databases with the same text have the same schema.
_SCHEMA = """
SELECT string_agg(line, E'\n' ORDER BY line) FROM (
  SELECT concat_ws(' ', relname, relkind, reloptions) AS line FROM pg_class WHERE relnamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(' ', conname, pg_get_constraintdef(oid)) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(' ', attrelid::regclass, attname, atttypid, attnotnull) FROM pg_attribute
    WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
  UNION ALL SELECT concat_ws(' ', tgrelid::regclass, tgname) FROM pg_trigger
  UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT setconfig::text FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
    WHERE d.datname = current_database()
) lines
"""


def as_role(dsn: str, kind: str) -> str:
    """The same database, as the role of this kind."""
    return re.sub(r"//[^@]*@", f"//{PG_ROLES[kind]}@", dsn)


def as_owner(dsn: str) -> str:
    """The same database, as the role that owns it, whatever role the run is for."""
    return re.sub(r"//[^@]*@", "//shiftboss@", dsn)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests are for whoever asks (`make slow`), long ones for CI and whoever asks."""
    if os.environ.get("SHIFTBOSS_SLOW"):
        return
    left_out = {item for item in items if item.get_closest_marker("slow") or (_is_long(item) and not os.environ.get("CI"))}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _is_long(item: pytest.Item) -> bool:
    parameters = re.findall(r"\[(.*)\]", item.name)
    case = parameters[0].split("-") if parameters else []
    return any(not marker.args or marker.args[0] in case for marker in item.iter_markers("long"))


@pytest.fixture(scope="session")
def pg_cluster() -> Iterator[PgCluster]:
    """The server. Missing programs skip the test at home and fail it where the variable CI is set."""
    try:
        find_server_programs()
    except PostgresMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with PgCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def pg_dsn(pg_cluster: PgCluster) -> str:
    """The maintenance database; for tests that make their own."""
    return pg_cluster.dsn()


class _Databases:
    """Migrated databases; one that a test has left with its schema unchanged is emptied and lent again (50 times faster)."""

    def __init__(self, cluster: PgCluster) -> None:
        from shiftboss.store.postgres.roles import grant_roles
        from shiftboss.store.postgres.store import open_postgres

        self._cluster = cluster
        self._free: list[str] = []
        dsn = cluster.create_database(_TEMPLATE)
        store = open_postgres(dsn)
        store.migrate()
        store.close()
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            for role in PG_ROLES.values():
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        grant_roles(dsn, {kind: [role] for kind, role in PG_ROLES.items()})
        with psycopg.connect(dsn) as connection:
            self._schema = connection.execute(_SCHEMA).fetchone()
            self._tables = [row[0] for row in connection.execute(_TABLES) if row[0] != "schema_migrations"]

    def lend(self) -> str:
        if self._free:
            return self._free.pop()
        name = f"test_{next(_numbers)}"
        self._cluster.create_database(name, _TEMPLATE)
        return name

    def take_back(self, name: str) -> None:
        with psycopg.connect(self._cluster.dsn(name), autocommit=True) as connection:
            connection.execute(_DISCONNECT)
            clean = connection.execute(_SCHEMA).fetchone() == self._schema
            if clean:
                deletes = [sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for table in self._tables]
                connection.execute(sql.SQL(";").join(deletes))
        if clean:
            self._free.append(name)
        else:
            self._cluster.drop_database(name)


@pytest.fixture(scope="session")
def _pg_databases(pg_cluster: PgCluster) -> _Databases:
    return _Databases(pg_cluster)


@pytest.fixture
def pg_database(pg_cluster: PgCluster, _pg_databases: _Databases) -> Iterator[str]:
    """The DSN of an empty, migrated database that nobody else uses; its user is the owner, or of the kind in TEST_PG_ROLE."""
    name = _pg_databases.lend()
    kind = os.environ.get("TEST_PG_ROLE")
    yield as_role(pg_cluster.dsn(name), kind) if kind else pg_cluster.dsn(name)
    _pg_databases.take_back(name)


@pytest.fixture
def pg_empty_database(pg_cluster: PgCluster) -> Iterator[str]:
    """The DSN of a new database without a schema."""
    name = f"test_{next(_numbers)}"
    yield pg_cluster.create_database(name)
    pg_cluster.drop_database(name)
