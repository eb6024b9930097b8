"""Fixtures for tests that need PostgreSQL: one private server per run, one fresh database per test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

import pytest

from tests.pg_cluster import PgCluster, PostgresMissing, find_server_programs

_TEMPLATE = "shiftboss_template"
_numbers = count(1)


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


@pytest.fixture(scope="session")
def _pg_template(pg_cluster: PgCluster) -> str:
    from shiftboss.store.postgres.store import open_postgres

    store = open_postgres(pg_cluster.create_database(_TEMPLATE))
    store.migrate()
    store.close()
    return _TEMPLATE


@pytest.fixture
def pg_database(pg_cluster: PgCluster, _pg_template: str) -> Iterator[str]:
    """The DSN of a fresh, migrated database."""
    name = f"test_{next(_numbers)}"
    yield pg_cluster.create_database(name, _pg_template)
    pg_cluster.drop_database(name)


@pytest.fixture
def pg_empty_database(pg_cluster: PgCluster) -> Iterator[str]:
    """The DSN of a fresh database without a schema."""
    name = f"test_{next(_numbers)}"
    yield pg_cluster.create_database(name)
    pg_cluster.drop_database(name)
