"""The composition root: settings -> child specs in start order -> a running supervisor. It alone knows every part.

The command line replaces itself by this module (`python -m shiftboss.service`), so that the supervisor's process carries
nothing that it does not need.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NoReturn

import shiftboss.msgspec_import  # noqa: F401  first of ours: see there
from shiftboss.actors.board import Board
from shiftboss.actors.layout import CELL_BYTES, LISTEN_FD_VARIABLE, SETTINGS_VARIABLE
from shiftboss.commands import socket_path
from shiftboss.config import (
    SOURCE_VARIABLE,
    LoadedSettings,
    Reload,
    Settings,
    changes,
    settings_from_json,
    settings_to_json,
    source_to_json,
)
from shiftboss.control import EXIT_CONFIG, read_secret, write_secret
from shiftboss.errors import ConfigError
from shiftboss.logs import bind_worker, close_logging, configure_logging, flush_logging
from shiftboss.supervisor import Blueprint, ChildSpec, Reloadable, Restart, Supervisor, SupervisorSettings
from shiftboss.supervisor.listening import choose_listener, take_listeners
from shiftboss.supervisor.signals import hold_signals

log = logging.getLogger("shiftboss.service")

# Tasks that one executor can hold: its slots, what is prefetched for them, and outcomes that are not stored yet.
CELLS_PER_EXECUTOR: Final = 4096
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
            f"slots={slots}",
            "name={name}",  # for `ps`: one is not like the other
            name=f"executor-{index}",
            group="executor",
            table_bytes=CELLS_PER_EXECUTOR * CELL_BYTES,
            ping=False,
            rolling=True,
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
    rolling: bool = False,
    restart: Restart = Restart.PERMANENT,
    shutdown_s: float = SHUTDOWN_S,
    http_fd: int | None = None,
    secrets: Mapping[str, str] = MappingProxyType({}),
) -> ChildSpec:
    listens = {} if http_fd is None else {LISTEN_FD_VARIABLE: str(http_fd)}
    return ChildSpec(
        name=name or role,
        argv=(sys.executable, "-m", "shiftboss.actors.process", role, *arguments),
        env=listens,
        secrets={SETTINGS_VARIABLE: settings_to_json(settings).decode(), **secrets},
        shutdown_s=shutdown_s,
        start_timeout_s=settings.start_timeout_s,
        group=group,
        table_bytes=table_bytes,
        links=links,
        ping=ping,
        critical=critical,
        drains=drains,
        during_drain=during_drain,
        rolling=rolling,
        restart=restart,
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
        restart_reset_s=settings.restart_reset_s,
        probe_interval_s=settings.executor_probe_interval_s,
    )


class Reloads:
    """What a reload of this service leads to.

    Args:
        source: where the settings came from, as JSON; the check reads it again.
        http_fd: see `child_specs`.
    """

    def __init__(self, source: str, http_fd: int | None) -> None:
        self._source, self._http_fd = source, http_fd

    def reloadable(self, settings: Settings) -> Reloadable:
        """For the supervisor of a service that starts with these settings."""
        return Reloadable(
            settings=settings_to_json(settings),
            check=_spec(
                settings, "check", ping=False, critical=False, restart=Restart.TEMPORARY, secrets={SOURCE_VARIABLE: self._source}
            ),
            understand=self.understand,
            applied=configure_own_logging,
        )

    def understand(self, present: bytes, checked: bytes) -> Blueprint:
        """The children for the new settings, and who cannot take them while it runs.

        Raises:
            ConfigError: a setting has changed that only a restart can change.
        """
        old, new = settings_from_json(present), settings_from_json(checked)
        found = changes(old, new)
        refused = [change for change in found if change.reload is Reload.RESTART]
        if refused:
            raise ConfigError(f"only a restart of the service can change {'; '.join(map(str, refused))}")
        replaced = {"gateway"} if any(change.reload is Reload.GATEWAY for change in found) else set()
        return Blueprint(
            specs=tuple(child_specs(new, self._http_fd)),
            supervisor=supervisor_settings(new),
            replace=frozenset(replaced),
            settings=checked,
            changes=tuple(map(str, found)),
        )


def configure_own_logging(settings: bytes) -> None:
    """The supervisor's lines, by these settings."""
    own = settings_from_json(settings)
    configure_logging(own.log_format, own.log_level, actor="supervisor")


def control_path(settings: Settings) -> Path | None:
    """Where this service's control socket is to be."""
    return socket_path(settings.control_socket, settings.environment, os.environ, Path.cwd(), os.geteuid())


def start(loaded: LoadedSettings) -> NoReturn:
    """Become the service: this process is replaced by the supervisor, with the same pid."""
    secrets = {SETTINGS_VARIABLE: settings_to_json(loaded.settings), SOURCE_VARIABLE: source_to_json(loaded.source).encode()}
    fds = {name: write_secret(name, data) for name, data in secrets.items()}
    for fd in fds.values():
        os.set_inheritable(fd, True)
    sys.stdout.flush()
    numbers = {name: str(fd) for name, fd in fds.items()}
    os.execve(sys.executable, [sys.executable, "-m", "shiftboss.service"], {**os.environ, **numbers})


def main() -> int:
    """Run the supervisor to its end; returns the exit code."""
    hold_signals()
    given, source = read_secret(SETTINGS_VARIABLE), read_secret(SOURCE_VARIABLE).decode()
    settings = settings_from_json(given)
    configure_own_logging(given)
    faulthandler.enable()  # systemd's watchdog ends a supervisor that hangs by SIGABRT: its stacks go to the journal
    try:
        http_fd = choose_listener(take_listeners(), HTTP_SOCKET)
    except ConfigError as error:
        log.critical("%s", error)
        return EXIT_CONFIG
    supervisor = Supervisor(
        child_specs(settings, http_fd),
        supervisor_settings(settings),
        reloadable=Reloads(source, http_fd).reloadable(settings),
        control_path=control_path(settings),
        flush_log=flush_logging,
    )
    board = Board(os.dup(supervisor.board_fd))
    bind_worker(lambda: board.worker_id)
    return supervisor.run()


def run() -> NoReturn:
    """`main`, and the end: without the interpreter being taken down, which puts the signals back to their defaults first."""
    code = main()
    close_logging()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
