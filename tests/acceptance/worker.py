"""A real worker in processes of its own: start it, look at it, kill parts of it, stop it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import tomli_w
from msgspec.structs import replace

from shiftboss import commands
from shiftboss.actors.layout import SETTINGS_VARIABLE
from shiftboss.cli.control import Places, connect
from shiftboss.config import SETTINGS, SOURCE_VARIABLE, QueueSettings, Settings, Source, settings_to_json, source_to_json
from shiftboss.control import write_secret

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0


def until(what: str, condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Ask again and again until `condition` is true; returns what it returned."""
    pause, give_up_s = threading.Event(), time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > give_up_s:
            raise AssertionError(f"waited {timeout_s:g} s in vain: {what}")
        pause.wait(0.02)


def as_toml(settings: Settings) -> str:
    """The settings that are not at their default, as a file to start from."""
    table: dict[str, Any] = {}
    for setting in SETTINGS:
        value = getattr(settings, setting.field)
        if value != setting.default:
            table[setting.name] = list(value) if isinstance(value, tuple) else value
    table["queues"] = {name: _given(queue) for name, queue in settings.queues.items()}
    return tomli_w.dumps(table)


def _given(queue: QueueSettings) -> dict[str, int]:
    values = {"concurrency": queue.concurrency, "weight": queue.weight}
    return {name: value for name, value in values.items() if value is not None}


class Worker:
    """One service. Everything of it is killed at the end of the block, however it ends."""

    def __init__(
        self,
        database_url: str,
        folder: Path,
        name: str = "worker",
        surroundings: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """`surroundings`: variables that its environment has besides ours."""
        self.settings = Settings(
            **{
                "database_url": database_url,
                "imports": ("tests.acceptance.handlers",),
                "metrics_port": 0,
                "log_format": "json",
                "restart_backoff_s": 0.05,
                "restart_backoff_max_s": 0.2,
                "max_restarts": 10_000,
                "control_socket": str(folder / f"{name}.control"),
                **settings,
            }
        )
        self.config = folder / f"{name}.toml"
        self.config.write_text(as_toml(self.settings))
        self.ledger = folder / "ledger"
        self.log_file = folder / f"{name}.log"
        source = source_to_json(Source(file=self.config))
        fds = {
            SETTINGS_VARIABLE: write_secret(SETTINGS_VARIABLE, settings_to_json(self.settings)),
            SOURCE_VARIABLE: write_secret(SOURCE_VARIABLE, source.encode()),
        }
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shiftboss.service"],
                cwd=ROOT,
                env={
                    **os.environ,
                    **(surroundings or {}),
                    **{name: str(fd) for name, fd in fds.items()},
                    "LEDGER": str(self.ledger),
                },
                stderr=log,
                stdin=subprocess.DEVNULL,
                pass_fds=tuple(fds.values()),
                start_new_session=True,
            )
        for fd in fds.values():
            os.close(fd)
        self.seen: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.seen.update(self.actors().values())
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        for pid in self.seen:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    # ---- what it says

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        found = []
        for text in self.log_file.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if event is None or line.get("event") == event:
                found.append(line)
        return found

    def ready(self) -> Self:
        def is_ready() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log_file.read_text()[-4000:]}"
            return bool(self.lines("service.ready"))

        until("service.ready", is_ready)
        self.seen.update(self.actors().values())
        return self

    # ---- what it is asked for

    def ask(self, command: commands.Command, timeout_s: float = PATIENCE_S) -> commands.Done:
        """Over its control socket, as the command line does."""
        with connect(Places("test", (Path(self.settings.control_socket),))) as connection:
            return connection.ask(command, lambda _text: None, timeout_s)

    def reload(self, text: str | None = None, **changes: Any) -> commands.Done:
        """Change its file (or write it anew) and reload."""
        if changes:
            self.settings = replace(self.settings, **changes)
        if changes or text is not None:
            self.config.write_text(as_toml(self.settings) if text is None else text)
        return self.ask(commands.Reload())

    def status(self) -> commands.ServiceStatus:
        data = self.ask(commands.Status(), 5.0).data
        assert data is not None
        return data

    def get(self, path: str) -> tuple[int, str]:
        """GET from the gateway, whatever port it has now."""
        url = self.lines("gateway.listening")[-1]["fields"]["url"] + path
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    # ---- its processes

    def actors(self) -> dict[str, int]:
        """Name -> pid of its children now. Executors are numbered by pid, which is as good as any order."""
        found: dict[str, int] = {}
        for pid in _children(self.process.pid):
            words = _command(pid)
            if "shiftboss.actors.process" in words:
                role = words[words.index("shiftboss.actors.process") + 1]
                name = role if role != "executor" else f"executor-{sum(one.startswith('executor') for one in found) + 1}"
                found[name] = pid
        self.seen.update(found.values())
        return found

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> bool:
        """Signal an actor if it runs now."""
        pid = self.actors().get(name)
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def signal_all(self, number: signal.Signals) -> None:
        """Signal the supervisor first and then every actor, as a suspended machine would."""
        for pid in (self.process.pid, *self.actors().values()):
            os.kill(pid, number)

    def left_over(self) -> list[int]:
        """Pids of this worker that live."""
        return [pid for pid in (self.process.pid, *self.seen) if is_running(pid)]

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        """Stop it; returns the exit code, after making sure that nothing is left."""
        self.seen.update(self.actors().values())
        self.process.send_signal(number)
        code = self.process.wait(timeout_s)
        until("all processes gone", lambda: not self.left_over(), 2.0)
        return code

    # ---- the ledger

    def starts(self) -> Counter[tuple[str, str]]:
        return Counter(self._noted("S"))

    def ends(self) -> Counter[tuple[str, str]]:
        return Counter(self._noted("E"))

    def _noted(self, kind: str) -> Iterable[tuple[str, str]]:
        text = self.ledger.read_text() if self.ledger.exists() else ""
        words = (line.split() for line in text.splitlines())
        return [(one[1], one[2]) for one in words if one[0] == kind]


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return sorted(int(word) for word in text.split())


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
