"""A pool that keeps crashing: claiming pauses, one executor is tried from time to time, and it goes on by itself."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from service_harness import Service, child, executors

LIMITS: dict[str, Any] = {"max_restarts": 2, "restart_backoff_s": 0.01, "probe_interval_s": 0.4}


def service(folder: Path, *options: str, count: int = 2, **settings: Any) -> Service:
    """Executors that crash as soon as they are ready."""
    specs = [*executors(count, *options), child("claimer", "--drained", "0", links=["executor"], drains=True)]
    return Service(*specs, folder=folder, **{**LIMITS, **settings})


def crash_until_paused(running: Service, name: str = "executor-1") -> None:
    running.wait_ready()
    for incarnation in range(1, LIMITS["max_restarts"] + 2):
        running.kill(name, incarnation)
    running.wait_for(event="supervisor.intensity_exceeded")


def test_a_pool_that_keeps_crashing_is_fed_nothing_more(tmp_path: Path) -> None:
    with service(tmp_path, probe_interval_s=60.0) as running:
        crash_until_paused(running)
        (exceeded,) = running.seen(event="supervisor.intensity_exceeded", level="CRITICAL")
        assert "executor ended 3 times within 60 s: claiming pauses" in exceeded["message"]
        running.wait_for(said="drain", child="claimer", why="executor ended 3 times within 60 s")
        running.wait_for(event="service.quiet")
        status = running.status()
        assert (status["phase"], status["why"]) == ("paused", "executor ended 3 times within 60 s")
        assert running.actors()["executor-1"]["state"] == "backoff"
        assert running.actors()["executor-2"]["state"] == "ready", "the others finish what they run"
        assert running.stop() == 0


def test_one_is_tried_from_time_to_time_until_it_stays_up(tmp_path: Path) -> None:
    crashing = ("--end", "7", "--end-until", "4", "--only", "executor-1", "--ready-after", "0.02")
    with service(tmp_path, *crashing, count=1) as running:
        running.wait_for(event="supervisor.intensity_exceeded")
        running.wait_for(event="pool.probed", actor="executor-1", count=2)
        first, second = running.seen(event="pool.probed")[:2]
        assert second["at_s"] - first["at_s"] > 0.35
        probe = running.wait_for(event="actor.ready", actor="executor-1", incarnation=5)
        assert not running.seen(event="pool.resumed")
        resumed = running.wait_for(event="pool.resumed", actor="executor-1")
        assert resumed["at_s"] - probe["at_s"] > 4.5, "one that is ready has not shown yet that it stays so"
        running.wait_for(said="resume", child="claimer")
        assert running.status()["phase"] == "ready"
        assert len(running.seen(event="supervisor.intensity_exceeded")) == 1
        assert running.stop() == 0


def test_a_claimer_that_keeps_crashing_ends_the_service_with_70() -> None:
    specs = [*executors(1), child("claimer", "--end", "7", links=["executor"])]
    with Service(*specs, **LIMITS) as running:
        assert running.wait_exit() == 70
        assert not running.seen(event="pool.probed")


def test_executors_that_keep_crashing_before_the_service_was_ready_end_it_with_70() -> None:
    claimer = child("claimer", "--boot", "hang", links=["executor"], shutdown_s=0.1)
    specs = [*executors(2, "--end", "7", "--only", "executor-1"), claimer]
    with Service(*specs, **LIMITS) as running:
        assert running.wait_exit() == 70, "a service that never was ready would wait for ever"
        assert not running.seen(event="pool.probed")


def test_a_reload_during_the_pause_goes_on_at_once(tmp_path: Path) -> None:
    with service(tmp_path, probe_interval_s=60.0) as running:
        crash_until_paused(running)
        assert running.obey("reload")["ok"]
        assert running.seen(event="pool.resumed", actor="reload")
        running.wait_for(said="resume", child="claimer")
        assert running.status()["phase"] == "ready"
        started = running.seen(event="actor.starting", actor="executor-1")
        assert len(started) == 3, "the old one that was down is not started to be retired"
        assert running.stop() == 0


def test_a_pool_whose_broken_executor_was_scaled_away_goes_on(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        crash_until_paused(running)
        assert running.obey("scale", executors=1)["ok"]
        running.wait_for(event="pool.resumed", actor="executor-2")
        running.wait_for(said="resume", child="claimer")
        assert running.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_during_the_pause(tmp_path: Path, number: signal.Signals) -> None:
    with service(tmp_path, probe_interval_s=0.01) as running:
        crash_until_paused(running)
        running.wait_for(event="pool.probed")
        assert running.stop(number) == 0
        assert not running.seen(said="resume")


@pytest.mark.long
def test_nobody_is_told_to_claim_again_while_a_paused_service_drains(tmp_path: Path) -> None:
    specs = [*executors(1), child("claimer", "--stop", "drain:5.5", links=["executor"], drains=True)]
    with Service(*specs, folder=tmp_path, **{**LIMITS, "shutdown_timeout_s": 20.0}) as running:
        crash_until_paused(running)
        running.wait_for(event="actor.ready", actor="executor-1", incarnation=4)  # the probe, which stays up
        running.send(signal.SIGTERM)
        running.wait_for(said="stop", child="claimer")
        assert running.wait_exit() == 0
        assert not running.seen(said="resume")
        assert not running.seen(event="pool.resumed")


def test_resume_by_an_operator_does_not_end_the_pause(tmp_path: Path) -> None:
    with service(tmp_path, probe_interval_s=60.0) as running:
        crash_until_paused(running)
        assert running.obey("resume")["text"].startswith("not resumed: executor ended 3 times")
        assert running.obey("drain")["ok"]
        assert running.obey("resume")["text"].startswith("still claiming nothing: executor ended 3 times")
        assert running.status()["phase"] == "paused"
        assert not running.seen(said="resume")
        assert running.stop() == 0
