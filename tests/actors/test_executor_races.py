"""Executors and what they start: descriptors, signals, modules that end the process."""

from __future__ import annotations

import os
from pathlib import Path

from actor_harness import table_memory
from process_harness import ActorProcess
from test_executor import Running, running  # noqa: F401

from shiftboss import control
from shiftboss.config import Settings


def test_programs_that_handlers_start_hold_none_of_our_links_open(running: Running) -> None:
    assert running.result("test:grandchild_fds") == []


def test_modules_that_cannot_be_imported_end_it_with_the_traceback(tmp_path: Path) -> None:
    settings = Settings(database_url="sqlite:///none.db", log_format="json", imports=("no_such_module_here",))
    table_fd = table_memory(4)
    with ActorProcess("executor", settings, "1", table_fd=table_fd) as process:
        os.close(table_fd)
        assert process.wait_exit() == 1
        assert "no_such_module_here" in process.transcript()
        assert not process.said.of(control.Ready)


def test_many_signals_at_once_do_nothing_to_a_child(running: Running) -> None:
    import signal

    for _ in range(5):
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGUSR2"):
            running.process.process.send_signal(signal.Signals[name])
        running.process.ping()


def test_a_module_that_exits_ends_the_executor_at_once(tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    settings = Settings(database_url="sqlite:///none.db", log_format="json", imports=("exits",))
    table_fd = table_memory(4)
    with ActorProcess(
        "executor",
        settings,
        "1",
        table_fd=table_fd,
        env={"PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))},
    ) as process:
        os.close(table_fd)
        assert process.wait_exit(5.0) == 1
