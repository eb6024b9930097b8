"""Both databases for every test that asks for `database_url`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shiftboss.store.base import Store
from shiftboss.store.open import open_store


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database, ready to be used by a worker."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shiftboss.db"
    return str(request.getfixturevalue("pg_database"))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Our own eye on that database."""
    opened = open_store(database_url)
    opened.migrate()
    yield opened
    opened.close()
