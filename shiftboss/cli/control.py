"""A command's end of the control socket: find the service, ask, wait for the effect. Blocks, and imports little."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from shiftboss import commands
from shiftboss.cli.exits import NoAnswer
from shiftboss.config import load_settings
from shiftboss.errors import ConfigError

_READ_BYTES: Final = 64 * 1024
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_BY_HAND: Final = "--socket names another place"


class NotRunning(NoAnswer):
    """No service takes commands at any place where this one looked."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look for the service of an environment, the likeliest place first."""

    environment: str
    paths: tuple[Path, ...]
    mistake: ConfigError | None = None  # in the settings, because of which these are a guess


def find_places(env: str | None, config: Path | None, path: Path | None) -> Places:
    """What the options `--env`, `--config` and `--socket` lead to.

    A service must be reachable, to be stopped or to be told of the mended file, while its file is broken.

    Raises:
        NotRunning: the settings say that the service has no control socket.
    """
    environment, setting, mistake = env or os.environ.get("SHIFTBOSS_ENV") or "development", commands.AUTO, None
    if path is not None:
        return Places(environment, (Path.cwd() / path,))
    try:
        settings = load_settings(env, config).settings
        environment, setting = settings.environment, settings.control_socket
    except ConfigError as error:
        mistake, setting = error, os.environ.get("SHIFTBOSS_CONTROL_SOCKET") or setting
    if setting == commands.OFF:
        raise NotRunning(f"control_socket is off in environment {environment}: such a service takes signals only; {_BY_HAND}")
    paths = commands.candidates(setting, environment, os.environ, Path.cwd(), os.geteuid())
    return Places(environment, tuple(paths), mistake)


def connect(places: Places) -> Connection:
    """The running service.

    Raises:
        NotRunning: nobody listens at any of the places.
        NoAnswer: somebody does, and does not let us in.
        ConfigError: nobody does, and the places were a guess.
    """
    for path in places.paths:
        if (connection := _connect(path)) is not None:
            return connection
    if places.mistake is not None:
        raise places.mistake
    looked = ", ".join(map(str, places.paths))
    message = f"no running service found for environment {places.environment}: looked at {looked}"
    raise NotRunning(f"{message}; is it started by another user or in another folder? {_BY_HAND}")


def _connect(path: Path) -> Connection | None:
    if len(os.fsencode(path)) > commands.MAX_PATH_BYTES:
        raise NoAnswer(f"{path} is longer than the {commands.MAX_PATH_BYTES} bytes that the path of a socket may have")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(str(path))
        return Connection(sock, path)
    except PermissionError:
        why = f"not allowed to use {path}: {_whose(path)}"
    except BlockingIOError:
        why = f"the service at {path} takes no commands: too many wait already, or it hangs; its log may say why"
    except OSError:  # not there, or left behind by a service that was killed
        sock.close()
        return None
    sock.close()
    raise NoAnswer(why)


def _whose(path: Path) -> str:
    try:
        uid = path.stat().st_uid
    except OSError:
        return "run this as the user of the service, or as root"
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        owner = f"#{uid}"
    return f"it belongs to {owner}; run this as that user (sudo -u {owner} …) or as root"


class Connection:
    """One request to a running service.

    Attributes:
        pid: of the service; 0 when it lives in another pid namespace.
    """

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.path = path
        self._sock = sock
        self.pid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
        self._pidfd = _pidfd(self.pid)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._sock.close()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def ask(self, command: commands.Command, on_progress: Callable[[str], None], timeout_s: float | None) -> commands.Done:
        """Send the command and wait for its end.

        Raises:
            NoAnswer: the service ended before it answered, or did not answer within `timeout_s` (None: no limit).
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with contextlib.suppress(OSError):  # it has refused us and hung up: what it has said is still there to be read
            self._sock.sendall(commands.encode(command))
        try:
            while not isinstance(reply := commands.decode_reply(self._line(deadline_s)), commands.Done):
                on_progress(reply.text)
        except TimeoutError:
            raise NoAnswer(f"not done within {timeout_s:g} s; the service (pid {self.pid}) goes on with it") from None
        except msgspec.DecodeError as error:
            raise NoAnswer(f"what listens at {self.path} is no Shiftboss service of this version: {error}") from None
        return reply

    def wait_end(self, timeout_s: float | None) -> bool:
        """Until the service's process has ended; whether it has, within `timeout_s`."""
        if self._pidfd is None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def _line(self, deadline_s: float | None) -> bytes:
        while b"\n" not in self._received:
            self._sock.settimeout(None if deadline_s is None else max(1e-3, deadline_s - time.monotonic()))
            try:
                chunk = self._sock.recv(_READ_BYTES)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise NoAnswer(f"the service (pid {self.pid}) ended before it had answered; its log says why")
            self._received += chunk
        line, _newline, self._received = self._received.partition(b"\n")
        return line


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # of another pid namespace, or ended this instant
        return None
