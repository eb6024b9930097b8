"""Sockets that systemd opened for this service (`.socket` units): its protocol, without dependencies."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from shiftboss.errors import ConfigError

_FIRST_FD: Final = 3  # sd_listen_fds(3): they follow standard error


def take_listeners(environ: MutableMapping[str, str] = os.environ, first_fd: int = _FIRST_FD) -> dict[str, int]:
    """Descriptors that the service manager handed to this process, by name; close-on-exec from now on.

    Takes the variables out of `environ`, since no child is meant by them. Empty when there are none, or they are another's.

    Raises:
        ConfigError: two have the same name.
    """
    pid, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    fds = range(first_fd, first_fd + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    labels = names.split(":") if names else [f"unnamed-{fd}" for fd in fds]
    found = dict(zip(labels, fds, strict=False))
    if len(found) != len(fds):
        raise ConfigError(f"systemd passed sockets named {', '.join(labels)}: give each its own FileDescriptorName=")
    return found


def choose_listener(listeners: MutableMapping[str, int], name: str) -> int | None:
    """The descriptor called `name`, or the only one, if it is a listening stream socket; `None` when there are none.

    The others are closed.

    Raises:
        ConfigError: none of several has the name, or it is of another kind.
    """
    if not listeners:
        return None
    if name not in listeners and len(listeners) > 1:
        found = ", ".join(sorted(listeners))
        raise ConfigError(f"systemd passed sockets named {found}, and none is named {name}: set FileDescriptorName={name}")
    chosen = listeners.pop(name) if name in listeners else listeners.popitem()[1]
    for other in listeners.values():
        os.close(other)
    _check_listens(chosen)
    return chosen


def _check_listens(fd: int) -> None:
    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            right = copy.type == socket.SOCK_STREAM and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            right = right and copy.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    except OSError:
        right = False  # a FIFO, a message queue: no socket at all
    if not right:
        raise ConfigError(
            "the socket that systemd passed does not accept stream connections: use ListenStream= and Accept=no in its unit"
        )
