"""One instance of shiftboss@.service in the machine's own systemd: configure it, run it, look at it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Self

import tomli_w

from tests.systemd.install import PREFIX, PROGRAM, VENV
from tests.systemd.machine import Result, journal, run, text_of, until

HANDLERS = """
import os, threading
from shiftboss import Attempt, Constant, task

def note(text):
    file = os.open(os.environ.get("LEDGER", "ledger"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, (text + "\\n").encode())
    os.close(file)

@task(type="say")
def say(text: str) -> None:
    note(text)

@task(type="hold", max_attempts=3, backoff=Constant(0.05))
def hold(attempt: Attempt, seconds: float) -> None:
    note(f"S {attempt.number}")
    threading.Event().wait(seconds)
    note(f"E {attempt.number}")
"""


class Unit:
    """`shiftboss@NAME`; whatever it left behind is removed at the end of the block."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.service, self.socket = f"shiftboss@{name}.service", f"shiftboss@{name}.socket"
        self.config = Path(f"/etc/shiftboss/{name}.toml")
        self.state = Path(f"/var/lib/shiftboss/{name}")
        self.code = PREFIX / f"tasks_{name}.py"
        self._drop_ins = Path(f"/etc/systemd/system/{self.service}.d")

    def __enter__(self) -> Self:
        self.write_code(HANDLERS)
        self.configure()
        self.drop_in(f"[Service]\nEnvironment=LEDGER={self.state}/ledger\n", "40-ledger.conf")
        return self

    def __exit__(self, *_error: object) -> None:
        run("systemctl", "stop", self.socket)
        run("systemctl", "stop", "--no-block", self.service)  # first, or systemd would start it again
        run("systemctl", "kill", "--signal=KILL", self.service)
        until(f"{self.service} is gone", lambda: self.state_of() in ("inactive", "failed"))
        run("systemctl", "reset-failed", self.service)
        shutil.rmtree(self._drop_ins, ignore_errors=True)

    # ---- what it is made of

    def configure(self, **settings: Any) -> None:
        """Its TOML file: small and quick, on SQLite, with these settings on top."""
        file = {
            "database_url": f"sqlite:///{self.state}/shiftboss.db",
            "imports": [f"tasks_{self.name}"],
            "worker_pool_size": 4,
            "executors": 2,
            "metrics_port": 0,
            "shutdown_timeout": "10s",
            "cancel_grace": "1s",
            "start_timeout": "20s",
            "restart_backoff": "50ms",
            **settings,
        }
        self.config.write_text(tomli_w.dumps(file))
        self.config.chmod(0o640)
        shutil.chown(self.config, group="shiftboss")

    def write_code(self, text: str) -> None:
        """The module with its handlers, where the unit's working directory is."""
        self.code.write_text(text)

    def drop_in(self, text: str, name: str = "50-test.conf") -> None:
        self._drop_ins.mkdir(parents=True, exist_ok=True)
        (self._drop_ins / name).write_text(text)
        run("systemctl", "daemon-reload").ok()

    # ---- what is done with it

    def systemctl(self, *words: str) -> Result:
        return run("systemctl", *words, self.service)

    def start(self) -> Self:
        self.systemctl("start").ok()
        return self

    def kill(self, signal_name: str, who: str = "main") -> None:
        run("systemctl", "kill", f"--signal={signal_name}", f"--kill-who={who}", self.service).ok()

    def shiftboss(self, *words: str) -> Result:
        """One command as the service's user, in its folder."""
        environ = {"PATH": f"{VENV}/bin:/usr/bin:/bin", "LEDGER": f"{self.state}/ledger"}
        return run(PROGRAM, *words, "--env", self.name, env=environ, user="shiftboss", cwd=PREFIX)

    def enqueue(self, kind: str, *arguments: str) -> str:
        """Its id."""
        return self.shiftboss("enqueue", kind, *arguments).ok().out.strip()

    # ---- how it is

    def show(self, name: str) -> str:
        return self.systemctl("show", f"--property={name}", "--value").ok().out.strip()

    def state_of(self) -> str:
        return self.show("ActiveState")

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def pids(self) -> list[int]:
        """All processes in its control group."""
        group = self.show("ControlGroup")
        files = [Path(mount, group.lstrip("/"), "cgroup.procs") for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd")]
        text = next((file.read_text() for file in files if group and file.is_file()), "")
        return [int(word) for word in text.split()]

    def actors(self) -> dict[str, int]:
        """Name -> pid of its present children."""
        found: dict[str, int] = {}
        for pid in self.pids():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            except OSError:
                continue
            if "shiftboss.actors.process" in words:
                role = words[words.index("shiftboss.actors.process") + 1]
                found[role if role != "executor" else f"executor-{sum(one.startswith('executor') for one in found) + 1}"] = pid
        return found

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its lines of log, or those of one event."""
        return journal(f"_SYSTEMD_UNIT={self.service}", *([] if event is None else [f"SHIFTBOSS_EVENT={event}"]))

    def log(self) -> str:
        """Its own messages and systemd's about it, as text."""
        return text_of(journal("--unit", self.service))

    def saw(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the event has been logged so often."""

        def enough() -> list[dict[str, Any]]:
            found = self.events(event)
            return found if len(found) >= count else []

        return list(until(f"{count} × {event}\n", enough))

    def ledger(self) -> list[str]:
        """What its handlers have noted."""
        file = self.state / "ledger"
        return file.read_text().splitlines() if file.exists() else []

    def noted(self, line: str, times: int = 1) -> None:
        until(f"{times} × {line!r} in the ledger", lambda: self.ledger().count(line) >= times)

    def task(self, task_id: str) -> dict[str, Any]:
        return dict(json.loads(self.shiftboss("tasks", "show", task_id, "--json").ok().out))

    def completed(self, task_id: str) -> None:
        until(f"{task_id} completed", lambda: self.task(task_id)["status"] == "completed")
