"""Each file under conf/ starts a real worker that runs tasks: found by its environment's name, with what differs on this
machine in a drop-in and the database in a credential."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from shiftboss.config import load_settings
from shiftboss.config.templates import TEMPLATES
from shiftboss.model import TaskState
from shiftboss.store.open import open_store
from tests.acceptance import handlers
from tests.acceptance.enqueue import enqueue
from tests.acceptance.test_worker import status
from tests.acceptance.worker import ROOT, Worker, until

TASKS = 20
HERE = 'imports = ["tests.acceptance.handlers"]\nmetrics_port = 0\nlog_format = "json"\nshutdown_timeout = "5s"\n'


class StartedWorker(Worker):
    """A worker that `shiftboss start --env NAME` has become, in a folder with conf/ in it."""

    def __init__(self, folder: Path, environment: str, name: str) -> None:
        self.ledger, self.log_file, self.seen = folder / "ledger", folder / f"{name}.log", set()
        inherited = {key: text for key, text in os.environ.items() if not key.startswith("SHIFTBOSS") and key != "DATABASE_URL"}
        ours = {"PYTHONPATH": str(ROOT), "CREDENTIALS_DIRECTORY": str(folder / "credentials"), "LEDGER": str(self.ledger)}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shiftboss.cli", "start", "--env", environment],
                cwd=folder,
                env=inherited | ours,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As a machine has it: conf/ as it is shipped."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "credentials").mkdir()
    return tmp_path


@pytest.mark.parametrize("environment", TEMPLATES)
def test_a_worker_started_from_a_shipped_file_runs_tasks(environment: str, folder: Path, request: pytest.FixtureRequest) -> None:
    shipped = load_settings(file=folder / "conf" / f"{environment}.toml", environ={}).settings
    database_url = f"sqlite:///{folder}/shiftboss.db"
    if shipped.database_url.startswith("postgresql:"):
        database_url = request.getfixturevalue("pg_database")
        (folder / "credentials" / "database_url").write_text(f"{database_url}\n")
    (folder / "conf" / f"{environment}.d").mkdir()
    (folder / "conf" / f"{environment}.d" / "10-here.toml").write_text(HERE)

    with ExitStack() as stack:
        names = ("first", "second") if shipped.distributed_mode else ("only",)
        workers = [stack.enter_context(StartedWorker(folder, environment, name)) for name in names]
        for worker in workers:
            worker.ready()
        store = open_store(database_url)
        stack.callback(store.close)
        ids = enqueue(store, [handlers.short.prepare(5) for _ in range(TASKS)])
        until("all tasks completed", lambda: {status(store, one) for one in ids} == {TaskState.COMPLETED})
        assert len(store.workers()) == len(names)
        assert workers[0].starts() == workers[0].ends()
        assert {task_id for task_id, _ in workers[0].ends()} == set(ids)
        assert [worker.stop() for worker in workers] == [0] * len(names)
