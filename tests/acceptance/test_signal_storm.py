"""Signals that go on until the last moment of a stop change nothing about how it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path

import pytest

from shiftboss.supervisor.spec import EXIT_INTERRUPTED
from tests.acceptance.worker import Worker


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, EXIT_INTERRUPTED)])
def test_no_signal_ends_the_process_before_it_has_said_how_it_ended(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """Also while the interpreter is being taken down, when nobody reads them any more."""
    with Worker(f"sqlite:///{tmp_path}/tasks.db", tmp_path) as worker:
        worker.ready()
        for _ in range(20_000):
            worker.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(0.001)
                break
        assert worker.process.wait(30) == code
