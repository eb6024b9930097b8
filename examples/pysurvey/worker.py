"""The service under the demo: started by its command, watched by its log, stopped by a signal."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from examples.pysurvey.processes import MARKER_VARIABLE, Process, marked_processes

ROOT: Final = Path(__file__).resolve().parents[2]
_POLL_S: Final = 0.05
_READY_S: Final = 60.0
_STOP_S: Final = 30.0

_CONFIG: Final = """\
# Written by the demo. Everything that is not here has its default.
environment = "demo"
database_url = {database_url}
imports = ["examples.pysurvey.tasks"]
metrics_port = 0
shutdown_timeout = "20s"
log_format = "json"
"""


class ServiceFailed(Exception):
    """The service did not do what the demo needs; the message ends with the last lines of its log."""


class Service:
    """One running `shiftboss start`.

    Attributes:
        database: its SQLite file.
        database_url: the same for a `Client`.
        pid: of the supervisor.
    """

    def __init__(self, folder: Path) -> None:
        self.database = folder / "shiftboss.db"
        self.database_url = f"sqlite:///{self.database}"
        self._config = folder / "shiftboss.toml"
        self._log = folder / "service.log"
        self._marker = str(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def command(self) -> list[str]:
        """What a person would type as `shiftboss start --config …`."""
        return [sys.executable, "-m", "shiftboss.cli", "start", "--config", str(self._config)]

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches only the demo, and wait until it is ready.

        Raises:
            ServiceFailed: it ended, or was not ready within a minute.
        """
        self._config.write_text(_CONFIG.format(database_url=json.dumps(self.database_url)), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not _is_setting(name)}
        environment[MARKER_VARIABLE] = self._marker
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.wait_until(lambda: any(self.events("service.ready")), _READY_S, "it was not ready in time")
        self.wait_until(lambda: any(self.events("actor.ready", actor="leader")), _READY_S, "its leader was not ready in time")

    def processes(self) -> list[Process]:
        """All its living processes."""
        return marked_processes(self._marker)

    def pid_of(self, name: str) -> int | None:
        """The process that is the child `name` now."""
        return next((process.pid for process in self.processes() if process.name == name), None)

    def events(self, event: str, **fields: object) -> Iterator[dict[str, Any]]:
        """Lines of its log with this event and these fields, oldest first."""
        for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
            if f'"{event}"' in line:
                with contextlib.suppress(json.JSONDecodeError):
                    found = json.loads(line)
                    if fields.items() <= found.get("fields", {}).items():
                        yield found

    def incarnations_ready(self, name: str) -> int:
        """How often the child `name` has said that it is ready."""
        return sum(1 for _ in self.events("actor.ready", actor=name))

    def pause(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ServiceFailed: the service ended meanwhile.
        """
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(seconds)
            raise ServiceFailed(f"the service ended with exit code {code}{self._last_lines()}")

    def wait_until(self, reached: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        """Look until `reached()`.

        Raises:
            ServiceFailed: the service ended, or `timeout_s` passed: the message says `otherwise`.
        """
        deadline_s = time.monotonic() + timeout_s
        while not reached():
            if time.monotonic() > deadline_s:
                raise ServiceFailed(f"the service: {otherwise} ({timeout_s:.0f} s){self._last_lines()}")
            self.pause(_POLL_S)

    def stop(self) -> int | None:
        """SIGTERM; the exit code, or `None` when it did not end in time."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_STOP_S)
        return None

    def end_by_force(self) -> None:
        """Whatever is left of it ends now; for the way out after an error or Ctrl-C."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S / 3)
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _last_lines(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        width = shutil.get_terminal_size().columns
        return "\n".join(["; the end of its log:", *(line[: max(width, 200)] for line in lines)])


def _is_setting(name: str) -> bool:
    """Settings of the visitor's shell must not reach the demo's service: its file has what it needs."""
    from shiftboss.config.settings import SETTINGS

    return any(name in setting.variables for setting in SETTINGS)
