"""Commands of a running service: answered while anything else goes on, each told of its effect."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from service_harness import ANSWER_S, PATIENCE_S, Service, child, executors

DRAINING = ("--release", "3600", "--stop", "drain:3600", "--drained", "3600")


def service(folder: Path, *claimer: str, env: dict[str, str] | None = None, **settings: Any) -> Service:
    specs = [child("heartbeat"), *executors(2), child("claimer", *claimer, links=["executor"], drains=True)]
    return Service(*specs, folder=folder, env=env, **settings)


# ---- always responsive


def test_everything_is_answered_at_once_while_old_executors_finish_what_they_run(tmp_path: Path) -> None:
    with service(tmp_path, *DRAINING, shutdown_timeout_s=60.0) as running:
        running.wait_ready()
        running.plan(check="slow:0.5")
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTTIN):
            running.send(number)
        running.wait_for(said="check")
        assert running.status()["phase"] == "reloading"  # itself within 100 ms
        assert running.command("resume").took_s < ANSWER_S
        assert running.obey("scale", executors=3)["ok"]  # after all that was asked for before
        assert running.status()["phase"] == "ready"
        assert running.command("resume").took_s < ANSWER_S
        assert running.seen(event="service.scaled", executors=3), "TTIN was obeyed"
        running.obey("drain", wait=False)
        running.wait_for(said="drain", child="claimer")  # what it had been told before, it has told
        told = [(line["peer"], line["peer_incarnation"]) for line in running.seen(said="peer_retiring")]
        assert {("executor-1", 1), ("executor-2", 1)} <= set(told)
        assert len(told) == len(set(told)), "told once each"
        assert running.actors()["executor-1"]["state"] == "retiring"
        assert running.stop(signal.SIGQUIT) == 0


def test_everything_is_answered_at_once_while_the_service_stops(tmp_path: Path) -> None:
    with service(tmp_path, *DRAINING, shutdown_timeout_s=60.0) as running:
        running.wait_ready()
        stopping = running.command("stop")
        running.wait_for(said="stop", child="claimer")
        for name in ("reload", "restart", "drain", "resume"):
            asked = running.command(name)
            assert asked.took_s < ANSWER_S
            assert (asked.done()["ok"], asked.done()["text"]) == (False, "the service is stopping")
        assert running.command("dump").took_s < 2.0
        for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTSTP, signal.SIGUSR2):
            running.send(number)
            running.wait_for(event="signal.ignored", signal=number.name)
        assert running.status()["phase"] == "stopping"
        assert not stopping.answered
        assert running.obey("stop", now=True)["ok"], "cuts the drain short"
        assert stopping.done()["ok"]
        assert running.wait_exit() == 0


PHASES: dict[str, Callable[[Service], object]] = {
    "ready": lambda running: running.wait_ready(),
    "quiet": lambda running: running.obey("drain", wait=False),
    "reloading": lambda running: (running.plan(check="hang"), running.send(signal.SIGHUP), running.wait_for(said="check")),
    "stopping": lambda running: (running.send(signal.SIGTERM), running.wait_for(said="stop", child="claimer")),
}


@pytest.mark.parametrize("phase", PHASES)
def test_status_tells_the_phase_and_every_actor(tmp_path: Path, phase: str) -> None:
    with service(tmp_path, *DRAINING, shutdown_timeout_s=60.0) as running:
        running.wait_for(event="actor.ready", actor="heartbeat")
        assert running.status()["phase"] == "starting"
        running.wait_ready()
        PHASES[phase](running)
        status = running.status()
        assert (status["phase"], status["pid"]) == (phase, running.process.pid)
        assert (status["executors_wanted"], status["executors_ready"]) == (2, 2)
        for name in ("heartbeat", "executor-1", "executor-2", "claimer"):
            actor = running.actors()[name]
            assert (actor["pid"], actor["incarnation"], actor["restarts"]) == (running.pid(name), 1, 0)
        assert running.stop(signal.SIGQUIT) == 0


def test_status_tells_of_restarts_and_the_last_end(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.kill("heartbeat")
        running.wait_for(event="actor.ready", actor="heartbeat", incarnation=2)
        heartbeat = running.actors()["heartbeat"]
        assert (heartbeat["restarts"], heartbeat["incarnation"]) == (1, 2)
        assert heartbeat["last_end"].startswith("by SIGKILL after ")
        assert running.stop() == 0


# ---- stop


def test_stop_is_answered_with_the_exit_code_when_all_have_gone(tmp_path: Path) -> None:
    with service(tmp_path, "--stop", "drain:0.3") as running:
        running.wait_ready()
        first, second = running.command("stop"), running.command("stop")
        done = first.done()
        assert (done["ok"], done["text"]) == (True, "stopped, exit code 0")
        assert second.done()["ok"]
        assert running.wait_exit() == 0
        assert first.took_s > 0.3
        assert not running.control_path.exists()


def test_stop_now_cancels_what_runs(tmp_path: Path) -> None:
    with service(tmp_path, "--stop", "drain:60", shutdown_timeout_s=60.0) as running:
        running.wait_ready()
        assert running.obey("stop", now=True)["ok"]
        assert running.wait_exit() == 0
        assert running.seen(said="stop", child="claimer")[0]["drain_s"] == 0.0


def test_a_service_that_gives_up_meanwhile_says_so_to_those_who_wait_for_its_stop(tmp_path: Path) -> None:
    with service(tmp_path, "--stop", "drain:60", shutdown_timeout_s=60.0) as running:
        running.wait_ready()
        asked = running.command("stop")
        running.wait_for(said="stop", child="claimer")
        running.send(signal.SIGINT)
        running.wait_for(event="signal.received", signal="SIGINT", count=1)
        running.send(signal.SIGINT)
        running.wait_for(event="signal.received", signal="SIGINT", count=2)
        running.send(signal.SIGINT)
        assert running.wait_exit() in (0, 130)  # the second may have been enough
        assert asked.done()["ok"] is (running.process.returncode == 0)


def test_who_waits_for_the_end_is_told_when_it_comes_by_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with service(tmp_path, "--stop", "drain:3600", env={"BROKEN_WHEN": str(broken)}, shutdown_timeout_s=60.0) as running:
        running.wait_ready()
        stopping = running.command("stop")
        running.wait_for(said="stop", child="claimer")
        broken.touch()
        running.send(signal.SIGTERM)  # a turn of its loop
        assert (stopping.done()["ok"], stopping.done()["text"]) == (False, "stopped, exit code 1")
        assert running.wait_exit() == 1


# ---- dump


def test_a_dump_is_answered_as_soon_as_all_have_written_theirs(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        asked = running.command("dump")
        assert (asked.done()["ok"], asked.done()["text"]) == (True, "written to the log")
        assert asked.took_s < 1.0
        assert {line["child"] for line in running.seen(said="dump")} == set(running.actors())
        assert {line["actor"] for line in running.seen(event="actor.state", state="ready")} == set(running.actors())
        assert running.stop() == 0


def test_a_child_that_does_not_answer_a_dump_is_named_and_made_to_write_its_stacks(tmp_path: Path) -> None:
    with service(tmp_path, "--no-dump") as running:
        running.wait_ready()
        first, second = running.command("dump"), running.command("dump")
        done = first.done()
        assert not done["ok"]
        assert done["text"] == "written to the log; no answer from claimer: their stacks alone, if they can"
        assert 1.9 < first.took_s < 3.5
        assert second.done()["text"] == done["text"], "whoever asks meanwhile gets the same answer"
        assert len(running.seen(said="dump", child="claimer")) == 1
        assert running.stop() == 0
        assert any("child_script.py" in line for line in running.raw), "no stacks"


def test_a_dump_does_not_wait_for_a_child_that_has_died(tmp_path: Path) -> None:
    with service(tmp_path, "--no-dump") as running:
        running.wait_ready()
        asked = running.command("dump")
        running.wait_for(said="dump", child="claimer")
        running.kill("claimer")
        assert asked.took_s < 1.5
        assert (asked.done()["ok"], asked.done()["text"]) == (False, "written to the log; claimer ended before it had answered")
        assert running.stop() == 0


# ---- what the service manager is told


@pytest.mark.parametrize("check", ["ok", "error:broken"])
def test_a_reload_is_announced_and_ended_also_when_it_fails(tmp_path: Path, check: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        with service(tmp_path, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as running:
            running.wait_ready()
            running.plan(check=check)
            assert running.obey("reload")["ok"] is (check == "ok")
            told = said(manager, until="READY", count=2)
            reloading = [message for message in told if "RELOADING" in message]
            assert [message["RELOADING"] for message in reloading] == ["1"]
            assert int(reloading[0]["MONOTONIC_USEC"]) > 0
            assert told.index(reloading[0]) < len(told) - 1, "READY=1 follows"
            assert told[-1]["STATUS"].startswith("ready, 4 of 4 actors ready")
            assert running.stop() == 0
            rest = said(manager, until="STOPPING")
            assert not [message for message in rest if "READY" in message]


def said(manager: socket.socket, until: str, count: int = 1) -> list[dict[str, str]]:
    """What it is told up to the `count`-th message with this key."""
    messages: list[dict[str, str]] = []
    while sum(until in message for message in messages) < count:
        messages.append(dict(line.split("=", 1) for line in manager.recv(65536).decode().splitlines()))
    return messages


def test_a_check_is_no_actor_that_the_status_line_waits_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        with service(tmp_path, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as running:
            running.wait_ready()
            running.plan(check="slow:1.3")
            running.command("reload")
            running.wait_for(said="check")
            running.kill("heartbeat")  # changes the line, which is sent once a second
            told = said(manager, until="READY", count=2)
            assert all(" of 4 actors ready" in message["STATUS"] for message in told if "reloading" in message.get("STATUS", ""))
            assert running.stop() == 0
