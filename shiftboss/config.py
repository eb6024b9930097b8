"""Settings: frozen, with units in their names, checked together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """`[queues.NAME]`: written to the `queues` table at start where a value is given; `None` leaves the stored value."""

    concurrency: int | None = None
    weight: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One environment's settings, complete and valid.

    In TOML and on the command line a setting has the name of its field without the unit (`claim_interval = "1s"`).
    """

    environment: str = "development"
    database_url: str = "sqlite:///shiftboss.db"
    imports: tuple[str, ...] = ()  # modules with @task functions, imported by executors only
    worker_pool_size: int = 10  # slots
    executors: int | None = None  # None: min(cores, worker_pool_size)
    only_queues: tuple[str, ...] = ()  # empty: all
    claim_strategy: str = "priority"  # priority, fifo, lifo, weighted_random
    claim_interval_s: float = 1.0
    shutdown_timeout_s: float = 30.0
    cancel_grace_s: float = 5.0
    start_timeout_s: float = 60.0
    distributed_mode: bool = False
    heartbeat_interval_s: float = 10.0
    worker_timeout_s: float = 30.0
    leader_term_s: float = 30.0
    cleanup_interval_s: float = 60.0
    ping_interval_s: float = 5.0
    ping_timeout_s: float = 30.0
    max_restarts: int = 20
    restart_period_s: float = 60.0
    restart_backoff_s: float = 0.5
    restart_backoff_max_s: float = 30.0
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9090  # 0: any free one
    max_args_bytes: int = 1_048_576
    result_retention_s: float = 86_400.0
    completed_retention_s: float = 7 * 86_400.0
    cancelled_retention_s: float = 7 * 86_400.0
    dead_letter_retention_s: float = 30 * 86_400.0
    log_format: str = "auto"  # auto, text, json, journal
    log_level: str = "info"
    debug: bool = False
    enqueue_examples: bool = False
    queues: Mapping[str, QueueSettings] = field(default_factory=dict)
