"""Traps that other supervisors fell into: lost signals, strangers as children, orphans, deaths that merge. Real processes."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service_harness import PATIENCE_S, PYTHON, PYTHON_PATH, SERVICE, Service, child, executors

from shiftboss.supervisor import signals

TREE = (
    child("heartbeat"),
    *executors(2),
    child("claimer", links=["executor"], drains=True),
)
POINTS = 8  # at so many moments between exec and ready


# ---- signals


def test_a_signal_handler_does_nothing_at_all() -> None:
    """One that logs can deadlock with the log line that it interrupts."""
    (handler,) = ast.parse(inspect.getsource(signals._on_signal)).body
    assert isinstance(handler, ast.FunctionDef)
    assert [type(statement) for statement in handler.body] == [ast.Expr], "a docstring and nothing else"
    folder = Path(inspect.getfile(signals)).parent
    installing = [file.name for file in folder.glob("*.py") if "signal.signal(" in file.read_text()]
    assert installing == ["signals.py"]


def starting_s() -> float:
    """How long a service needs from exec to ready."""
    with Service(*TREE) as service:
        service.wait_ready()
        took_s = time.monotonic() - service.started_s
        assert service.stop() == 0
    return took_s


def at_points_of_the_start(number: signal.Signals) -> list[Service]:
    """Services that were sent this signal, each a little later than the one before."""
    took_s, found = starting_s(), []
    for point in range(POINTS):
        service = Service(*TREE)
        select.select([], [], [], took_s * point / POINTS)
        service.send(number)
        found.append(service)
    return found


def test_term_at_any_moment_of_the_start_leaves_nobody_behind() -> None:
    for service in at_points_of_the_start(signal.SIGTERM):
        with service:
            code = service.wait_exit(timeout_s=10.0)  # looks for processes left, too
            assert code == 0 if service.seen(event="service.starting") else code in (0, -signal.SIGTERM)


def test_hup_at_any_moment_of_the_start_is_no_reason_to_end() -> None:
    for service in at_points_of_the_start(signal.SIGHUP):
        with service:
            if service.process.poll() == -signal.SIGHUP:
                assert not service.lines, "it had not begun to be a service"
                continue
            service.wait_ready()
            assert service.stop() == 0


# ---- deaths


def test_deaths_that_come_as_one_signal_are_all_noticed() -> None:
    with Service(*executors(5), child("claimer", links=["executor"])) as service:
        service.wait_ready()
        service.send(signal.SIGSTOP)
        for number in range(1, 6):
            service.kill(f"executor-{number}")
        service.send(signal.SIGCONT)
        for number in range(1, 6):
            service.wait_for(event="actor.ready", actor=f"executor-{number}", incarnation=2)
        assert service.stop() == 0


def test_a_death_is_noticed_although_a_grandchild_holds_the_control_link() -> None:
    with Service(child("executor", "--grandchild", "holding"), child("claimer", links=["executor"])) as service:
        service.wait_ready()
        grandchild = service.wait_for(said="grandchild")["pid"]
        service.kill("executor")
        service.wait_for(event="actor.ready", actor="executor", incarnation=2)
        started_s = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started_s < 5.0
        assert service.seen(event="orphan.reaped", orphan_pid=grandchild)


# ---- orphans


@pytest.mark.parametrize("actor", ["heartbeat", "executor-2", "claimer", "check", "executor-3"])
def test_nobody_outlives_a_supervisor_that_is_killed_while_it_starts_somebody(tmp_path: Path, actor: str) -> None:
    with Service(*TREE, folder=tmp_path) as service:
        if actor in ("check", "executor-3"):  # those of a reload
            service.wait_ready()
            service.send(signal.SIGHUP)
        service.wait_for(event="actor.starting", actor=actor)
        service.process.kill()
        assert service.wait_exit() == -signal.SIGKILL  # looks for processes left


def test_only_one_thread_starts_processes() -> None:
    """PDEATHSIG is bound to the thread that has started the process: the end of a helper thread would kill children."""
    with Service(*TREE) as service:
        service.wait_ready()
        assert os.listdir(f"/proc/{service.process.pid}/task") == [str(service.process.pid)]
        assert service.stop() == 0


# ---- as the first process of a container


@contextlib.contextmanager
def as_init(*specs: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """A service that is process 1 of a namespace of its own; what the harness knows of processes means nothing there."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs the right to make a process namespace")
    command = [*unshare, *PYTHON, SERVICE, json.dumps(specs), json.dumps({"cancel_grace_s": 1.0}), "", ""]
    env = {**os.environ, "PYTHONPATH": PYTHON_PATH}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as unshare:
        limit = threading.Timer(2 * PATIENCE_S, unshare.kill)  # whoever reads its lines sees the end of them
        limit.start()
        try:
            yield unshare
        finally:
            limit.cancel()
            unshare.kill()


def test_as_process_1_it_takes_no_strangers_end_for_a_childs() -> None:
    executor = child("executor", "--strangers", "--facts", ping=False)
    with as_init(executor, child("claimer", links=["executor"])) as unshare:
        assert unshare.stderr is not None
        strangers, ready, facts = set[int](), False, False
        lines: list[dict[str, Any]] = []
        while strangers < {3, 4, 70} or not ready or not facts:
            text = unshare.stderr.readline()
            assert text, lines
            lines.append(line := json.loads(text))
            ready |= line.get("event") == "service.ready"
            facts |= line.get("said") == "facts" and line["parent"]
            if line.get("event") == "orphan.reaped":
                strangers.add(os.waitstatus_to_exitcode(line["wait_status"]))
        os.kill(init_of(unshare), signal.SIGTERM)
        lines += [json.loads(text) for text in unshare.stderr]
        assert unshare.wait(PATIENCE_S) == 0
    events = [line.get("event") for line in lines]
    assert events.count("actor.starting") == 2, "somebody was restarted"
    assert "actor.crashed" not in events


def init_of(unshare: subprocess.Popen[str]) -> int:
    """The number by which we know it."""
    return int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text())
