"""Claiming nothing and staying up: drain and resume by signal and by command, through deaths, reloads and the stop."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from service_harness import Service, child, executors


def service(folder: Path, *claimer: str, **settings: Any) -> Service:
    specs = [child("heartbeat"), *executors(1), child("claimer", *claimer, links=["executor"], drains=True)]
    return Service(*specs, folder=folder, **settings)


def test_tstp_makes_every_actor_quiet_and_the_service_stays_up(tmp_path: Path) -> None:
    with service(tmp_path, "--drained", "0") as running:
        running.wait_ready()
        running.send(signal.SIGTSTP)
        for name in ("heartbeat", "executor-1", "claimer"):
            running.wait_for(said="drain", child=name, why="drained by SIGTSTP")
        assert running.seen(event="service.quiet", reason="drained by SIGTSTP")
        status = running.status()
        assert (status["phase"], status["why"]) == ("quiet", "drained by SIGTSTP")
        running.send(signal.SIGTSTP)
        running.wait_for(event="signal.received", signal="SIGTSTP", count=2)
        assert running.obey("resume")["text"] == "claiming again"
        for name in ("heartbeat", "executor-1", "claimer"):
            running.wait_for(said="resume", child=name)
        assert len(running.seen(said="drain", child="claimer")) == 1, "told once"
        assert running.status()["phase"] == "ready"
        assert running.stop() == 0


def test_drain_waits_until_nothing_runs_any_more(tmp_path: Path) -> None:
    with service(tmp_path, "--drained", "0.4") as running:
        running.wait_ready()
        asked = running.command("drain")
        done = asked.done()
        assert (done["ok"], done["text"]) == (True, "claiming nothing, nothing runs")
        assert asked.took_s > 0.4
        assert asked.replies[0]["text"] == "claiming nothing more; waiting for what runs"
        assert running.command("drain").took_s < 0.4, "nothing runs any more, which is known"
        assert running.stop() == 0


def test_drain_without_waiting_is_answered_at_once(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        assert running.obey("drain", wait=False)["ok"]
        running.wait_for(said="drain", child="claimer")
        assert running.status()["phase"] == "quiet"
        assert running.stop() == 0


def test_a_drain_that_is_overtaken_by_resume_or_stop_says_so(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        overtaken = running.command("drain")
        running.wait_for(said="drain", child="claimer")
        assert running.obey("resume")["ok"]
        done = overtaken.done()
        assert (done["ok"], done["text"]) == (False, "claiming was resumed before everything had ended")
        stopped = running.command("drain")
        running.wait_for(said="drain", child="claimer", count=2)
        assert running.stop() == 0
        assert (stopped.done()["ok"], stopped.done()["text"]) == (False, "the service is stopping")


def test_a_claimer_that_starts_again_is_told_to_be_quiet_and_answers_those_who_wait(tmp_path: Path) -> None:
    with service(tmp_path, "--drained", "3600") as running:
        running.wait_ready()
        running.plan(child("heartbeat"), *executors(1), child("claimer", "--drained", "0", links=["executor"], drains=True))
        assert running.obey("reload")["ok"]  # its next incarnation answers
        asked = running.command("drain")
        running.wait_for(said="drain", child="claimer", incarnation=1)
        assert not asked.answered
        running.kill("claimer")
        assert asked.done()["ok"]
        assert running.seen(said="drain", child="claimer", incarnation=2)
        assert running.stop() == 0


def test_a_reload_of_a_quiet_service_leaves_it_quiet(tmp_path: Path) -> None:
    with service(tmp_path, "--drained", "0") as running:
        running.wait_ready()
        assert running.obey("drain")["ok"]
        assert running.obey("reload")["ok"]
        running.wait_for(said="drain", child="executor-2")
        assert running.status()["phase"] == "quiet"
        assert not running.seen(said="resume")
        assert not running.seen(said="drain", child="claimer", incarnation=1)[1:]
        assert running.stop() == 0


def test_a_quiet_service_stops_as_any_other(tmp_path: Path) -> None:
    with service(tmp_path, "--drained", "0") as running:
        running.wait_ready()
        assert running.obey("drain")["ok"]
        assert running.stop() == 0
        assert not running.seen(said="resume")
        assert running.seen(said="stop", child="claimer")


def test_resume_of_a_service_that_was_not_quiet_changes_nothing(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        done = running.obey("resume")
        assert (done["ok"], done["text"]) == (True, "was not drained: claiming goes on")
        assert running.stop() == 0
        assert not running.seen(event="service.resumed")
