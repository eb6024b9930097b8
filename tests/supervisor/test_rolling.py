"""Executors replaced one by one, more of them or fewer, and those that ask for their own replacement. Real processes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from capacity import lowest
from service_harness import Service, child, executors

EXECUTORS = 2


def service(folder: Path, *options: str, claimer: tuple[str, ...] = (), count: int = EXECUTORS, **settings: Any) -> Service:
    specs = [*executors(count, *options), child("claimer", *claimer, links=["executor"], drains=True)]
    return Service(*specs, folder=folder, **settings)


def ready_executors(running: Service) -> set[str]:
    return {name for name, actor in running.actors().items() if actor["state"] == "ready" and name != "claimer"}


# ---- restart


@pytest.mark.parametrize("by", ["command", "signal"])
def test_a_restart_replaces_the_executors_one_by_one_successor_first(tmp_path: Path, by: str) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        if by == "command":
            done = running.obey("restart")
            assert (done["ok"], done["text"]) == (True, "2 replaced")
        else:
            running.send(signal.SIGUSR2)
        for old in ("executor-1", "executor-2"):
            running.wait_for(event="actor.stopped", actor=old, incarnation=1)
        ready_s = running.seen(event="service.ready")[0]["at_s"]
        order = [
            (line["event"], line["actor"])
            for line in running.lines
            if line.get("event") in ("actor.ready", "actor.retiring") and line["at_s"] > ready_s
        ]
        successors = [name for event, name in order if event == "actor.ready"]
        assert order == [
            ("actor.ready", successors[0]),
            ("actor.retiring", "executor-1"),
            ("actor.ready", successors[1]),
            ("actor.retiring", "executor-2"),
        ]
        assert lowest(running) == EXECUTORS
        assert ready_executors(running) == set(successors)
        assert running.stop() == 0


def test_a_restart_tells_how_far_it_is(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        asked = running.command("restart")
        asked.done()
        assert [line["text"] for line in asked.replies] == ["1 of 2 replaced", "2 of 2 replaced", "2 replaced"]
        assert running.stop() == 0


def test_a_successor_that_does_not_start_ends_the_restart_and_says_so(tmp_path: Path) -> None:
    with service(tmp_path, "--boot", "exit:5", "--only", "executor-4", claimer=("--release", "0.5")) as running:
        running.wait_ready()
        done = running.obey("restart")
        assert not done["ok"]
        assert done["text"].startswith("1 of 2 replaced, the others go on as they were: executor-4 ended with exit code 5")
        assert running.wait_for(event="operation.failed", operation="restart", level="WARNING")["reason"] == done["text"]
        running.wait_for(event="actor.stopped", actor="executor-1")
        assert ready_executors(running) == {"executor-2", "executor-3"}
        assert lowest(running) == EXECUTORS
        assert running.stop() == 0


# ---- scale


def test_scale_up_is_done_when_the_new_ones_are_linked_and_ready(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        done = running.obey("scale", executors=4)
        assert (done["ok"], done["text"]) == (True, "4 in service")
        assert ready_executors(running) == {f"executor-{number}" for number in range(1, 5)}
        for new in ("executor-3", "executor-4"):
            running.wait_for(said="hello", child="claimer", peer=new)
        assert running.seen(event="service.scaled", executors=4)
        assert running.stop() == 0


def test_scale_down_is_done_when_the_extra_ones_have_finished_and_gone(tmp_path: Path) -> None:
    with service(tmp_path, claimer=("--release", "0.4"), count=3) as running:
        running.wait_ready()
        asked = running.command("scale", executors=1)
        assert (asked.done()["ok"], asked.done()["text"]) == (True, "1 in service")
        assert asked.took_s > 0.4
        assert asked.replies[0]["text"] == "executor-2, executor-3 finish what they run"
        assert set(running.actors()) == {"executor-1", "claimer"}
        assert not running.seen(said="peer_retiring", peer="executor-1")
        assert running.stop() == 0


def test_scaling_to_what_is_there_changes_nothing(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        assert running.obey("scale", executors=2)["text"] == "2 already"
        assert not running.seen(event="service.scaled")
        assert running.stop() == 0


def test_scaling_to_nothing_is_refused(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        done = running.obey("scale", executors=0)
        assert (done["ok"], done["code"]) == (False, 64)
        assert running.stop() == 0


def test_a_service_without_a_rolling_group_cannot_be_scaled(tmp_path: Path) -> None:
    with Service(child("claimer"), folder=tmp_path) as running:
        running.wait_ready()
        done = running.obey("scale", executors=2)
        assert (done["ok"], done["code"]) == (False, 64)
        assert running.stop() == 0


def test_ttin_and_ttou_are_one_more_and_one_fewer_and_one_always_stays(tmp_path: Path) -> None:
    with service(tmp_path, count=1) as running:
        running.wait_ready()
        running.send(signal.SIGTTIN)
        running.wait_for(event="actor.ready", actor="executor-2")
        running.send(signal.SIGTTOU)
        running.wait_for(event="actor.stopped", actor="executor-2")
        running.send(signal.SIGTTOU)
        running.wait_for(event="signal.received", signal="SIGTTOU", count=2)
        assert running.obey("scale", executors=1)["text"] == "1 already"
        assert [line["executors"] for line in running.seen(event="service.scaled")] == [2, 1]
        assert running.stop() == 0


def test_a_scale_that_fails_says_so_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    with service(tmp_path, "--boot", "exit:5", "--only", "executor-4") as running:
        running.wait_ready()
        done = running.obey("scale", executors=4)
        assert not done["ok"]
        assert done["text"].startswith("still 2 executors: executor-4 ended with exit code 5")
        running.wait_for(event="operation.failed", operation="scale")
        running.wait_for(event="actor.stopped", actor="executor-3")  # ready or not, it is not needed
        assert ready_executors(running) == {"executor-1", "executor-2"}
        assert running.stop() == 0


def test_a_scale_during_a_reload_waits_for_its_end(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        running.wait_ready()
        running.plan(check="slow:0.3")
        reload = running.command("reload")
        running.wait_for(said="check")
        scale = running.command("scale", executors=3)
        assert scale.done()["ok"]
        assert reload.done()["at_s"] <= scale.done()["at_s"]
        assert running.seen(event="service.reload_finished")[0] in running.before(running.seen(event="service.scaled")[0])
        assert len(ready_executors(running)) == 3
        assert running.stop() == 0


def test_an_operation_that_follows_a_scale_down_does_not_touch_those_that_leave(tmp_path: Path) -> None:
    with service(tmp_path, claimer=("--release", "0.5")) as running:
        running.wait_ready()
        running.plan(check="slow:0.2")
        running.command("reload")
        running.wait_for(said="check")
        scale, restart = running.command("scale", executors=1), running.command("restart")
        assert restart.done()["text"] == "1 replaced"
        assert scale.done()["ok"]
        assert running.stop() == 0


def test_those_that_are_down_are_the_first_to_leave(tmp_path: Path) -> None:
    settings = {"restart_backoff_s": 60.0, "restart_backoff_max_s": 60.0}
    with service(tmp_path, "--boot", "exit:1", "--boot-from", "2", "--only", "executor-1", **settings) as running:
        running.wait_ready()
        running.kill("executor-1")
        running.wait_for(event="actor.boot_failed", actor="executor-1")
        assert running.obey("scale", executors=1)["ok"]
        assert set(running.actors()) == {"executor-2", "claimer"}
        assert running.stop() == 0


def test_a_stop_answers_all_who_wait_for_an_operation(tmp_path: Path) -> None:
    with service(tmp_path, claimer=("--release", "never", "--stop", "drain:0.1")) as running:
        running.wait_ready()
        down = running.command("scale", executors=1)
        running.wait_for(said="peer_retiring")
        running.plan(check="hang")
        waiting = [running.command("reload")]
        running.wait_for(said="check")
        waiting += [running.command("scale", executors=3), running.command("restart")]
        running.wait_for(event="command.received", command="restart")
        assert running.stop() == 0
        for asked in (down, *waiting):
            assert (asked.done()["ok"], asked.done()["text"]) == (False, "the service is stopping")


# ---- worn out


def test_a_worn_out_executor_is_replaced_successor_first_and_once_however_often_it_asks(tmp_path: Path) -> None:
    with service(tmp_path, *("--tired", "executor-1") * 3) as running:
        retiring = running.wait_for(event="actor.retiring", actor="executor-1")
        assert retiring["reason"] == "worn out"
        assert running.seen(event="actor.ready", actor="executor-3")[0] in running.before(retiring)
        running.wait_for(event="actor.stopped", actor="executor-1")
        assert running.obey("scale", executors=2)["ok"]  # what had been asked for before has been dealt with
        assert len(running.seen(event="actor.replaced")) == len(running.seen(event="actor.retiring")) == 1
        assert ready_executors(running) == {"executor-2", "executor-3"}
        assert lowest(running) == EXECUTORS
        assert running.stop() == 0


def test_a_worn_out_executor_goes_on_when_its_successor_does_not_start(tmp_path: Path) -> None:
    tired = ("--tired", "executor-1") * 3
    with service(tmp_path, *tired, "--boot", "exit:5", "--only", "executor-3") as running:
        running.wait_for(event="actor.boot_failed", actor="executor-3")
        assert running.obey("scale", executors=2)["text"] == "2 already"
        assert ready_executors(running) == {"executor-1", "executor-2"}
        assert not running.seen(event="actor.retiring")
        assert len(running.seen(event="actor.starting", actor="executor-3")) == 1, "it is tried again later, not at once"
        assert running.stop() == 0


def test_only_one_that_has_a_successor_may_be_worn_out(tmp_path: Path) -> None:
    with service(tmp_path, claimer=("--tired", "claimer")) as running:
        running.wait_ready()
        assert running.obey("scale", executors=2)["ok"]
        assert not running.seen(event="actor.replaced")
        assert running.stop() == 0


def test_a_worn_out_executor_that_has_crashed_meanwhile_has_its_successor_already(tmp_path: Path) -> None:
    with service(tmp_path, "--tired", "executor-1", claimer=("--ready-after", "0.5")) as running:
        running.kill("executor-1")  # what it asked for waits until the service is ready
        running.wait_for(event="actor.ready", actor="executor-1", incarnation=2)
        running.wait_ready()
        assert running.obey("scale", executors=2)["ok"]
        assert not running.seen(event="actor.replaced")
        assert running.stop() == 0
