"""The command line as an operator uses it: a service in a folder, and commands that find it there and wait for their effect."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.worker import ROOT, is_running, until

PATIENCE_S = 60.0
CODE = """
import pathlib, threading
from shiftboss import task

@task(type="t")
def t(seconds: float = 0.0) -> None:
    pathlib.Path("started").touch()
    threading.Event().wait(seconds)
    pathlib.Path("answer").write_text("{answer}")
"""


class Project:
    """A folder with a configuration and code, and the services that were started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_folder = Path(tempfile.mkdtemp(prefix="sb"))  # the path of a socket has 107 bytes at most
        self.started: list[subprocess.Popen[bytes]] = []
        self.write(answer="old")
        self.configure(imports='["jobs"]', metrics_port="0", executors="2", log_format='"json"', control_socket='"auto"')

    def write(self, answer: str) -> None:
        (self.folder / "jobs.py").write_text(CODE.replace("{answer}", answer))

    def configure(self, **settings: str) -> None:
        (self.folder / "shiftboss.toml").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))

    def environ(self) -> dict[str, str]:
        ours = ("DATABASE_URL", "SHIFTBOSS_ENV", "RUNTIME_DIRECTORY")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        return {**kept, "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}", "XDG_RUNTIME_DIR": str(self.run_folder)}

    def start(self) -> subprocess.Popen[bytes]:
        log = self.folder / f"log-{len(self.started)}"
        with log.open("wb") as file:
            command = [sys.executable, "-m", "shiftboss.cli", "start"]
            process = subprocess.Popen(command, cwd=self.folder, env=self.environ(), stderr=file, start_new_session=True)
        self.started.append(process)
        until("service.ready", lambda: process.poll() is not None or '"service.ready"' in log.read_text(), PATIENCE_S)
        assert process.poll() is None, log.read_text()
        return process

    def log(self, number: int = -1) -> list[dict[str, Any]]:
        names = sorted(self.folder.glob("log-*"))
        return [json.loads(line) for line in names[number].read_text().splitlines() if line.startswith("{")]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shiftboss.cli", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environ(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def code(self, *words: str) -> int:
        return self.run(*words).returncode

    def service(self) -> dict[str, Any]:
        status = json.loads(self.run("status", "--local", "--json").stdout)["service"]
        assert isinstance(status, dict)
        return status

    def executors(self) -> dict[str, int]:
        """Name -> pid of those that are in service."""
        actors = self.service()["actors"]
        return {one["name"]: one["pid"] for one in actors if one["name"].startswith("executor") and one["state"] == "ready"}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)


def ran_by(project: Project) -> Callable[[], str]:
    answer = project.folder / "answer"
    return lambda: answer.read_text() if answer.exists() else ""


def test_new_code_is_taken_over_and_wrong_code_or_settings_leave_everything_as_it_was(project: Project) -> None:
    project.start()
    before = project.executors()
    (project.folder / "jobs.py").write_text("import no_such_module\n")
    ran = project.run("reload")
    assert (ran.returncode, ran.stdout, "no_such_module" in ran.stderr) == (78, "", True)
    project.configure(imports='["jobs"]', metrics_port="0", executors='"two"')
    ran = project.run("reload", "--wait")
    assert (ran.returncode, "executors" in ran.stderr, "shiftboss.toml:3" in ran.stderr) == (78, True, True)
    assert project.executors() == before
    assert project.service()["last_reload_ok"] is False

    project.write(answer="new")
    project.configure(imports='["jobs"]', metrics_port="0", executors="3", log_format='"json"')
    ran = project.run("reload")
    assert (ran.returncode, "executors" in ran.stdout) == (0, True), ran
    after = project.executors()
    assert len(after) == 3
    assert not set(before.values()) & set(after.values())
    assert project.code("enqueue", "t") == 0
    until("the new code has run", lambda: ran_by(project)() == "new")
    assert project.code("stop") == 0


def test_restart_scale_and_dump_are_done_when_they_return(project: Project) -> None:
    service = project.start()
    before = project.executors()
    assert project.code("scale", "3") == 0
    assert len(project.executors()) == 3
    assert set(before.items()) <= set(project.executors().items())
    assert project.code("restart") == 0
    after = project.executors()
    assert len(after) == 3
    assert not set(before.values()) & set(after.values())
    for name, pid in after.items():
        assert Path(f"/proc/{pid}/comm").read_text().strip() == name
        assert f"name={name}" in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    assert Path(f"/proc/{service.pid}/comm").read_text().strip() == "shiftboss"
    assert project.code("scale", "1") == 0
    assert len(project.executors()) == 1
    assert project.code("dump") == 0
    assert {line["actor"] for line in project.log() if line.get("event") == "actor.stacks"} >= {"claimer", "heartbeat"}
    assert project.run("stop").stdout == "stopped, exit code 0\n"
    assert service.poll() == 0


def test_a_drain_waits_for_what_runs_answers_meanwhile_and_is_ended_by_resume_or_stop(project: Project) -> None:
    service = project.start()
    assert project.code("enqueue", "t", "seconds=3.0") == 0
    until("it runs", (project.folder / "started").exists)
    draining = subprocess.Popen(
        [sys.executable, "-m", "shiftboss.cli", "drain"], cwd=project.folder, env=project.environ(), stdout=subprocess.PIPE
    )
    until("it is quiet", lambda: project.service()["phase"] == "quiet")
    assert draining.poll() is None
    assert project.code("drain", "--no-wait") == 0
    assert ran_by(project)() == ""
    assert draining.wait(PATIENCE_S) == 0
    assert ran_by(project)() == "old"
    draining.communicate()

    (project.folder / "answer").unlink()
    assert project.code("enqueue", "t") == 0
    assert project.code("resume") == 0
    until("claimed again", lambda: ran_by(project)() == "old")
    assert project.code("drain") == 0
    assert project.code("stop", "--now") == 0
    assert service.poll() == 0


@pytest.mark.long
def test_a_stop_returns_when_every_process_is_gone_and_the_socket_with_them(project: Project) -> None:
    service = project.start()
    pids = [actor["pid"] for actor in project.service()["actors"]]
    assert len(pids) >= 6
    assert project.code("enqueue", "t", "seconds=30") == 0
    until("it runs", (project.folder / "started").exists)
    patient = subprocess.Popen(
        [sys.executable, "-m", "shiftboss.cli", "stop"],
        cwd=project.folder,
        env=project.environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until("it stops", lambda: project.service()["phase"].startswith("stopping"))
    refused = project.run("reload")
    assert (refused.returncode, "stopping" in refused.stderr) == (1, True)
    began_s = time.monotonic()
    assert project.code("stop", "--now") == 0
    assert time.monotonic() - began_s < 15
    assert service.poll() == 0
    assert [pid for pid in pids if is_running(pid)] == []
    assert patient.wait(PATIENCE_S) == 0
    assert list((project.run_folder / "shiftboss").iterdir()) == []
    assert project.code("stop") == 1


def test_a_killed_service_leaves_nothing_that_hinders_the_next_and_a_second_one_goes_without(project: Project) -> None:
    killed = project.start()
    killed.send_signal(signal.SIGKILL)
    killed.wait(PATIENCE_S)
    assert "no running service" in project.run("status", "--local").stderr
    first = project.start()
    assert project.service()["pid"] == first.pid
    second = project.start()
    (warning,) = [line for line in project.log() if line.get("event") == "control.unavailable"]
    assert "another running service" in warning["message"]
    assert project.service()["pid"] == first.pid
    second.terminate()
    assert second.wait(PATIENCE_S) == 0
    assert project.service()["pid"] == first.pid
    assert project.code("stop") == 0
