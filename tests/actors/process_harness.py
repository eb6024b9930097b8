"""Runs one actor in a process of its own, as the supervisor does: control socketpair, board, table, environment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

from actor_harness import PATIENCE_S, memory

from shiftboss import control
from shiftboss.actors.board import Board
from shiftboss.actors.layout import SETTINGS_VARIABLE
from shiftboss.config import SOURCE_VARIABLE, Settings, settings_to_json

Line = dict[str, Any]
Found = TypeVar("Found")

_SECRETS = {SETTINGS_VARIABLE, SOURCE_VARIABLE}


class Heard:
    """Things that arrive one by one in another thread, and waiting for them."""

    def __init__(self) -> None:
        self.things: list[Any] = []
        self._news = threading.Condition()

    def add(self, thing: object) -> None:
        with self._news:
            self.things.append(thing)
            self._news.notify_all()

    def wait(self, wanted: Callable[[Any], bool], what: str, *, count: int = 1, timeout_s: float = PATIENCE_S) -> Any:
        """The `count`-th wanted thing, now or as soon as it comes."""
        deadline_s = time.monotonic() + timeout_s
        with self._news:
            while len(found := [thing for thing in self.things if wanted(thing)]) < count:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    heard = "\n".join(map(repr, self.things))
                    raise AssertionError(f"{what}: not {count} times within {timeout_s:g} s; heard:\n{heard}")
                self._news.wait(left_s)
        return found[count - 1]

    def wait_type(self, type_: type[Found], *, count: int = 1, timeout_s: float = PATIENCE_S) -> Found:
        found: Found = self.wait(lambda thing: isinstance(thing, type_), type_.__name__, count=count, timeout_s=timeout_s)
        return found

    def of(self, type_: type[Found]) -> list[Found]:
        return [thing for thing in list(self.things) if isinstance(thing, type_)]


class ActorProcess:
    """`python -m shiftboss.actors.process ROLE`, killed at the end of the block."""

    def __init__(
        self,
        role: str,
        settings: Settings,
        *arguments: str,
        board_fd: int | None = None,
        table_fd: int | None = None,
        command: tuple[str, ...] = ("-m", "shiftboss.actors.process"),
        env: dict[str, str] | None = None,
        fds: tuple[int, ...] = (),
    ) -> None:
        self.board_fd = memory(4096) if board_fd is None else board_fd
        self.board = Board(os.dup(self.board_fd))
        self.said, self.log, self.raw = Heard(), Heard(), Heard()
        self.control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = (*fds, its.fileno(), self.board_fd, *(() if table_fd is None else (table_fd,)))
        ours = {
            control.CHILD_NAME_VARIABLE: role,
            control.INCARNATION_VARIABLE: "1",
            control.PARENT_PID_VARIABLE: str(os.getpid()),
            control.CONTROL_FD_VARIABLE: str(its.fileno()),
            control.BOARD_FD_VARIABLE: str(self.board_fd),
        }
        given = {**(env or {}), SETTINGS_VARIABLE: settings_to_json(settings).decode()}
        secrets = {name: control.write_secret(name, given.pop(name).encode()) for name in _SECRETS & given.keys()}
        ours |= {name: str(fd) for name, fd in secrets.items()}
        fds = (*fds, *secrets.values())
        if table_fd is not None:
            ours[control.TABLE_FD_VARIABLE] = str(table_fd)
        with its:
            self.process = subprocess.Popen(
                [sys.executable, *command, role, *arguments],
                env={**os.environ, **ours, **given},
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        for fd in secrets.values():
            os.close(fd)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._log_reader = threading.Thread(target=self._read_log, daemon=True)
        for thread in (self._listener, self._log_reader):
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()
        for thread in (self._listener, self._log_reader):
            thread.join(PATIENCE_S)
        self.control.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self.board_fd)

    def _listen(self) -> None:
        while True:
            try:
                message, _fds = control.receive_in_parent(self.control)
            except OSError:
                return
            if message is None:
                return
            self.said.add(message)

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            try:
                self.log.add(json.loads(text))
            except ValueError:
                self.raw.add(text)

    # ---- what is done to it

    def hang_up(self) -> None:
        """As if the parent were gone."""
        self.control.shutdown(socket.SHUT_RDWR)

    def tell(self, message: control.ToChild, *fds: int) -> None:
        control.send(self.control, message, fds)

    def ping(self) -> None:
        """Wait until it has dealt with everything it was told before."""
        seq = len(self.said.of(control.Pong)) + 1
        self.tell(control.Ping(seq=seq))
        self.said.wait_type(control.Pong, count=seq)

    # ---- what it says

    def wait_ready(self) -> None:
        self.said.wait(lambda message: isinstance(message, control.Ready), f"ready\n{self.transcript()}")

    def wait_log(self, event: str, *, count: int = 1, timeout_s: float = PATIENCE_S, **fields: object) -> Line:
        """The line of `event` that has all these fields; its fields."""

        def is_it(line: Line) -> bool:
            return line.get("event") == event and fields.items() <= line.get("fields", {}).items()

        line: Line = self.log.wait(is_it, event, count=count, timeout_s=timeout_s)
        return line

    def wait_exit(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit code, once everything that it said and wrote before has been heard."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s\n{self.transcript()}") from None
        for thread in (self._listener, self._log_reader):
            thread.join(timeout_s)
        return code

    def transcript(self) -> str:
        return "\n".join([*map(str, self.log.things), *self.raw.things])
