"""The demonstration that a stranger sees first, in a small edition: its exit status and its words are true."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.pysurvey.files import BROKEN_FILES, select
from examples.pysurvey.measure import measure
from examples.pysurvey.processes import marked_processes
from examples.pysurvey.proof import Evidence, percentile
from tests.acceptance.worker import until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 100.0


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with spaces in its name and 60 files of two sizes in it."""
    folder = tmp_path / "some sources"
    (folder / "deeper").mkdir(parents=True)
    for number in range(60):
        function = f"def f{number}(a):\n    if a:\n        return [x for x in range(a)]\n    return None\n"
        (folder / ("deeper" if number % 2 else ".") / f"file_{number}.py").write_text(function * (1 + 400 * (number % 3)))
    return folder


def environment(tmp_path: Path) -> dict[str, str]:
    """The demo's working folder goes below `tmp_path`, in a folder with a space, too."""
    temporary = tmp_path / "temporary files"
    temporary.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(temporary), "WORKER_POOL_SIZE": "not a number", "COLUMNS": "100"}


def demo(sources: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.pysurvey.demo", str(sources), *options]
    return subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=PATIENCE_S)


def test_demo_kills_an_executor_and_the_claimer_and_proves_that_nothing_was_lost(sources: Path, tmp_path: Path) -> None:
    done = demo(sources, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("executor-1", "claimer"):
        assert f"{name} is back as pid" in done.stdout
    assert "107 of 107 enqueued tasks have exactly one end" in done.stdout  # 60 files, 6 broken ones, 40 pings, the report
    assert "FileNotFoundError" in done.stdout
    assert "(after 3 attempts)" in done.stdout
    assert done.stdout.count("✗") == 0
    assert not list((tmp_path / "temporary files").iterdir())


@pytest.mark.long
def test_demo_keeps_its_folder_when_asked_and_the_report_counts_the_files(sources: Path, tmp_path: Path) -> None:
    done = demo(sources, tmp_path, "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "temporary files").iterdir()
    assert "60 files" in (folder / "report.md").read_text()
    with Evidence(folder / "shiftboss.db") as evidence:
        names = {Path(path).name for path, _attempts, _error in evidence.dead_letters()}
    assert names == {*BROKEN_FILES, "gone_when_read.py"}


@pytest.mark.long
def test_proof_fails_when_a_task_is_missing_or_was_run_too_often(sources: Path, tmp_path: Path) -> None:
    import sqlite3

    assert demo(sources, tmp_path, "--keep").returncode == 0
    (folder,) = (tmp_path / "temporary files").iterdir()
    database = folder / "shiftboss.db"
    with sqlite3.connect(database) as connection:
        sent = [id_ for (id_,) in connection.execute("SELECT id FROM task_history UNION ALL SELECT id FROM tasks")]
        connection.execute("DELETE FROM task_history WHERE id = (SELECT id FROM task_history LIMIT 1)")
        connection.execute("UPDATE task_history SET attempts = max_attempts + 1 WHERE type = 'survey:report'")
    with Evidence(database) as evidence:
        broken = [check.text for check in evidence.checks(sent, executor_was_busy=False) if not check.kept]
    assert broken == [
        f"{len(sent) - 1} of {len(sent)} enqueued tasks have exactly one end",
        "1 tasks ran more often than max_attempts, or never",
    ]


def test_ctrl_c_leaves_no_process_and_no_folder(sources: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.pysurvey.demo"]
    screen, terminal = pty.openpty()  # a terminal, so that the moving bar is drawn too
    with subprocess.Popen(command, cwd=ROOT, env=environment(tmp_path), stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        shown = bytearray()
        until("the demo has enqueued", lambda: b"tasks enqueued" in (shown.extend(os.read(screen, 4096)) or shown))
        (folder,) = (tmp_path / "temporary files").iterdir()
        assert len(marked_processes(str(folder))) == 7
        process.send_signal(signal.SIGINT)
        _drain(screen)
        assert process.wait(PATIENCE_S) == 130
    assert marked_processes(str(folder)) == []
    assert not folder.exists()


def _drain(screen: int) -> None:
    try:
        while os.read(screen, 4096):
            pass
    except OSError:
        pass  # the other end is closed


def test_demo_refuses_a_folder_without_python(tmp_path: Path) -> None:
    done = demo(tmp_path, tmp_path)
    assert done.returncode == 2
    assert "no .py files below" in done.stderr


def test_measures_count_statements_not_expressions() -> None:
    text = "class A:\n    def f(self):\n        if 1:\n            return [lambda: x for x in ()]\nasync def g(): pass\n"
    measures = measure("a.py", text, "utf-8", 7)
    assert (measures.functions, measures.classes, measures.nesting) == (2, 1, 3)
    assert (measures.longest, measures.longest_lines, measures.lines) == ("f", 3, 5)


def test_selection_is_spread_over_all_files_and_says_what_it_left_out(sources: Path) -> None:
    selection = select([sources], limit=20)
    assert (len(selection.paths), selection.left_out) == (20, 40)
    assert {Path(path).parent.name for path in selection.paths} == {"some sources", "deeper"}
    assert select([sources], limit=20) == selection


def test_percentile_is_the_smallest_value_that_enough_do_not_exceed() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile(list(map(float, range(1, 101))), 0.99) == 99.0
    assert percentile([], 0.5) is None
