"""The gate: services under hundreds of faults, and nothing lost, nothing finished twice, nobody told a falsehood.

Everywhere a small run with each kind once; with SHIFTBOSS_SLOW=1 (`make slow`) the whole one. The long ones are `make chaos`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import run
from tests.pg_cluster import PgCluster

WHOLE = bool(os.environ.get("SHIFTBOSS_SLOW"))
SIZE = (
    ["--faults", "500", "--tasks", "25000", "--round", "500", "--rate", "6"]
    if WHOLE
    else ["--faults", "60", "--tasks", "4000", "--round", "60", "--rate", "6", "--at-least", "1"]
)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its kind; PostgreSQL's programs have to be there (the round makes a server of its own)."""
    if request.param == "postgres":
        assert isinstance(request.getfixturevalue("pg_cluster"), PgCluster)
    yield request.param


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_ends_twice_under_faults_of_every_kind(database: str, tmp_path: Path) -> None:
    code = run.main(["--database", database, "--folder", str(tmp_path / "r"), *SIZE])
    assert code == 0 or (code == run.NOT_ENOUGH and not WHOLE), "see above; the schedule is in the folder that is named there"
