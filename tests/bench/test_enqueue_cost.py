"""What storing a task costs beside the barest statement that the same database could run instead; both take turns.

CPU, not time: the commit waits for a disk that others use too. The cheapest calls count on each side, so a machine that is
busy or slow is so on both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from bench import proc
from bench.handlers import noop
from bench.target import PostgresTarget, SqliteTarget, Target
from shiftboss import Client
from shiftboss.model import new_task_id
from tests.pg_cluster import PgCluster

pytestmark = pytest.mark.long

# Of the bare statement's own CPU. Measured when they were set: 1.35 (1.85 by the statement for any number), 1.5, 1.0 (1.9), 1.9.
SINGLE_POSTGRES: Final = 1.7
SINGLE_SQLITE: Final = 1.7
MANY_POSTGRES: Final = 1.4
MANY_SQLITE: Final = 2.5

SINGLES: Final = 400
MANY: Final = 5_000
ROUNDS: Final = 20


@pytest.fixture(params=["postgres", "sqlite"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    if request.param == "sqlite":
        target: Target = SqliteTarget(tmp_path)
    else:
        cluster: PgCluster = request.getfixturevalue("pg_cluster")
        target = PostgresTarget(cluster, "enqueue_cost", tmp_path)
    yield target
    target.close()


def test_one_task_costs_its_client_little_more_than_a_bare_insert(target: Target) -> None:
    with Client(target.url) as client:
        ours, bare = in_turns(lambda: client.enqueue(noop), lambda: target.insert_bare(new_task_id()), SINGLES, time.thread_time)
    ratio = cheap(ours) / cheap(bare)
    print(f"{ratio:.2f} of a bare INSERT")
    assert ratio <= (SINGLE_POSTGRES if isinstance(target, PostgresTarget) else SINGLE_SQLITE)


def test_many_tasks_cost_little_more_than_the_fastest_way_in(target: Target) -> None:
    """On PostgreSQL the server's work, which nobody else can do; the client has arguments to check meanwhile."""
    with Client(target.url) as client:
        client.enqueue(noop)
        ours, bare = in_turns(
            lambda: client.enqueue_many(noop.prepare() for _ in range(MANY)),
            lambda: target.insert_bare_many(new_task_id() for _ in range(MANY)),
            ROUNDS,
            sessions_cpu_s(target) if isinstance(target, PostgresTarget) else time.thread_time,
        )
    ratio = cheap(ours) / cheap(bare)
    print(f"{ratio:.2f} of COPY or executemany")
    assert ratio <= (MANY_POSTGRES if isinstance(target, PostgresTarget) else MANY_SQLITE)


def in_turns(
    ours: Callable[[], object], bare: Callable[[], object], count: int, cpu_s: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """CPU seconds of each call."""
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(count):
        for call, kept in zip((ours, bare), spent, strict=True):
            began_s = cpu_s()
            call()
            kept.append(cpu_s() - began_s)
    return spent


def cheap(costs: list[float]) -> float:
    """What a call costs when nothing gets in its way."""
    return sorted(costs)[len(costs) // 10]


def sessions_cpu_s(target: PostgresTarget) -> Callable[[], float]:
    """CPU seconds of the client's session and the target's own together: only the one that is asked works."""
    pids = [pid for pid, role in target.server_processes().items() if role.startswith(proc.SESSION)]
    pids.append(target._connection.info.backend_pid)

    def cpu_s() -> float:
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) for pid in pids) / 1e9

    return cpu_s
