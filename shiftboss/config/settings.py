"""The settings: each declared once, with its default, its rules and its words; everything else is derived from here.

Files under conf/, `shiftboss config show|init` and the reference page are made from these declarations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from shiftboss.config.declare import Declared
from shiftboss.config.values import AUTO, Kind, Reload, Spec
from shiftboss.hiding import repr_without

_DAY_S: Final = 86_400.0


_own, _of_queue = Declared(), Declared()


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[queues.NAME]`: written to the `queues` table at start where a value is given; `None` leaves the stored value."""

    concurrency: int | None = _of_queue.whole(
        None, "Running attempts of this queue per worker; 0: no limit.", low=0, high=100_000
    )
    weight: int | None = _of_queue.whole(None, "Share of this queue under claim_strategy weighted_random.", low=1, high=1_000_000)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One environment's settings, complete and valid.

    In TOML and on the command line a setting has the name of its field without the unit (`claim_interval = "1s"`).
    """

    environment: str = _own.other(
        Kind.TEXT,
        "development",
        "The name of this environment, for logs and status.",
        variable="SHIFTBOSS_ENV",
        reload=Reload.RESTART,
    )
    database_url: str = _own.other(
        Kind.DATABASE_URL,
        "sqlite:///shiftboss.db",
        "Where tasks are kept. SQLite for one machine: sqlite:///relative.db or sqlite:////absolute.db. "
        "PostgreSQL for many: postgresql://user@host:5432/database.",
        variable="DATABASE_URL",
        reload=Reload.RESTART,
    )
    imports: tuple[str, ...] = _own.other(
        Kind.NAMES, (), "Modules with @task functions; only executors import them.", reload=Reload.EXECUTORS
    )

    worker_pool_size: int = _own.whole(
        10,
        "Slots: how many attempts this worker runs at once.",
        low=1,
        high=10_000,
        variable="WORKER_POOL_SIZE",
        reload=Reload.EXECUTORS,
    )
    executors: int | None = _own.whole(
        None,
        "Executor processes, which share the slots; auto: one per core, no more than slots.",
        low=1,
        high=1_000,
        optional=True,
        reload=Reload.EXECUTORS,
    )
    only_queues: tuple[str, ...] = _own.other(Kind.NAMES, (), "Claim from these queues only; empty: from all.")
    claim_strategy: str = _own.choice(
        "priority",
        "Which due task runs first: by priority, the oldest (fifo), the newest (lifo), or queues by weight (weighted_random).",
        ("priority", "fifo", "lifo", "weighted_random"),
    )
    claim_interval_s: float = _own.duration(
        1.0,
        "How often to look for due tasks when nothing has rung; enqueueing rings at once.",
        low=0.01,
        variable="CLAIM_INTERVAL",
    )
    max_args_bytes: int = _own.whole(
        1_048_576,
        "The largest arguments a task may have, in bytes of JSON.",
        low=1_024,
        high=1_073_741_824,
        reload=Reload.EXECUTORS,
    )

    shutdown_timeout_s: float = _own.duration(
        30.0, "How long running attempts may go on after a stop was asked for.", variable="SHUTDOWN_TIMEOUT"
    )
    cancel_grace_s: float = _own.duration(5.0, "How long a cancelled attempt may take to end before its process is killed.")
    start_timeout_s: float = _own.duration(60.0, "How long a process may take to be ready, and the database to answer.", low=1.0)

    control_socket: str = _own.other(
        Kind.SOCKET,
        AUTO,
        "Where the service listens for `shiftboss stop`, `reload` and the like; a Unix socket of its owner alone. "
        "auto: in the runtime directory. off: signals only.",
        reload=Reload.RESTART,
    )

    distributed_mode: bool = _own.switch(
        False,
        "false: the only worker; what an earlier one left behind is recovered at start. "
        "true: several workers share the database; heartbeats and the leader decide who is gone.",
        variable="DISTRIBUTED_MODE",
        reload=Reload.RESTART,
    )
    heartbeat_interval_s: float = _own.duration(
        10.0,
        "How often a worker says that it lives; at most a third of worker_timeout.",
        low=0.1,
        variable="HEARTBEAT_INTERVAL",
    )
    worker_timeout_s: float = _own.duration(
        30.0,
        "A worker silent for this long is gone: its tasks are recovered, and it may not finish them any more.",
        low=0.3,
        variable="WORKER_TIMEOUT",
    )
    leader_term_s: float = _own.duration(
        30.0,
        "How long one worker leads without renewing; after its death maintenance waits this long.",
        low=3.0,
        variable="LEADER_TERM",
    )
    cleanup_interval_s: float = _own.duration(
        60.0, "How often the leader removes what is older than its retention.", low=1.0, variable="CLEANUP_INTERVAL"
    )

    ping_interval_s: float = _own.duration(5.0, "How often the supervisor asks each actor whether it lives.", low=0.1)
    ping_timeout_s: float = _own.duration(
        30.0, "An actor that has not answered for this long is dumped, killed and restarted.", low=0.2
    )
    max_restarts: int = _own.whole(
        20, "More restarts than this within restart_period and the service gives up; systemd takes over.", low=0, high=100_000
    )
    restart_period_s: float = _own.duration(60.0, "The window in which restarts are counted.", low=1.0)
    restart_backoff_s: float = _own.duration(0.5, "Delay before a restart; doubles at each one up to restart_backoff_max.")
    restart_backoff_max_s: float = _own.duration(30.0, "The longest delay before a restart.")
    restart_reset_s: float = _own.duration(
        60.0, "A process that has been ready for this long has its earlier crashes forgotten: the delay is restart_backoff again."
    )
    executor_probe_interval_s: float = _own.duration(
        30.0, "While the executors keep crashing, nothing is claimed and one executor is tried this often.", low=0.1
    )

    executor_max_tasks: int = _own.whole(
        0,
        "An executor that has run this many attempts is replaced, the new one first; 0: never.",
        low=0,
        high=1_000_000_000,
        reload=Reload.EXECUTORS,
    )
    executor_max_age_s: float = _own.duration(
        0.0, "An executor that has run for this long is replaced, the new one first; 0: never.", reload=Reload.EXECUTORS
    )
    executor_max_memory_bytes: int = _own.size(
        0,
        "An executor whose memory (resident set) is larger than this is replaced, the new one first; 0: never.",
        high=1024**4,
        reload=Reload.EXECUTORS,
    )

    metrics_host: str = _own.other(
        Kind.TEXT,
        "127.0.0.1",
        "Address on which /metrics and /health are served, without authentication: keep it private.",
        reload=Reload.GATEWAY,
    )
    metrics_port: int = _own.whole(
        9090,
        "Port for /metrics and /health; 0: any free one.",
        low=0,
        high=65_535,
        variable="METRICS_PORT",
        reload=Reload.GATEWAY,
    )

    result_retention_s: float = _own.duration(_DAY_S, "How long the result of a completed task is kept.")
    completed_retention_s: float = _own.duration(
        7 * _DAY_S,
        "How long completed tasks are kept. 0s: this worker keeps no history of them, which spares the database a part of its "
        "work. Such a task can be neither looked at nor listed after its end, and what its handler returned is lost.",
    )
    cancelled_retention_s: float = _own.duration(7 * _DAY_S, "How long cancelled tasks are kept.")
    dead_letter_retention_s: float = _own.duration(30 * _DAY_S, "How long dead letters are kept.")

    log_format: str = _own.choice(
        "auto",
        "auto: text on a terminal, entries with fields in the journal under systemd, else JSON.",
        ("auto", "text", "json", "journal"),
    )
    log_level: str = _own.choice("info", "The least important lines that are written.", ("debug", "info", "warning", "error"))
    debug: bool = _own.switch(
        False, "Log at level debug whatever log_level says, and show tracebacks of commands.", variable="DEBUG"
    )
    enqueue_examples: bool = _own.switch(
        False, "Enqueue sample tasks at start, to see something run.", variable="ENQUEUE_EXAMPLES", reload=Reload.EXECUTORS
    )
    queues: Mapping[str, QueueSettings] = _own.other(
        Kind.QUEUES,
        {},
        "Per queue: how many of its attempts run at once, and its weight. What is not given stays as stored.",
    )

    @property
    def keeps_completed(self) -> bool:
        """Whether a task that completes moves to the history, or is gone."""
        return self.completed_retention_s > 0

    def __repr__(self) -> str:
        return repr_without(self, "database_url")  # which may hold a password


class Setting(msgspec.Struct, frozen=True):
    """One setting as files and people see it.

    Attributes:
        name: in TOML; the field's name without its unit, where the value is written with one.
        field: in `Settings`.
        default: as the field has it.
    """

    name: str
    field: str
    spec: Spec
    default: object

    @property
    def variables(self) -> tuple[str, ...]:
        """Its environment variables; where both are set, the first wins."""
        own = f"SHIFTBOSS_{self.name.upper()}"
        return (own, self.spec.variable) if self.spec.variable else (own,)

    @property
    def file_variables(self) -> tuple[str, ...]:
        """Environment variables that name a file with its value, for what may hold a secret; the first wins."""
        return tuple(f"{name}_FILE" for name in self.variables) if self.spec.kind is Kind.DATABASE_URL else ()


# What a field's name has at its end, for kinds whose value has its unit in the text.
_UNITS: Final = {Kind.DURATION: "_s", Kind.SIZE: "_bytes"}


def _settings_of(declared: Declared, defaults: Settings | QueueSettings) -> tuple[Setting, ...]:
    return tuple(
        Setting(field.removesuffix(_UNITS.get(spec.kind, "")), field, spec, getattr(defaults, field))
        for field, spec in zip(defaults.__struct_fields__, declared.specs, strict=True)
    )


SETTINGS: Final = _settings_of(_own, Settings())
QUEUE_SETTINGS: Final = _settings_of(_of_queue, QueueSettings())

# The headings under which files and the reference show them: title -> first setting.
GROUPS: Final[Mapping[str, str]] = {
    "environment": "What and where",
    "worker_pool_size": "Work",
    "shutdown_timeout": "Starting and stopping",
    "distributed_mode": "Several workers",
    "ping_interval": "Supervision",
    "executor_max_tasks": "Recycling of executors",
    "metrics_host": "Metrics",
    "result_retention": "Retention",
    "log_format": "Logs and development",
    "queues": "Queues",
}


def settings_to_json(settings: Settings) -> bytes:
    """For a child process. Holds the database password: hand it over by a descriptor, not on a command line."""
    return msgspec.json.encode(settings)


def settings_from_json(data: bytes) -> Settings:
    """What `settings_to_json` wrote."""
    return msgspec.json.decode(data, type=Settings)
