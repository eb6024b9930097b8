"""Runs a real service in a process of its own and waits for what it says, never for a fixed time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

import shiftboss

HERE = Path(__file__).parent
CHILD = str(HERE / "child_script.py")
SERVICE = str(HERE / "service_script.py")
# Without site: its hooks cost more than all else that these short-lived processes do.
PYTHON = [sys.executable, "-S"]
PYTHON_PATH = os.pathsep.join(str(Path(module.__file__ or "").parents[1]) for module in (shiftboss, msgspec))
PATIENCE_S = 15.0
ANSWER_S = 0.1  # the loop never blocks

Line = dict[str, Any]


def child(name: str, *options: str, **spec: Any) -> dict[str, Any]:
    """A spec of the test child with the options of child_script.py."""
    return {"name": name, "argv": [*PYTHON, CHILD, *options], **spec}


def executors(count: int, *options: str, **spec: Any) -> list[dict[str, Any]]:
    """A rolling group of so many, like the real one."""
    rest = {"group": "executor", "ping": False, "rolling": True, **spec}
    return [child(f"executor-{number}", *options, **rest) for number in range(1, count + 1)]


class Conversation:
    """One command over the control socket.

    Args:
        answered: called when the answer is there.
    """

    def __init__(self, path: Path, name: str, answered: Callable[[], None] = lambda: None, **fields: Any) -> None:
        self.replies: list[Line] = []
        self._on_answer = answered
        self.asked_s = time.monotonic()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.sendall(json.dumps({"command": name, **fields}).encode() + b"\n")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # Reset: it has ended without reading what we had asked.
        with contextlib.suppress(ConnectionResetError), self._socket, self._socket.makefile() as lines:
            self.replies.extend({**json.loads(line), "at_s": time.monotonic()} for line in lines)

    def done(self, timeout_s: float = PATIENCE_S) -> Line:
        """The answer, once the connection has ended after it."""
        self._reader.join(timeout_s)
        assert not self._reader.is_alive(), f"no answer within {timeout_s} s: {self.replies}"
        assert self.replies, "hung up without an answer"
        assert self.replies[-1]["reply"] == "done", f"hung up without an answer: {self.replies}"
        self._on_answer()
        return self.replies[-1]

    @property
    def answered(self) -> bool:
        return not self._reader.is_alive()

    @property
    def took_s(self) -> float:
        self.done()
        return float(self.replies[-1]["at_s"]) - self.asked_s


class Service:
    """A supervisor with its children; killed, with all of them, at the end of the block.

    Args:
        folder: for a service that can be reloaded and takes commands.
    """

    def __init__(
        self,
        *specs: dict[str, Any],
        env: dict[str, str] | None = None,
        folder: Path | None = None,
        check_timeout_s: float = PATIENCE_S,
        **settings: Any,
    ) -> None:
        settings = {"restart_backoff_s": 0.05, "shutdown_timeout_s": 5.0, "cancel_grace_s": 1.0, **settings}
        self.specs, self.settings, self.folder = specs, settings, folder
        if folder is not None:
            self.plan()
        self._catches = 0  # how many times its status was asked for
        self.lines: list[Line] = []
        self.raw: list[str] = []  # what is no JSON: tracebacks, faulthandler's dumps
        self._news = threading.Condition()
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(
            [*PYTHON, SERVICE, json.dumps(specs), json.dumps(settings), *self._operated(check_timeout_s)],
            env={**os.environ, "PYTHONPATH": PYTHON_PATH, **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _operated(self, check_timeout_s: float) -> tuple[str, str]:
        """The check as JSON, and the path of the control socket."""
        if self.folder is None:
            return "", ""
        check = child("check", "--check", str(self.folder / "plan"), ping=False, critical=False, restart="temporary")
        return json.dumps({**check, "start_timeout_s": check_timeout_s}), str(self.control_path)

    @property
    def control_path(self) -> Path:
        assert self.folder is not None, "it takes no commands: give it a folder"
        return self.folder / "run" / "control"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pid in self.pids():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            # A line is written at once, but perhaps in the middle of the stacks that another process is writing.
            torn, brace, line = text.partition('{"')
            with self._news:
                try:
                    self.lines.append({**json.loads(brace + line), "at_s": time.monotonic()})
                    text = torn
                except ValueError:
                    pass
                if text:
                    self.raw.append(text)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    # ---- what it said

    def seen(self, **fields: Any) -> list[Line]:
        """The lines so far that have all these fields."""
        return [line for line in list(self.lines) if fields.items() <= line.items()]

    def wait_for(self, *, count: int = 1, timeout_s: float = PATIENCE_S, **fields: Any) -> Line:
        """The `count`-th line with these fields, now or as soon as it comes."""
        deadline_s = time.monotonic() + timeout_s
        with self._news:
            while len(found := self.seen(**fields)) < count:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not self._reader.is_alive():
                    raise AssertionError(f"not said {count} times: {fields}\n{self.transcript()}")
                self._news.wait(min(left_s, 0.5))
        return found[count - 1]

    def wait_ready(self) -> None:
        self.wait_for(event="service.ready")

    def transcript(self) -> str:
        return "\n".join([*(str(line) for line in self.lines), *self.raw])

    def pid(self, name: str, incarnation: int = 1) -> int:
        """The process number of a child, once it has been started."""
        return int(self.wait_for(event="actor.starting", actor=name, incarnation=incarnation)["actor_pid"])

    def pids(self) -> list[int]:
        """All processes that were ever mentioned."""
        return [line["actor_pid"] for line in self.seen(event="actor.starting")] + [
            line["pid"] for line in self.seen(said="grandchild")
        ]

    def before(self, line: Line) -> list[Line]:
        """The lines so far that came before this one."""
        return list(self.lines)[: self.lines.index(line)]

    # ---- what is done to it

    def plan(
        self,
        *specs: dict[str, Any],
        check: str = "ok",
        version: int = 1,
        replace: Sequence[str] = (),
        changes: Sequence[str] = (),
        refuse: str = "",
        **settings: Any,
    ) -> None:
        """What the next reload finds: how its check goes and what it leads to; the same as now unless it is said."""
        assert self.folder is not None
        plan = {"check": check, "version": version, "specs": specs or self.specs, "replace": replace, "changes": changes}
        plan |= {"refuse": refuse, "supervisor": {**self.settings, **settings}}
        (self.folder / "plan").write_text(json.dumps(plan))

    def command(self, name: str, **fields: Any) -> Conversation:
        """Ask over the control socket; the answer may take its time. What is logged before it is seen when it is there."""
        return Conversation(self.control_path, name, self._catch_up, **fields)

    def _catch_up(self) -> None:
        """Until all that the supervisor has said so far is seen: it also says that it was asked this."""
        try:
            Conversation(self.control_path, "status").done()
        except (OSError, AssertionError):
            return  # it has ended meanwhile, and `wait_exit` sees to the rest
        self._catches += 1
        self.wait_for(event="command.received", command="status", count=self._catches)

    def obey(self, name: str, **fields: Any) -> Line:
        """Ask and wait for the answer."""
        return self.command(name, **fields).done()

    def status(self) -> Line:
        """What it says of itself, at once."""
        conversation = Conversation(self.control_path, "status")
        assert conversation.took_s < ANSWER_S, f"status took {conversation.took_s:.3f} s"
        self._catches += 1
        return dict(conversation.done()["data"])

    def actors(self) -> dict[str, Line]:
        """By name, from its status."""
        return {actor["name"]: actor for actor in self.status()["actors"]}

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self, name: str, incarnation: int = 1, number: signal.Signals = signal.SIGKILL) -> None:
        """Signal a child that is ready."""
        self.wait_for(event="actor.ready", actor=name, incarnation=incarnation)
        os.kill(self.pid(name, incarnation), number)

    def kill_started(self, name: str, incarnation: int) -> None:
        """SIGKILL a child whether it is ready or not."""
        os.kill(self.pid(name, incarnation), signal.SIGKILL)

    def wait_exit(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit code; all that the service had started must be gone by then, too."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s\n{self.transcript()}") from None
        self._reader.join(PATIENCE_S)
        if code < 0:  # it was killed, and its children are ending by themselves
            wait_gone(self.pids(), PATIENCE_S)
        left = [pid for pid in self.pids() if is_running(pid)]
        assert not left, f"processes left: {left}\n{self.transcript()}"
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send(number)
        return self.wait_exit()


def is_running(pid: int) -> bool:
    """Zombies do not count: they wait for their parent only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_gone(pids: list[int], timeout_s: float) -> None:
    """Until these processes have ended, whoever's children they are, or the time is up."""
    deadline_s = time.monotonic() + timeout_s
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            select.select([pidfd], [], [], max(0.0, deadline_s - time.monotonic()))
            os.close(pidfd)


def fd_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
