"""Everything under tests/systemd, in a systemd of its own that is thrown away afterwards.

SHIFTBOSS_SYSTEMD_SANDBOX names a program that boots one and runs a command in it as root: `PROGRAM [--poweroff SECONDS]
[--journal-dir DIR] [--bind-ro DIR:DIR] [--chdir DIR] -- COMMAND…`, ending with the command's exit status, or with 77 and a reason
where it cannot. On a machine that may be changed, run the folder directly: see tests/systemd/conftest.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VARIABLE = "SHIFTBOSS_SYSTEMD_SANDBOX"
CANNOT = 77
SOURCES = "/srv/shiftboss"


def in_sandbox(*command: str, options: tuple[str, ...] = (), timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command in a throw-away systemd, with this checkout (read-only) as its folder."""
    program = os.environ.get(VARIABLE)
    if not program:
        pytest.skip(f"{VARIABLE} names no program that boots a throw-away systemd")
    options = ("--bind-ro", f"{ROOT}:{SOURCES}", "--chdir", SOURCES, *options)
    variables = ("env", "SHIFTBOSS_IN_SYSTEMD=1", f"PYTHONPATH={SOURCES}", "PYTHONDONTWRITEBYTECODE=1")
    # Not from this folder: it would be below itself.
    done = subprocess.run(
        [program, *options, "--", *variables, *command], capture_output=True, text=True, timeout=timeout_s, cwd="/", check=False
    )
    if done.returncode == CANNOT:
        pytest.skip(done.stderr.strip() or f"{program} cannot boot a systemd here")
    return done


@pytest.mark.timeout(900)
def test_the_service_behaves_in_a_real_systemd() -> None:
    done = in_sandbox(sys.executable, "-m", "pytest", "-q", "-ra", "tests/systemd", timeout_s=880)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    print(done.stdout[-2_000:])


@pytest.mark.timeout(180)
def test_powering_off_the_machine_drains_the_worker(tmp_path: Path) -> None:
    """A task that runs when the machine is told to go down completes; the journal of the shutdown says so."""
    options = ("--poweroff", "60", "--journal-dir", str(tmp_path))
    done = in_sandbox(sys.executable, "-m", "tests.systemd.busy_worker", options=options, timeout_s=170)
    assert done.returncode == 0, done.stdout + done.stderr
    journal = subprocess.run(
        ["journalctl", "--directory", str(tmp_path), "--output=cat", "--no-pager"], capture_output=True, text=True, check=True
    ).stdout
    assert "handler began" in journal
    assert journal.index("service.stopping") < journal.index("handler ended"), journal[-4_000:]
    assert "stopped, exit code 0" in journal
