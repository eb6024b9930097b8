"""What happens when children crash, hang, cannot boot or are replaced: with real processes."""

from __future__ import annotations

import signal

import pytest
from service_harness import PATIENCE_S, Service, child, fd_count, wait_gone


def test_children_start_in_order_and_the_service_is_ready_when_all_critical_ones_are() -> None:
    with Service(
        child("heartbeat"), child("executor-1", group="executor"), child("executor-2", group="executor"), child("claimer")
    ) as service:
        service.wait_ready()
        at = {
            name: service.seen(event="actor.starting", actor=name)[0]["at_s"] for name in ("heartbeat", "executor-1", "claimer")
        }
        ready = {line["actor"]: line["at_s"] for line in service.seen(event="actor.ready")}
        assert ready["heartbeat"] <= at["executor-1"]
        assert max(ready["executor-1"], ready["executor-2"]) <= at["claimer"]
        assert service.stop() == 0


def test_a_child_that_is_not_critical_holds_up_nobody() -> None:
    gateway = child("gateway", "--boot", "hang", critical=False, start_timeout_s=3600, shutdown_s=0.1)
    with Service(gateway, child("claimer")) as service:
        service.wait_ready()
        assert not service.seen(event="actor.ready", actor="gateway")
        assert service.stop() == 0


def test_killed_child_is_replaced_and_its_end_is_recorded() -> None:
    with Service(child("claimer")) as service:
        service.wait_ready()
        service.kill("claimer")
        crash = service.wait_for(event="actor.crashed", actor="claimer")
        assert (crash["signal"], crash["exit_code"], crash["incarnation"]) == ("SIGKILL", None, 1)
        assert crash["peak_rss_kib"] > 1000
        assert crash["uptime_s"] > 0
        assert service.wait_for(event="actor.restart_scheduled")["delay_s"] == 0
        service.wait_for(event="actor.ready", actor="claimer", incarnation=2)
        assert service.stop() == 0


def test_an_unasked_end_with_0_is_a_crash_of_a_permanent_child_and_the_end_of_the_others() -> None:
    specs = (
        child("temporary", "--end", "1", restart="temporary"),
        child("transient", "--end", "0", restart="transient"),
        child("permanent", "--end", "0"),
    )
    with Service(*specs, max_restarts=2) as service:
        assert service.wait_exit() == 70
        assert len(service.seen(event="actor.starting", actor="temporary")) == 1
        assert len(service.seen(event="actor.starting", actor="transient")) == 1
        assert len(service.seen(event="actor.crashed", actor="permanent", exit_code=0)) == 3


def test_past_its_restart_budget_the_whole_service_gives_up_with_70() -> None:
    with Service(child("heartbeat"), child("claimer", "--end", "3"), max_restarts=3) as service:
        assert service.wait_exit() == 70
        assert len(service.seen(event="actor.starting", actor="claimer")) == 4
        assert "claimer ended 4 times" in service.seen(event="supervisor.intensity_exceeded")[0]["message"]
        assert service.seen(event="actor.stopped", actor="heartbeat")


def test_past_its_restart_budget_a_child_that_is_not_critical_stays_down_and_is_tried_again_later() -> None:
    with Service(
        child("gateway", "--end", "3", critical=False), child("claimer"), max_restarts=1, restart_period_s=1.0
    ) as service:
        service.wait_for(event="actor.restart_scheduled", actor="gateway", delay_s=1.0)
        service.wait_for(event="actor.starting", actor="gateway", incarnation=3)
        assert service.stop() == 0


def test_a_group_shares_one_budget() -> None:
    specs = [child(f"executor-{n}", "--end", "3", group="executor") for n in (1, 2, 3)]
    with Service(*specs, max_restarts=3) as service:
        assert service.wait_exit() == 70
        assert len(service.seen(event="actor.crashed")) >= 4


@pytest.mark.parametrize("code", [64, 75, 78])
def test_a_child_that_cannot_boot_stops_the_service_with_its_exit_code(code: int) -> None:
    with Service(child("heartbeat"), child("claimer", "--boot", f"exit:{code}")) as service:
        assert service.wait_exit() == code
        assert len(service.seen(event="actor.boot_failed", actor="claimer", exit_code=code)) == 1


def test_three_boot_failures_of_a_group_that_never_was_ready_end_the_service_with_70() -> None:
    with Service(child("claimer", "--boot", "exit:1")) as service:
        assert service.wait_exit() == 70
        assert len(service.seen(event="actor.boot_failed")) == 3


def test_boot_failures_after_the_service_was_ready_are_retried() -> None:
    with Service(
        child("claimer", "--boot", "exit:78", "--boot-from", "2", "--boot-until", "5"), restart_backoff_s=0.01
    ) as service:
        service.wait_ready()
        service.kill("claimer")
        service.wait_for(event="actor.ready", actor="claimer", incarnation=6)
        assert len(service.seen(event="actor.boot_failed", exit_code=78)) == 4
        assert service.stop() == 0


def test_a_command_that_does_not_exist_is_a_boot_failure_that_says_so() -> None:
    with Service({"name": "claimer", "argv": ["/nowhere/python"]}) as service:
        assert service.wait_exit() == 70
        assert "/nowhere/python" in service.seen(event="actor.boot_failed")[0]["reason"]


def test_a_child_that_hangs_in_boot_is_dumped_killed_and_counted_as_a_boot_failure() -> None:
    with Service(child("claimer", "--boot", "hang", "--boot-until", "1", start_timeout_s=1.0)) as service:
        failed = service.wait_for(event="actor.boot_failed")
        assert (failed["reason"], failed["signal"]) == ("start_timeout", "SIGABRT")
        service.wait_ready()
        assert service.stop() == 0
        assert any("child_script.py" in line for line in service.raw), "no dump of its stacks"


def test_a_child_that_answers_no_ping_is_dumped_killed_and_replaced() -> None:
    with Service(child("claimer", "--mute"), ping_interval_s=0.1, ping_timeout_s=0.3) as service:
        service.wait_for(event="actor.hung", actor="claimer")
        assert service.wait_for(event="actor.crashed", actor="claimer")["reason"] == "hung"
        service.wait_for(event="actor.ready", incarnation=2)
        assert service.stop() == 0


def test_a_stopped_process_is_killed_by_its_ping_as_sigabrt_does_not_reach_it() -> None:
    with Service(child("claimer"), ping_interval_s=0.1, ping_timeout_s=0.3) as service:
        service.wait_ready()
        service.kill("claimer", number=signal.SIGSTOP)
        assert service.wait_for(event="actor.crashed", actor="claimer")["signal"] == "SIGKILL"
        service.wait_for(event="actor.ready", incarnation=2)
        assert service.stop() == 0


def test_a_busy_child_without_ping_is_left_alone() -> None:
    with Service(child("executor", "--mute", ping=False), child("claimer"), ping_interval_s=0.05, ping_timeout_s=0.2) as service:
        service.wait_ready()
        service.kill("claimer")
        service.wait_for(event="actor.ready", actor="claimer", incarnation=2)
        service.kill("claimer", 2, signal.SIGSTOP)  # a hang that is noticed, so the limit has passed for the executor, too
        service.wait_for(event="actor.ready", actor="claimer", incarnation=3)
        assert service.stop() == 0
        assert not service.seen(event="actor.hung", actor="executor")


def test_a_late_supervisor_blames_nobody() -> None:
    with Service(child("claimer", "--mute"), ping_interval_s=0.1, ping_timeout_s=1.0) as service:
        service.wait_for(said="ping")
        service.send(signal.SIGSTOP)
        with pytest.raises(AssertionError):
            service.wait_for(event="actor.hung", timeout_s=2.3)  # far past the ping's limit
        service.send(signal.SIGCONT)
        service.send(signal.SIGUSR1)
        service.wait_for(event="actor.state")
        assert service.stop() == 0
        assert not service.seen(event="actor.hung")


def test_a_child_that_closes_its_control_link_and_lives_on_is_killed() -> None:
    with Service(child("claimer", "--hang-up"), max_restarts=0) as service:
        assert service.wait_exit() == 70
        assert service.seen(event="actor.crashed", actor="claimer", reason="closed its control link", signal="SIGKILL")


def test_what_a_child_says_last_is_heard_although_it_has_read_nothing_of_ours() -> None:
    executor = child("executor", "--end", "7", "--end-until", "2", ping=False)
    with Service(executor, child("claimer", links=["executor"])) as service:
        service.wait_for(said="link", child="claimer", peer_incarnation=2)
        pid = service.pid("executor", 2)  # its own end of the link waits for it, unread
        service.send(signal.SIGSTOP)
        wait_gone([pid], PATIENCE_S)
        service.send(signal.SIGCONT)
        service.wait_for(event="actor.crashed", actor="executor", incarnation=2)
        assert service.seen(event="actor.ready", actor="executor", incarnation=2)
        service.wait_ready()
        assert service.stop() == 0


def test_a_child_that_talks_nonsense_is_killed() -> None:
    with Service(child("claimer", "--nonsense"), max_restarts=0) as service:
        assert service.wait_exit() == 70
        (crash,) = service.seen(event="actor.crashed", actor="claimer")
        assert crash["reason"].startswith("control link broken")


def test_grandchildren_go_with_their_child() -> None:
    with Service(child("executor", "--grandchild", "group")) as service:
        service.wait_ready()
        grandchild = service.wait_for(said="grandchild")["pid"]
        service.kill("executor")
        service.wait_for(event="orphan.reaped", orphan_pid=grandchild)
        assert service.stop() == 0


def test_a_grandchild_that_left_the_process_group_does_not_outlive_the_service() -> None:
    with Service(child("executor", "--grandchild", "escaped")) as service:
        service.wait_ready()
        grandchild = service.wait_for(said="grandchild")["pid"]
        assert service.stop() == 0  # looks for processes left, too
        assert service.seen(event="orphan.reaped", orphan_pid=grandchild)


def test_replace_kills_the_peer_at_once_and_costs_no_restart() -> None:
    specs = (child("executor", ping=False), child("claimer", "--replace", "executor", links=["executor"]))
    with Service(*specs, max_restarts=0) as service:
        died = service.wait_for(said="peer_died", child="claimer")
        assert (died["peer"], died["peer_incarnation"], died["reason"], died["signal"]) == ("executor", 1, "timeout", "SIGKILL")
        service.wait_for(event="actor.ready", actor="executor", incarnation=2)
        assert service.stop() == 0


def test_only_a_linked_peer_may_ask_for_a_replacement() -> None:
    with Service(child("executor"), child("gateway", "--meddle", "executor")) as service:
        service.wait_for(event="actor.state", level="WARNING", actor="gateway")
        assert service.stop() == 0
        assert len(service.seen(event="actor.starting", actor="executor")) == 1


def test_two_hundred_restarts_cost_no_descriptor() -> None:
    specs = (child("executor", "--table", table_bytes=64, ping=False), child("claimer", links=["executor"]))
    with Service(*specs, max_restarts=1000, restart_backoff_s=0.0) as service:
        service.wait_ready()
        service.wait_for(said="hello", child="claimer", peer_incarnation=1)
        before = fd_count(service.process.pid)
        for incarnation in range(1, 201):
            service.wait_for(event="actor.starting", actor="executor", incarnation=incarnation)
            service.kill_started("executor", incarnation)
        service.wait_for(event="actor.ready", actor="executor", incarnation=201)
        service.wait_for(said="peer_died", child="claimer", peer_incarnation=200)
        service.send(signal.SIGUSR1)
        service.wait_for(said="dump", child="claimer")  # what it had said before has been heard
        assert fd_count(service.process.pid) <= before + 1
        assert service.stop() == 0
