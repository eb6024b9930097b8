"""`shiftboss dev`: what counts as a change, and that the service is stopped and started for it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest

from shiftboss.cli.reload import changed, snapshot, watched_folders

PATIENCE_S = 40.0


def test_written_added_and_removed_files_are_changes(tmp_path: Path) -> None:
    for name in ("kept.py", "written.py", "removed.py", "settings.toml"):
        (tmp_path / name).write_text("a = 1\n")
    before = snapshot([tmp_path])
    assert changed(before, snapshot([tmp_path])) == []
    os.utime(tmp_path / "written.py", ns=(0, 1))
    os.utime(tmp_path / "settings.toml", ns=(0, 1))
    (tmp_path / "removed.py").unlink()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "added.py").write_text("")
    names = [path.name for path in changed(before, snapshot([tmp_path]))]
    assert sorted(names) == ["added.py", "removed.py", "settings.toml", "written.py"]


@pytest.mark.parametrize(
    "name", ["notes.txt", "shiftboss.db", ".venv/x.py", ".git/x.py", "node_modules/x.py", "__pycache__/x.py"]
)
def test_other_files_are_not_watched(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    assert snapshot([tmp_path]) == {}


def test_packages_of_imported_modules_are_watched_but_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library" / "jobs_package").mkdir(parents=True)
    (tmp_path / "library" / "jobs_package" / "__init__.py").write_text("raise RuntimeError")
    (tmp_path / "library" / "jobs_module.py").write_text("raise RuntimeError")
    (tmp_path / "here").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "library"))
    folders = watched_folders(["jobs_package.mail", "jobs_module", "no_such_module"], tmp_path / "here")
    assert set(folders) == {tmp_path / "here", tmp_path / "library" / "jobs_package", tmp_path / "library" / "jobs_module.py"}
    assert len(snapshot(folders)) == 2


class Dev:
    """`shiftboss dev` as a process, with its lines."""

    def __init__(self, folder: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "shiftboss.cli",
            "dev",
            "--import",
            "jobs",
            "--set",
            "metrics_port=0",
            "--set",
            "executors=1",
        ]
        environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "SHIFTBOSS_ENV")}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        self._lines: Queue[str] = Queue()
        self.seen: list[str] = []
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)

    def wait_for(self, text: str) -> str:
        deadline_s = time.monotonic() + PATIENCE_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                self.seen.append(self._lines.get(timeout=left_s))
            except Empty:
                break
            if text in self.seen[-1]:
                return self.seen[-1]
        raise AssertionError(f"no line with {text!r} in:\n" + "".join(self.seen))


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Callable[[], Dev]]:
    started: list[Dev] = []

    def start() -> Dev:
        started.append(Dev(tmp_path))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            try:
                one.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                one.process.kill()


def write_job(folder: Path, answer: str) -> None:
    (folder / "jobs.py").write_text(
        f"from shiftboss import Attempt, task\n@task(type='t')\ndef t(attempt: Attempt) -> None:\n{answer}"
    )


def enqueue(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "shiftboss.cli", "enqueue", "t"], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def ended_within(pid: int, seconds: float) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = bool(poll.poll(seconds * 1000))
    os.close(pidfd)
    return ended


def test_dev_runs_new_code_after_a_change_and_stops_on_interrupt(tmp_path: Path, dev: Callable[[], Dev]) -> None:
    write_job(tmp_path, "    attempt.log.info('the old code')\n")
    running = dev()
    running.wait_for("service.ready")
    enqueue(tmp_path)
    running.wait_for("the old code")
    write_job(tmp_path, "    attempt.log.info('the new code')\n")
    running.wait_for("jobs.py changed: restarting")
    running.wait_for("service.ready")
    enqueue(tmp_path)
    running.wait_for("the new code")
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(PATIENCE_S) == 0


def test_dev_that_is_killed_leaves_no_service_behind(tmp_path: Path, dev: Callable[[], Dev]) -> None:
    write_job(tmp_path, "    pass\n")
    running = dev()
    running.wait_for("service.ready")
    (children,) = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    supervisor = int(children)
    running.process.kill()
    running.process.wait(PATIENCE_S)
    running.wait_for("service.stopped")
    assert ended_within(supervisor, PATIENCE_S)
