"""A reload with real processes: all or nothing, successors first, and whatever comes in between."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from capacity import lowest
from service_harness import Service, child, executors, fd_count

EXECUTORS = 2


def tree(*options: str, claimer: tuple[str, ...] = (), heartbeat: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Like a real service; `options` are the executors'."""
    return [
        child("heartbeat", *heartbeat),
        child("gateway", critical=False),
        *executors(EXECUTORS, *options),
        child("claimer", *claimer, links=["executor"], drains=True),
    ]


def service(folder: Path, *options: str, claimer: tuple[str, ...] = (), **settings: Any) -> Service:
    return Service(*tree(*options, claimer=claimer), folder=folder, **settings)


def pids(service: Service) -> dict[str, int]:
    return {name: actor["pid"] for name, actor in service.actors().items() if actor["pid"] is not None}


# ---- one that goes well


def test_successors_are_ready_before_the_old_ones_are_told_to_retire(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.plan(version=2, changes=["log_level: info -> debug"])
        done = running.obey("reload")
        assert (done["ok"], done["text"]) == (True, "log_level: info -> debug")
        for old in ("executor-1", "executor-2"):
            running.wait_for(event="actor.stopped", actor=old, exit_code=0)
            (retiring,) = running.seen(event="actor.retiring", actor=old)
            assert retiring["reason"] == "reload"
            ready = [line["actor"] for line in running.before(retiring) if line.get("event") == "actor.ready"]
            assert {"executor-3", "executor-4"} <= set(ready)
        assert lowest(running) == EXECUTORS
        assert running.seen(event="service.reload_finished", changes=["log_level: info -> debug"])
        assert set(running.actors()) == {"heartbeat", "gateway", "executor-3", "executor-4", "claimer"}
        assert running.stop() == 0


def test_the_claimer_is_linked_with_the_new_before_it_is_told_once_of_each_old_one(tmp_path: Path) -> None:
    with service(tmp_path, shutdown_timeout_s=7.0, cancel_grace_s=3.0) as running:
        running.wait_ready()
        assert running.obey("reload")["ok"]
        for old in ("executor-1", "executor-2"):
            running.wait_for(event="actor.stopped", actor=old)
            (told,) = running.seen(said="peer_retiring", child="claimer", peer=old)
            assert (told["peer_incarnation"], told["grace_s"]) == (1, 3.0)
            assert 6.0 < told["drain_s"] <= 7.0
            linked = [line["peer"] for line in running.before(told) if line.get("said") == "link" and line["child"] == "claimer"]
            assert linked.count("executor-3") == linked.count("executor-4") == 1
        assert running.stop() == 0
        assert not running.seen(said="link", child="executor-1", peer="executor-3")


def test_the_others_take_the_new_settings_while_they_run(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        before = pids(running)
        running.plan(version=2)
        assert running.obey("reload")["text"] == "no setting changed; the code was loaded anew"
        for name in ("heartbeat", "gateway", "claimer"):
            running.wait_for(said="reload", child=name, version=2)
        after = pids(running)
        assert [after[name] for name in ("heartbeat", "gateway", "claimer")] == [
            before[name] for name in ("heartbeat", "gateway", "claimer")
        ]
        assert len(running.seen(said="reload")) == 3, "one each, and executors are replaced instead"
        assert running.seen(message="applied", version=2)
        assert running.stop() == 0


def test_restarted_later_a_child_has_the_new_spec(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.plan(*tree(heartbeat=("--facts",)))
        assert running.obey("reload")["ok"]
        running.kill("heartbeat")
        running.wait_for(said="facts", child="heartbeat", incarnation=2)
        assert running.stop() == 0


def test_a_reload_brings_the_number_of_executors_back_to_the_configured_one(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.plan(child("heartbeat"), *executors(1), child("claimer", links=["executor"], drains=True))
        assert running.obey("reload")["ok"]
        assert running.status()["executors_wanted"] == running.status()["executors_ready"] == 1
        assert running.stop() == 0


def test_an_idle_service_takes_the_supervisions_own_new_settings(tmp_path: Path) -> None:
    with service(tmp_path, claimer=("--mute",), ping_interval_s=60.0) as running:
        running.wait_ready()
        running.plan(*tree(claimer=("--mute",)), ping_interval_s=0.05, ping_timeout_s=0.1)
        assert running.obey("reload")["ok"]
        running.kill("claimer")  # its pings follow the interval from its next start on
        running.wait_for(event="actor.hung", actor="claimer", incarnation=2)
        assert running.stop() == 0


# ---- children that cannot take the new settings while they run


def test_an_actor_that_cannot_change_while_it_runs_leaves_and_comes_back_with_the_new_spec(tmp_path: Path) -> None:
    with service(tmp_path, max_restarts=0) as running:
        running.wait_ready()
        specs = tree()
        specs[1] = child("gateway", "--facts", critical=False)
        running.plan(*specs, replace=["gateway"], version=2)
        assert running.obey("reload")["ok"]
        assert running.seen(said="leave", child="gateway", incarnation=1)
        assert running.seen(event="actor.ready", actor="gateway", incarnation=2), "done before it was ready again"
        assert running.seen(said="facts", child="gateway", incarnation=2)
        assert running.seen(event="actor.stopped", actor="gateway", exit_code=0)
        assert not running.seen(said="reload", child="gateway")
        assert running.actors()["gateway"]["restarts"] == 0
        assert running.stop() == 0


def test_one_that_does_not_leave_is_killed_and_replaced(tmp_path: Path) -> None:
    specs = tree()
    specs[1] = child("gateway", "--leave", "ignore", critical=False, shutdown_s=0.3)
    with Service(*specs, folder=tmp_path) as running:
        running.wait_ready()
        running.wait_for(event="actor.ready", actor="gateway")
        running.plan(replace=["gateway"])
        assert running.obey("reload")["ok"]
        assert running.seen(event="actor.killed", actor="gateway", reason="reload")
        assert running.seen(event="actor.ready", actor="gateway", incarnation=2)
        assert running.stop() == 0


def test_the_ready_of_one_that_was_told_to_leave_is_not_taken_for_its_successors(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.kill("gateway")
        os.kill(running.pid("gateway", 2), signal.SIGSTOP)  # it boots, and is not ready yet
        running.plan(replace=["gateway"])
        asked = running.command("reload")
        running.wait_for(event="actor.replaced", actor="gateway")
        os.kill(running.pid("gateway", 2), signal.SIGCONT)
        assert asked.done()["ok"]
        assert running.seen(event="actor.ready", actor="gateway", incarnation=3), "the old one's Ready was taken for it"
        assert running.stop() == 0


def test_one_that_cannot_boot_with_its_new_settings_is_told_and_all_else_applies(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        specs = tree()
        specs[1] = child("gateway", "--boot", "exit:3", critical=False)
        running.plan(*specs, replace=["gateway"], version=2)
        done = running.obey("reload")
        assert (done["ok"], "code" in done) == (False, False)
        assert "gateway ended with exit code 3" in done["text"]
        assert "all else works by the new configuration" in done["text"]
        assert "nothing was changed" not in done["text"]
        running.wait_for(said="reload", child="claimer", version=2)
        assert {"executor-3", "executor-4"} <= set(running.actors())
        running.plan(replace=["gateway"], version=3)
        assert running.obey("reload")["ok"], "a following good one works"
        running.wait_for(event="actor.ready", actor="gateway")
        assert running.stop() == 0


# ---- reloads that fail


FAILURES = {
    "error": ({"check": "error:worker_pool_size: must be at least 1"}, "worker_pool_size: must be at least 1", 78),
    "crash": ({"check": "crash"}, "ended by SIGSEGV", 78),
    "exit": ({"check": "exit:3"}, "ended with exit code 3", 78),
    "silent": ({"check": "exit:0"}, "ended with exit code 0", 78),
    "hang": ({"check": "hang"}, "not done within start_timeout, 2 s", 78),
    "refused": ({"refuse": "only a restart can change database_url"}, "only a restart can change database_url", 78),
    "never_ready": ({"options": ("--boot", "hang", "--only", "executor-4"), "start_timeout_s": 0.5}, "(start_timeout)", 1),
    "boot": ({"options": ("--boot", "exit:5", "--only", "executor-3")}, "executor-3 ended with exit code 5", 1),
    "late_crash": (
        {"options": ("--end", "6", "--only", "executor-3"), "late": ("--ready-after", "60")},
        "executor-3 ended with exit code 6",
        1,
    ),
    "no_program": ({"argv": ["/nowhere/python"]}, "/nowhere/python", 1),
}


def failing(running: Service, plan: dict[str, Any]) -> None:
    specs = tree(*plan.get("options", ()))
    for index in (2, 3):
        specs[index]["start_timeout_s"] = plan.get("start_timeout_s", 60.0)
    if "late" in plan:
        specs[3] = {**specs[3], "argv": [*specs[3]["argv"], *plan["late"]]}
    if "argv" in plan:
        specs[2]["argv"] = plan["argv"]
    running.plan(*specs, check=plan.get("check", "ok"), refuse=plan.get("refuse", ""), version=2, ping_interval_s=0.01)


@pytest.mark.parametrize("kind", FAILURES)
def test_a_reload_that_fails_changes_nothing_says_why_and_can_be_tried_again(tmp_path: Path, kind: str) -> None:
    plan, why, code = FAILURES[kind]
    with service(tmp_path, ping_interval_s=60.0, check_timeout_s=2.0 if kind == "hang" else 15.0) as running:
        running.wait_ready()
        running.wait_for(event="actor.ready", actor="gateway")
        before = pids(running)
        failing(running, plan)
        done = running.obey("reload")
        assert (done["ok"], done["code"]) == (False, code)
        assert done["text"].startswith("nothing was changed: ")
        assert why in done["text"]
        (failed,) = running.seen(event="service.reload_failed", level="ERROR")
        assert failed["reason"] == done["text"]
        status = running.status()
        assert (status["phase"], status["last_reload_ok"], status["last_reload"]) == ("ready", False, done["text"])
        for line in running.seen(event="actor.starting"):
            if line["actor"] in ("executor-3", "executor-4"):
                assert not running.seen(said="link", peer=line["actor"]), "linked before its batch was complete"
        assert not running.seen(said="reload")
        assert not running.seen(message="applied")
        running.plan(version=3)
        assert running.obey("reload")["ok"]
        running.wait_for(said="reload", child="claimer", version=3)
        now = pids(running)
        assert [now[name] for name in ("heartbeat", "gateway", "claimer")] == [
            before[name] for name in ("heartbeat", "gateway", "claimer")
        ]
        retired = {(line["actor"], line["incarnation"]) for line in running.seen(event="actor.retiring")}
        assert retired == {("executor-1", 1), ("executor-2", 1)}, "the same executors had gone on"
        assert lowest(running) == EXECUTORS
        assert running.stop() == 0


def test_a_service_without_a_configuration_says_that_it_cannot_be_reloaded() -> None:
    with Service(*tree()) as running:
        running.wait_ready()
        running.send(signal.SIGHUP)
        assert "without a configuration" in running.wait_for(event="service.reload_failed")["reason"]
        assert running.stop() == 0


@pytest.mark.parametrize("kind", ["lingering", "twice"])
def test_only_the_first_word_of_a_check_counts_and_it_may_not_stay(tmp_path: Path, kind: str) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.plan(check=kind)
        assert running.obey("reload")["ok"]
        assert "check" not in running.actors()
        assert not running.seen(event="actor.boot_failed", actor="check"), "it had done its work"
        assert running.stop() == 0


# ---- what comes in between


def test_two_hups_during_a_reload_are_one_more_reload_afterwards(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.plan(check="slow:0.4")
        running.send(signal.SIGHUP)
        running.wait_for(said="check")
        running.send(signal.SIGHUP)
        running.wait_for(event="signal.received", signal="SIGHUP", count=2)
        running.send(signal.SIGHUP)
        running.wait_for(event="signal.received", signal="SIGHUP", count=3)
        asked = running.command("reload")
        running.wait_for(event="service.reload_finished", count=2)
        assert asked.done()["ok"], "whoever asks meanwhile shares the second one"
        running.wait_for(event="actor.stopped", actor="executor-4")
        assert len(running.seen(event="service.reload_started")) == 2
        assert lowest(running) == EXECUTORS
        assert running.stop() == 0


def test_a_hup_during_the_start_is_obeyed_when_the_service_is_ready(tmp_path: Path) -> None:
    with service(tmp_path, claimer=("--ready-after", "0.3")) as running:
        running.wait_for(event="actor.starting", actor="claimer")
        running.send(signal.SIGHUP)
        running.wait_for(event="service.reload_finished")
        assert running.seen(event="service.ready")[0] in running.before(running.seen(event="service.reload_started")[0])
        assert running.stop() == 0


STOPPING_POINTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "check_starting": ({"event": "actor.starting", "actor": "check"}, {"check": "slow:5"}),
    "check_running": ({"said": "check"}, {"check": "hang"}),
    "check_done": ({"said": "check"}, {"check": "lingering"}),
    "successors_starting": ({"event": "actor.starting", "actor": "executor-3"}, {}),
    "successors_hanging": ({"event": "actor.starting", "actor": "executor-4"}, {"options": ("--boot", "hang")}),
    "one_ready": ({"event": "actor.ready", "actor": "executor-3"}, {"options": ("--boot", "hang", "--only", "executor-4")}),
    "retiring": ({"event": "actor.retiring", "actor": "executor-1"}, {}),
    "dismissed": ({"said": "stop", "child": "executor-1"}, {}),
    "replacing": ({"said": "leave", "child": "gateway"}, {"replace": ["gateway"]}),
}


@pytest.mark.parametrize("point", STOPPING_POINTS)
def test_term_in_every_phase_of_a_reload_ends_with_0_and_leaves_nobody(tmp_path: Path, point: str) -> None:
    line, plan = STOPPING_POINTS[point]
    claimer = ("--release", "0.3", "--stop", "drain:0.1")
    specs = tree(claimer=claimer)
    with Service(*specs, folder=tmp_path) as running:
        running.wait_ready()
        running.wait_for(event="actor.ready", actor="gateway")
        new = [{**spec, "shutdown_s": 0.3} for spec in tree(*plan.get("options", ()), claimer=claimer)]
        running.plan(*new, check=plan.get("check", "ok"), replace=plan.get("replace", ()))
        asked = running.command("reload")
        running.wait_for(**line)
        assert running.stop() == 0  # looks for processes left, too
        if point not in ("retiring", "dismissed", "check_done"):
            assert asked.done()["text"] == "the service is stopping"
        assert asked.done()["reply"] == "done"
        assert not running.seen(event="service.stopped", exit_code=1)


def test_a_stop_does_not_wait_for_a_check_that_hangs(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.plan(check="hang")
        running.command("reload")
        running.wait_for(said="check")
        assert running.stop() == 0
        (stopping,) = running.seen(event="service.stopping")
        assert running.seen(event="actor.killed", actor="check", reason="stop")[0] in running.before(stopping)


def test_an_executor_that_crashes_during_a_reload_does_not_disturb_it(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.plan(check="slow:0.3")
        asked = running.command("reload")
        running.wait_for(said="check")
        running.kill("executor-1")
        assert asked.done()["ok"]
        running.wait_for(event="actor.retiring", actor="executor-1")
        running.wait_for(event="actor.stopped", actor="executor-2")
        assert {name for name, actor in running.actors().items() if actor["state"] == "ready"} >= {"executor-3", "executor-4"}
        assert running.stop() == 0


def test_an_old_executor_that_waits_for_its_restart_is_not_started_again(tmp_path: Path) -> None:
    settings = {"restart_backoff_s": 60.0, "restart_backoff_max_s": 60.0}
    with service(tmp_path, "--boot", "exit:1", "--boot-from", "2", "--only", "executor-1", **settings) as running:
        running.wait_ready()
        running.kill("executor-1")
        running.wait_for(event="actor.boot_failed", actor="executor-1")
        running.plan(*tree())
        assert running.obey("reload")["ok"]
        assert "executor-1" not in running.actors()
        assert running.stop() == 0
        assert len(running.seen(event="actor.starting", actor="executor-1")) == 2


def test_a_claimer_that_crashes_while_an_old_executor_retires_is_told_again(tmp_path: Path) -> None:
    with service(tmp_path, claimer=("--release-from", "2"), shutdown_timeout_s=20.0) as running:
        running.wait_ready()
        assert running.obey("reload")["ok"]
        running.wait_for(said="peer_retiring", child="claimer", incarnation=1, count=2)
        assert running.actors()["executor-1"]["state"] == "retiring"
        running.kill("claimer")
        again = running.wait_for(said="peer_retiring", child="claimer", incarnation=2, peer="executor-1")
        linked = {line["peer"] for line in running.before(again) if (line.get("said"), line.get("incarnation")) == ("link", 2)}
        assert "executor-1" in linked, "it has to ask the old one what it holds"
        assert again["drain_s"] < 20.0
        for old in ("executor-1", "executor-2"):
            running.wait_for(event="actor.stopped", actor=old, exit_code=0)
        assert len(running.seen(said="peer_retiring", incarnation=2)) == 2
        assert running.stop() == 0


def test_an_old_executor_that_dies_while_it_retires_is_not_started_again(tmp_path: Path) -> None:
    with service(tmp_path, claimer=("--release", "never"), shutdown_timeout_s=20.0) as running:
        running.wait_ready()
        assert running.obey("reload")["ok"]
        running.wait_for(event="actor.retiring", actor="executor-1")
        running.kill("executor-1")
        running.wait_for(said="peer_died", child="claimer", peer="executor-1")
        assert "executor-1" not in running.actors()
        assert running.stop() == 0
        assert len(running.seen(event="actor.starting", actor="executor-1")) == 1


def test_an_old_executor_that_is_never_released_is_killed_when_its_time_is_up(tmp_path: Path) -> None:
    with service(tmp_path, claimer=("--release", "never"), shutdown_timeout_s=0.2, cancel_grace_s=0.1) as running:
        running.wait_ready()
        assert running.obey("reload")["ok"], "the command does not wait for the old ones"
        (retiring,) = running.seen(event="actor.retiring", actor="executor-1")
        killed = running.wait_for(event="actor.killed", actor="executor-1", reason="retired")
        assert 2.2 < killed["at_s"] - retiring["at_s"] < 3.5  # 2 s are the claimer's to be late by
        running.wait_for(event="actor.killed", actor="executor-2")
        assert running.stop() == 0


def test_an_old_executor_that_ignores_its_stop_is_killed(tmp_path: Path) -> None:
    specs = tree("--stop", "ignore")
    for index in (2, 3):
        specs[index]["shutdown_s"] = 0.2
    with Service(*specs, folder=tmp_path) as running:
        running.wait_ready()
        running.plan(*tree())
        assert running.obey("reload")["ok"]
        running.wait_for(event="actor.killed", actor="executor-1", reason="retired")
        running.wait_for(event="actor.stopped", actor="executor-1", signal="SIGKILL")
        assert running.stop() == 0


def test_an_empty_configuration_of_executors_is_no_trouble(tmp_path: Path) -> None:
    with Service(child("claimer", drains=True), folder=tmp_path) as running:
        running.wait_ready()
        running.plan(child("claimer", drains=True))
        assert running.obey("reload")["ok"]
        assert running.stop() == 0


@pytest.mark.long
def test_twenty_reloads_leave_no_descriptor_no_child_and_no_name_behind(tmp_path: Path) -> None:
    specs = [
        *executors(EXECUTORS, "--table", table_bytes=64),
        child("claimer", links=["executor"], drains=True),
    ]
    with Service(*specs, folder=tmp_path) as running:
        running.wait_ready()
        assert running.obey("reload")["ok"]  # whatever is made once is made now
        running.wait_for(said="peer_died", child="claimer", count=2)
        running.wait_for(event="actor.stopped", count=3)
        before = fd_count(running.process.pid)
        for count in range(2, 21):
            assert running.obey("reload")["ok"]
            running.wait_for(event="actor.stopped", count=3 * count)  # two executors and the check
        assert set(running.actors()) == {"claimer", *_last_names(running)}
        started = [(line["actor"], line["incarnation"]) for line in running.seen(event="actor.starting")]
        assert len(started) == len(set(started)), "an incarnation was used twice"
        assert {name for name, _ in started} <= {"check", "claimer", *(f"executor-{number}" for number in range(1, 7))}
        running.wait_for(said="peer_died", child="claimer", count=40)
        running.obey("dump")  # what was said before it has been heard
        assert fd_count(running.process.pid) <= before + 1
        assert lowest(running) == EXECUTORS
        assert running.stop() == 0


def _last_names(running: Service) -> set[str]:
    return {line["actor"] for line in running.seen(event="actor.ready")[-EXECUTORS:]}
