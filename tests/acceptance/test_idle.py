"""What a worker costs that has nothing to do: memory, CPU time, statements. Two executors, tasks that import nothing."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import proc
from shiftboss.store.open import open_store
from tests.acceptance.worker import Worker
from tests.pg_cluster import PgCluster

SETTLE_S = 5.0  # until the claimer has slowed down to `claim_interval`
WATCH_S = 15.0
MOST_STATEMENTS_PER_S = 2.0  # 1.5 to 1.7 measured
MOST_CPU_SHARE = 0.01  # of a core; 0.001 to 0.004 measured
# Private to its processes: what they share with others says more about those. Measured: 75 and 111; 3 more where an interpreter
# has to compile first. It was 107 and 135 when every role loaded what any needs.
MOST_MIB = {"sqlite": 83, "postgres": 119}
_STATEMENT = re.compile(r"^<shiftboss ([\w-]+)> .*?(?:statement|execute [^:]*): (.+)", re.MULTILINE)


def let_pass(seconds: float) -> None:
    threading.Event().wait(seconds)


@pytest.fixture(scope="module")
def talkative(pg_cluster: PgCluster) -> Iterator[PgCluster]:  # the other one: whether there is a server at all
    """A server that logs every statement with whose it is."""
    with PgCluster(log_statement="all", log_line_prefix="<%a> ") as cluster:
        yield cluster


def private_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Private_\w+):\s+(\d+) kB", text, re.MULTILINE))
    return (int(found["Private_Clean"]) + int(found["Private_Dirty"])) / 1024


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_an_idle_worker_is_small_and_leaves_the_database_alone(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: PgCluster | None = request.getfixturevalue("talkative") if database == "postgres" else None
    url = server.create_database("idle") if server else f"sqlite:///{tmp_path}/idle.db"
    store = open_store(url)
    store.migrate()
    store.close()
    with Worker(url, tmp_path, imports=("tests.acceptance.quiet_tasks",), executors=2) as worker:
        worker.ready()
        let_pass(SETTLE_S)
        processes = proc.roles(worker.process.pid)
        said = server.log_path.stat().st_size if server else 0
        began_s, cpu_s = time.monotonic(), sum(map(proc.cpu_s, processes))
        let_pass(WATCH_S)
        took_s = time.monotonic() - began_s
        share = (sum(map(proc.cpu_s, processes)) - cpu_s) / took_s
        if server:
            text = server.log_path.read_bytes()[said:].decode(errors="replace")
            statements = Counter((who, what[:40]) for who, what in _STATEMENT.findall(text))
            assert {who for who, _what in statements} == {"claimer", "heartbeat", "leader"}, (
                "the log is not read as it is written"
            )
            assert statements.total() / took_s <= MOST_STATEMENTS_PER_S, statements
        sizes = {f"{role} {pid}": private_mib(pid) for pid, role in processes.items()}
        assert len(sizes) == 7
        assert sum(sizes.values()) <= MOST_MIB[database], sizes
        assert share <= MOST_CPU_SHARE

        assert worker.stop() == 0
