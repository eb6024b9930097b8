"""One service of the world: a worker that is killed, stopped and started again, as systemd would."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from shiftboss import commands
from shiftboss.cli.exits import NoAnswer
from tests.acceptance.worker import Worker, is_running
from tests.chaos.injectors.base import NoTarget
from tests.chaos.leftovers import descriptors
from tests.chaos.logs import Tail

START_TIMEOUT_S: Final = 60.0
GONE_WITHIN_S: Final = 5.0
_GATE_WAIT_S: Final = 0.5


class Service:
    """A name that keeps, and a worker behind it that changes.

    Attributes:
        gate: held by whoever ends or starts it, so that two do not do so at once.
        logs: one for each worker there was.
        expected: why its end would be no surprise ("killed", "poison"); None: it would be.
    """

    def __init__(self, name: str, folder: Path, url: str, settings: dict[str, Any], surroundings: Mapping[str, str]) -> None:
        self.name = name
        self.gate = threading.RLock()
        self.logs: list[Path] = []
        self.expected: str | None = None
        self._folder, self._url, self._settings, self._surroundings = folder, url, settings, surroundings
        self.worker: Worker | None = None
        self.started_s = 0.0
        self.descriptors = 0  # that the supervisor had open when it was seen to be ready
        self._tail, self._events = Tail(folder / "none"), set[str]()
        self._reading = threading.Lock()

    # ---- life; call with the gate held

    def launch(self) -> None:
        """Start a worker, without waiting for it."""
        number = len(self.logs) + 1
        self.worker = Worker(self._url, self._folder, f"{self.name}-{number}", self._surroundings, **self._settings)
        self.logs.append(self.worker.log_file)
        self.started_s, self.descriptors = time.monotonic(), 0
        self.expected = None
        with self._reading:
            self._tail, self._events = Tail(self.worker.log_file), set()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> bool:
        """Until it says that it is ready; False when it ended before."""
        give_up_s, pause = time.monotonic() + timeout_s, threading.Event()
        while time.monotonic() < give_up_s:
            if self.has_said("service.ready"):
                self.descriptors = self.descriptors or descriptors(self.present().process.pid)
                return True
            if not self.is_up:
                return False
            pause.wait(0.05)
        raise AssertionError(f"{self.name} is not ready after {timeout_s:g} s; see {self.logs[-1]}")

    def kill(self) -> tuple[float, list[int]]:
        """SIGKILL to the supervisor. (when, the pids that it leaves to end by themselves)"""
        worker = self.present()
        worker.actors()
        self.expected = "killed"
        worker.process.kill()
        killed_s = time.monotonic()
        worker.process.wait(10)
        return killed_s, sorted(worker.seen)

    def await_gone(self, pids: list[int], since_s: float) -> float:
        """Until none of these runs; how long after `since_s` that was. Who was frozen is woken: asleep it cannot notice."""
        pause = threading.Event()
        while any(is_running(pid) for pid in pids):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            if time.monotonic() > since_s + GONE_WITHIN_S:
                left = [pid for pid in pids if is_running(pid)]
                raise AssertionError(f"{self.name}: {left} outlive their supervisor by {GONE_WITHIN_S:g} s; see {self.logs[-1]}")
            pause.wait(0.02)
        return time.monotonic() - since_s

    def destroy(self) -> None:
        """Whatever is left of it."""
        if self.worker is not None:
            self.expected = "over"
            self.worker.__exit__()
            self.worker = None

    @contextlib.contextmanager
    def held(self, wait_s: float = _GATE_WAIT_S) -> Iterator[Service]:
        """With the gate, or `NoTarget`: another fault is ending or starting it."""
        if not self.gate.acquire(timeout=wait_s):
            raise NoTarget(f"{self.name} is busy ending or starting")
        try:
            yield self
        finally:
            self.gate.release()

    # ---- what it is now

    def present(self) -> Worker:
        """Its worker. Raises `NoTarget` when there is none."""
        if self.worker is None or self.worker.process.poll() is not None:
            raise NoTarget(f"{self.name} is down")
        return self.worker

    def has_said(self, event: str) -> bool:
        """Whether the present worker's log has this event of its life."""
        with self._reading:
            new = {str(line.get("event")) for line in self._tail.lines()}
            self._events |= {one for one in new if one.startswith(("service.", "supervisor."))}
        return event in self._events

    def at_work(self) -> Worker:
        """Its worker. Raises `NoTarget` when there is none, or it still starts: whoever waited to hit it would do so at once,
        and it would never come up."""
        worker = self.present()
        if not self.has_said("service.ready"):
            raise NoTarget(f"{self.name} is not ready yet")
        return worker

    @property
    def is_up(self) -> bool:
        return self.worker is not None and self.worker.process.poll() is None

    @property
    def is_ready(self) -> bool:
        return self.is_up and self.has_said("service.ready")

    def pid_of(self, role: str, nth: int = 0) -> int:
        """Of an actor that runs now; `role` without a number, `nth` of several (modulo). "supervisor" is one too.

        Raises:
            NoTarget: there is none.
        """
        worker = self.present()
        if role == "supervisor":
            return worker.process.pid
        pids = sorted(pid for name, pid in worker.actors().items() if name.rpartition("-")[0] == role or name == role)
        if not pids:
            raise NoTarget(f"{self.name} has no {role} just now")
        return pids[nth % len(pids)]

    def signal(self, pid: int, number: signal.Signals) -> None:
        """To one of its processes, which may be gone (`NoTarget`)."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            raise NoTarget(f"{self.name}: {pid} is gone") from None

    def ask(self, command: commands.Command, timeout_s: float = 30.0) -> commands.Done | None:
        """Over its control socket; None: it ended meanwhile.

        Raises:
            NoTarget: it is down, or not ready yet.
            AssertionError: it lives, and has not answered.
        """
        worker = self.at_work()
        try:
            return worker.ask(command, timeout_s)
        except (NoAnswer, OSError) as error:
            pause = threading.Event()
            pause.wait(0.2)
            if worker.process.poll() is not None or worker is not self.worker or self.expected is not None:
                return None
            raise AssertionError(f"{self.name} has not answered {commands.describe(command)}: {error}") from error
