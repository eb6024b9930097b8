"""Every way to stop: bounded, in order, with nothing left behind. Real processes, real signals."""

from __future__ import annotations

import os
import signal
import time

import pytest
from service_harness import Service, child

TREE = (
    child("heartbeat"),
    child("executor-1", group="executor", ping=False),
    child("executor-2", group="executor", ping=False),
    child("claimer", links=["executor"], drains=True),
)


def drainer(seconds: float, *options: str) -> dict[str, object]:
    return child("claimer", "--stop", f"drain:{seconds}", *options, drains=True, links=["executor"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_requested_stop_ends_with_0_in_reverse_start_order(number: signal.Signals) -> None:
    with Service(*TREE) as service:
        service.wait_ready()
        assert service.stop(number) == 0
        order = [line["actor"] for line in service.seen(event="actor.stopped")]
        assert (order[0], set(order[1:3]), order[3]) == ("claimer", {"executor-1", "executor-2"}, "heartbeat")
        told = {line["child"]: line["at_s"] for line in service.seen(said="stop")}
        ended = {line["actor"]: line["at_s"] for line in service.seen(event="actor.stopped")}
        assert ended["claimer"] <= told["executor-1"]
        assert max(ended["executor-1"], ended["executor-2"]) <= told["heartbeat"]


STARTING_POINTS = [
    {"event": "service.starting"},
    {"event": "actor.starting", "actor": "heartbeat"},
    {"event": "actor.ready", "actor": "heartbeat"},
    {"event": "actor.starting", "actor": "executor-2"},
    {"event": "actor.ready", "actor": "executor-1"},
    {"event": "actor.starting", "actor": "claimer"},
    {"event": "actor.ready", "actor": "claimer"},
]


@pytest.mark.parametrize("point", STARTING_POINTS, ids=lambda point: "-".join(point.values()))
def test_term_during_start_is_obeyed(point: dict[str, str]) -> None:
    with Service(*TREE) as service:
        service.wait_for(**point)
        assert service.stop() == 0


def test_term_while_a_child_hangs_in_boot_does_not_wait_for_it() -> None:
    with Service(child("heartbeat"), child("claimer", "--boot", "hang", drains=True, shutdown_s=0.3)) as service:
        service.wait_for(event="actor.starting", actor="claimer")
        started_s = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started_s < 3.0


def test_term_while_a_child_waits_for_its_restart() -> None:
    with Service(child("claimer", "--boot", "exit:1"), restart_backoff_s=60.0, restart_backoff_max_s=60.0) as service:
        service.wait_for(event="actor.restart_scheduled")
        assert service.stop() == 0


def test_the_draining_child_gets_the_whole_time_and_the_others_go_on_meanwhile() -> None:
    with Service(child("heartbeat"), child("executor"), drainer(0.7), shutdown_timeout_s=20.0, cancel_grace_s=2.0) as service:
        service.wait_ready()
        assert service.stop() == 0
        stop = service.seen(said="stop", child="claimer")[0]
        assert 19.0 < stop["drain_s"] <= 20.0
        assert stop["grace_s"] == 2.0
        (heartbeat,) = service.seen(said="stop", child="heartbeat")
        assert heartbeat["at_s"] - stop["at_s"] > 0.6


def test_all_children_are_told_at_once_to_take_no_more_work() -> None:
    slow = child("leader", "--stop", "ignore", shutdown_s=1.0)
    with Service(child("heartbeat"), child("executor"), drainer(0.2), slow, shutdown_timeout_s=20.0) as service:
        service.wait_ready()
        assert service.stop() == 0
        told = {line["child"]: line["at_s"] for line in service.seen(said="drain")}
        assert set(told) == {"heartbeat", "executor", "claimer", "leader"}
        (stop,) = service.seen(said="stop", child="claimer")
        assert stop["at_s"] - told["claimer"] > 0.8, "the claimer's turn came when the leader had used up its time"


def test_term_twice_is_the_same_as_once() -> None:
    with Service(child("executor"), drainer(1.0)) as service:
        service.wait_ready()
        service.send(signal.SIGTERM)
        service.wait_for(said="stop", child="claimer")
        service.send(signal.SIGTERM)
        service.wait_for(event="signal.ignored", signal="SIGTERM")
        service.send(signal.SIGTERM)
        assert service.wait_exit() == 0
        assert len(service.seen(said="stop", child="claimer")) == 1
        assert len(service.seen(event="signal.ignored", signal="SIGTERM")) == 1


@pytest.mark.parametrize("first, then", [(signal.SIGTERM, signal.SIGQUIT), (signal.SIGINT, signal.SIGINT)])
def test_quit_or_a_second_int_cuts_the_drain_off(first: signal.Signals, then: signal.Signals) -> None:
    with Service(child("executor"), drainer(60), shutdown_timeout_s=60.0, cancel_grace_s=3.0) as service:
        service.wait_ready()
        service.send(first)
        service.wait_for(said="stop", child="claimer")
        service.send(then)
        again = service.wait_for(said="stop", child="claimer", count=2)
        assert (again["drain_s"], again["grace_s"]) == (0.0, pytest.approx(3.0, abs=0.1))
        assert service.wait_exit() == 0


def test_quit_leaves_a_child_that_ignores_it_its_grace_and_no_more() -> None:
    with Service(child("claimer", "--stop", "ignore", drains=True), cancel_grace_s=0.5, shutdown_timeout_s=60.0) as service:
        service.wait_ready()
        started_s = time.monotonic()
        assert service.stop(signal.SIGQUIT) == 0
        assert 2.0 < time.monotonic() - started_s < 4.0  # grace + 2 s
        assert service.seen(event="drain.timeout", actor="claimer")


def test_the_third_int_kills_everything_and_exits_130() -> None:
    with Service(
        child("executor", "--stop", "ignore", "--grandchild", "group"), child("claimer", "--stop", "ignore", drains=True)
    ) as service:
        service.wait_ready()
        service.send(signal.SIGINT)
        service.wait_for(said="stop", child="claimer")
        service.send(signal.SIGINT)
        service.wait_for(said="stop", child="claimer", count=2)
        service.send(signal.SIGINT)
        assert service.wait_exit(timeout_s=3.0) == 130


@pytest.mark.long
def test_the_deadline_holds_when_every_child_ignores_stop() -> None:
    specs = [
        child("heartbeat", "--stop", "ignore", shutdown_s=60.0),
        child("executor", "--stop", "ignore", shutdown_s=60.0),
        child("claimer", "--stop", "ignore", drains=True),
    ]
    with Service(*specs, shutdown_timeout_s=0.3, cancel_grace_s=0.2) as service:
        service.wait_ready()
        started_s = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started_s < 0.3 + 0.2 + 5.0 + 1.0
        assert len(service.seen(event="actor.killed", reason="stop")) == 3


def test_a_draining_child_that_crashes_is_started_again_with_its_links_and_the_time_that_is_left() -> None:
    crashing = child("claimer", "--stop", "crash-first", drains=True, links=["executor"])
    with Service(child("executor"), crashing, shutdown_timeout_s=20.0) as service:
        service.wait_ready()
        assert service.stop() == 0
        first, second = service.seen(said="stop", child="claimer")
        assert (first["incarnation"], second["incarnation"]) == (1, 2)
        assert second["drain_s"] < first["drain_s"]
        assert service.seen(said="link", child="claimer", incarnation=2, peer="executor")


def test_a_child_that_the_drain_relies_on_is_started_again_during_it() -> None:
    heartbeat = child("heartbeat", during_drain=True)
    with Service(heartbeat, child("executor"), drainer(1.5), shutdown_timeout_s=20.0) as service:
        service.wait_ready()
        service.send(signal.SIGTERM)
        service.wait_for(said="stop", child="claimer")
        service.kill("heartbeat")
        service.wait_for(event="actor.ready", actor="heartbeat", incarnation=2)
        assert not service.seen(said="stop", child="heartbeat")
        assert service.wait_exit() == 0
        assert service.seen(said="stop", child="heartbeat", incarnation=2)


def test_a_child_that_waits_for_its_restart_when_its_turn_to_stop_comes_stays_down() -> None:
    heartbeat = child("heartbeat", during_drain=True)
    settings = {"restart_backoff_s": 60.0, "restart_backoff_max_s": 60.0, "shutdown_timeout_s": 20.0}
    with Service(heartbeat, child("executor"), drainer(2.0), **settings) as service:
        service.wait_ready()
        service.send(signal.SIGTERM)
        service.wait_for(said="stop", child="claimer")
        service.kill("heartbeat")
        service.wait_for(event="actor.ready", actor="heartbeat", incarnation=2)
        service.kill("heartbeat", 2)  # the second crash in a row waits for a minute
        assert service.wait_exit() == 0


def test_other_children_that_crash_in_a_drain_stay_down() -> None:
    with Service(child("executor"), drainer(1.5)) as service:
        service.wait_ready()
        service.send(signal.SIGTERM)
        service.wait_for(said="stop", child="claimer")
        os.kill(service.pid("executor"), signal.SIGKILL)
        service.wait_for(said="peer_died", child="claimer", peer="executor")
        assert service.wait_exit() == 0
        assert len(service.seen(event="actor.starting", actor="executor")) == 1


def test_signals_without_meaning_are_ignored_and_said_so() -> None:
    ignored = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR)
    with Service(child("claimer")) as service:
        service.wait_ready()
        for number in (signal.SIGCONT, *ignored, signal.SIGWINCH, signal.SIGPIPE):
            service.send(number)
        for number in ignored:
            service.wait_for(event="signal.ignored", signal=number.name)
        service.send(signal.SIGUSR1)
        service.wait_for(event="actor.state", actor="claimer", state="ready")
        service.wait_for(said="dump", child="claimer")
        assert service.stop() == 0


def test_a_signal_to_the_whole_tree_does_not_disturb_the_order() -> None:
    with Service(*TREE) as service:
        service.wait_ready()
        for pid in service.pids():
            os.kill(pid, signal.SIGTERM)
        assert service.stop() == 0
        assert not service.seen(event="actor.crashed")


def test_when_the_supervisor_is_killed_its_children_see_the_end_of_their_control_link() -> None:
    with Service(*TREE) as service:
        service.wait_ready()
        service.process.kill()
        assert service.wait_exit() == -signal.SIGKILL  # looks for processes left, once stderr has no writer any more
