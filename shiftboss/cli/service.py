"""`shiftboss stop|drain|resume|reload|restart|scale|dump`: each waits for its effect and says in its exit code whether it came.

They must be quick to start (systemd waits for `reload`) and work while the database is down: they talk to the service alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shiftboss import commands
from shiftboss.cli import options
from shiftboss.cli.operate import Request, operate

Socket = Annotated[
    Path | None, typer.Option("--socket", metavar="PATH", help="The service's control socket, where it is not found by itself.")
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0, help="Wait no longer than this; what was asked for goes on all the same."
    ),
]
Now = Annotated[bool, typer.Option("--now", help="Cancel what runs at once, like SIGQUIT; also cuts short a stop that waits.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once, not when the last attempt has ended.")]
Wait = Annotated[bool, typer.Option("--wait", help="Said for clarity: it always waits.")]
Executors = Annotated[
    int, typer.Argument(metavar="N", min=1, max=commands.MAX_EXECUTORS, help="How many executors there are to be.")
]


def stop(
    now: Now = False,
    env: options.Env = None,
    config: options.Config = None,
    socket: Socket = None,
    timeout: Timeout = None,
    json: options.Json = False,
) -> int:
    """Drain the service and end it, like SIGTERM. Done when its process is gone."""
    return operate(
        Request(command=commands.Stop(now=now), env=env, config=config, socket=socket, timeout_s=timeout, as_json=json)
    )


def drain(
    no_wait: NoWait = False,
    env: options.Env = None,
    config: options.Config = None,
    socket: Socket = None,
    timeout: Timeout = None,
    json: options.Json = False,
) -> int:
    """Claim nothing more and stay up, like SIGTSTP. Done when nothing runs any more; `resume` ends it."""
    return operate(
        Request(command=commands.Drain(wait=not no_wait), env=env, config=config, socket=socket, timeout_s=timeout, as_json=json)
    )


def resume(
    env: options.Env = None,
    config: options.Config = None,
    socket: Socket = None,
    timeout: Timeout = None,
    json: options.Json = False,
) -> int:
    """Claim again after `drain`."""
    return operate(Request(command=commands.Resume(), env=env, config=config, socket=socket, timeout_s=timeout, as_json=json))


def reload(
    wait: Wait = True,  # noqa: ARG001
    env: options.Env = None,
    config: options.Config = None,
    socket: Socket = None,
    timeout: Timeout = None,
    json: options.Json = False,
) -> int:
    """Check the new configuration and code, then work by them, like SIGHUP. On any error nothing changes.

    Done when the new executors are in service. Exit code 78: the configuration or the code is not right.
    """
    return operate(Request(command=commands.Reload(), env=env, config=config, socket=socket, timeout_s=timeout, as_json=json))


def restart(
    env: options.Env = None,
    config: options.Config = None,
    socket: Socket = None,
    timeout: Timeout = None,
    json: options.Json = False,
) -> int:
    """Replace all executors one by one, each when its successor is ready, like SIGUSR2; same configuration."""
    return operate(Request(command=commands.Restart(), env=env, config=config, socket=socket, timeout_s=timeout, as_json=json))


def scale(
    executors: Executors,
    env: options.Env = None,
    config: options.Config = None,
    socket: Socket = None,
    timeout: Timeout = None,
    json: options.Json = False,
) -> int:
    """Have N executors until the next reload. Done when the new ones are ready, or the extra ones are gone."""
    return operate(
        Request(
            command=commands.Scale(executors=executors), env=env, config=config, socket=socket, timeout_s=timeout, as_json=json
        )
    )


def dump(
    env: options.Env = None,
    config: options.Config = None,
    socket: Socket = None,
    timeout: Timeout = None,
    json: options.Json = False,
) -> int:
    """Write the state and the stacks of every actor to the service's log, like SIGUSR1."""
    return operate(Request(command=commands.Dump(), env=env, config=config, socket=socket, timeout_s=timeout, as_json=json))
