"""The gate: services under hundreds of faults, and nothing lost, nothing finished twice, nobody told a falsehood.

In CI and with SHIFTBOSS_SLOW=1 (`make slow`); some 100 s a database on two cores that do nothing else, to be 120 at most.
The long runs are `make chaos`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import run
from tests.pg_cluster import PgCluster

SIZE = ["--faults", "500", "--tasks", "25000", "--round", "500", "--rate", "8", "--at-least", "3"]
ROOMY_S = 600  # printed is what it took; machines are noisy, and a run that takes five times as long is still broken
pytestmark = [pytest.mark.timeout(ROOMY_S), pytest.mark.long]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its kind; PostgreSQL's programs have to be there (the round makes a server of its own)."""
    if request.param == "postgres":
        assert isinstance(request.getfixturevalue("pg_cluster"), PgCluster)
    yield request.param


def test_nothing_is_lost_and_nothing_ends_twice_under_faults_of_every_kind(database: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="sb-"))  # a short path: sockets stand below it, of services by their number of starts
    code = run.main(["--database", database, "--folder", str(folder / "r"), *SIZE])
    if code == 0:
        shutil.rmtree(folder)
    assert code == 0, "see above what is violated or missing; the schedule is in the folder that is named there"
