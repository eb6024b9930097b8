"""The composition root: settings -> child specs in start order -> a running supervisor. It alone knows every part.

The command line replaces itself by this module (`python -m shiftboss.service`), so that the supervisor's process carries
nothing that it does not need.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from typing import Final, NoReturn

from shiftboss.actors.layout import CELL_BYTES, LISTEN_FD_VARIABLE, SETTINGS_VARIABLE
from shiftboss.config import Settings, settings_from_json, settings_to_json
from shiftboss.errors import ConfigError
from shiftboss.logs import configure_logging
from shiftboss.supervisor import ChildSpec, Supervisor, SupervisorSettings
from shiftboss.supervisor.listening import choose_listener, take_listeners
from shiftboss.supervisor.spec import EXIT_CONFIG

log = logging.getLogger("shiftboss.service")

# Tasks that one executor can hold: its slots, what is prefetched for them, and outcomes that are not stored yet.
CELLS_PER_EXECUTOR: Final = 2048
SHUTDOWN_S: Final = 5.0
# By the time executors are told to stop, the claimer has handed back whatever they still run: nothing is worth waiting for.
EXECUTOR_SHUTDOWN_S: Final = 0.5
# The leader is told first and the claimer after it: claiming must not go on for long because a leader hangs.
LEADER_SHUTDOWN_S: Final = 1.0
# FileDescriptorName= of the gateway's socket in the .socket unit.
HTTP_SOCKET: Final = "http"


def slots_by_executor(settings: Settings) -> list[int]:
    """How many slots each executor has: as evenly spread as they go, at least one each."""
    count = settings.executors or min(len(os.sched_getaffinity(0)), settings.worker_pool_size)
    base, more = divmod(settings.worker_pool_size, count)
    return [base + (index < more) for index in range(count)]


def child_specs(settings: Settings, http_fd: int | None = None) -> list[ChildSpec]:
    """All children in start order; they are stopped in reverse, so the claimer drains before the heartbeat stops.

    Args:
        http_fd: the gateway's listening socket, where systemd has opened one; it outlives every gateway.
    """
    executors = [
        _spec(
            settings,
            "executor",
            str(slots),
            name=f"executor-{index}",
            group="executor",
            table_bytes=CELLS_PER_EXECUTOR * CELL_BYTES,
            ping=False,
            shutdown_s=EXECUTOR_SHUTDOWN_S,
        )
        for index, slots in enumerate(slots_by_executor(settings), start=1)
    ]
    return [
        _spec(settings, "heartbeat", during_drain=True),
        _spec(settings, "gateway", critical=False, http_fd=http_fd),
        *executors,
        _spec(settings, "claimer", links=("executor",), drains=True),
        _spec(settings, "leader", critical=False, shutdown_s=LEADER_SHUTDOWN_S),
    ]


def _spec(
    settings: Settings,
    role: str,
    *arguments: str,
    name: str = "",
    group: str = "",
    table_bytes: int = 0,
    links: tuple[str, ...] = (),
    ping: bool = True,
    critical: bool = True,
    drains: bool = False,
    during_drain: bool = False,
    shutdown_s: float = SHUTDOWN_S,
    http_fd: int | None = None,
) -> ChildSpec:
    listens = {} if http_fd is None else {LISTEN_FD_VARIABLE: str(http_fd)}
    return ChildSpec(
        name=name or role,
        argv=(sys.executable, "-m", "shiftboss.actors.process", role, *arguments),
        env={SETTINGS_VARIABLE: settings_to_json(settings).decode(), **listens},
        shutdown_s=shutdown_s,
        start_timeout_s=settings.start_timeout_s,
        group=group,
        table_bytes=table_bytes,
        links=links,
        ping=ping,
        critical=critical,
        drains=drains,
        during_drain=during_drain,
        pass_fds=() if http_fd is None else (http_fd,),
    )


def supervisor_settings(settings: Settings) -> SupervisorSettings:
    return SupervisorSettings(
        max_restarts=settings.max_restarts,
        restart_period_s=settings.restart_period_s,
        restart_backoff_s=settings.restart_backoff_s,
        restart_backoff_max_s=settings.restart_backoff_max_s,
        ping_interval_s=settings.ping_interval_s,
        ping_timeout_s=settings.ping_timeout_s,
        shutdown_timeout_s=settings.shutdown_timeout_s,
        cancel_grace_s=settings.cancel_grace_s,
    )


def start(settings: Settings) -> NoReturn:
    """Become the service: this process is replaced by the supervisor, with the same pid."""
    environment = {**os.environ, SETTINGS_VARIABLE: settings_to_json(settings).decode()}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "shiftboss.service"], environment)


def main() -> int:
    """Run the supervisor to its end; returns the exit code."""
    settings = settings_from_json(os.environ.pop(SETTINGS_VARIABLE).encode())
    configure_logging(settings.log_format, settings.log_level, actor="supervisor")
    faulthandler.enable()  # systemd's watchdog ends a supervisor that hangs by SIGABRT: its stacks go to the journal
    try:
        http_fd = choose_listener(take_listeners(), HTTP_SOCKET)
    except ConfigError as error:
        log.critical("%s", error)
        return EXIT_CONFIG
    return Supervisor(child_specs(settings, http_fd), supervisor_settings(settings)).run()


if __name__ == "__main__":
    sys.exit(main())
