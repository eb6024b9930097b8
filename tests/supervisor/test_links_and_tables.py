"""Links are made again, deaths are told until they are buried: with real processes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess

import pytest
from service_harness import Service, child

from shiftboss import control
from shiftboss.supervisor.child import Process

EXECUTOR = child("executor", "--table", group="executors", ping=False, table_bytes=256)


def claimer(*options: str, **spec: object) -> dict[str, object]:
    return child("claimer", *options, links=["executors"], **spec)


def test_both_ends_of_a_link_talk_and_only_the_peer_gets_the_table() -> None:
    with Service(EXECUTOR, claimer()) as service:
        assert service.wait_for(said="hello", child="claimer")["text"] == "executor 1"
        assert service.wait_for(said="hello", child="executor")["text"] == "claimer 1"
        assert service.wait_for(said="link", child="claimer", peer="executor")["table"] == "executor 1"
        assert service.wait_for(said="link", child="executor", peer="claimer")["table"] is None
        assert service.stop() == 0


def test_a_link_is_made_again_when_either_side_is_restarted_and_the_old_one_ends() -> None:
    with Service(EXECUTOR, claimer()) as service:
        service.wait_for(said="hello", child="claimer", text="executor 1")
        service.kill("executor")
        service.wait_for(said="link_end", child="claimer", peer_incarnation=1)
        service.wait_for(said="hello", child="claimer", incarnation=1, text="executor 2")
        service.kill("claimer")
        service.wait_for(said="link_end", child="executor", incarnation=2, peer_incarnation=1)
        service.wait_for(said="hello", child="executor", incarnation=2, text="claimer 2")
        service.wait_for(said="hello", child="claimer", incarnation=2, text="executor 2")
        assert service.stop() == 0


def test_children_of_one_group_linked_to_each_other_do_not_link_to_themselves() -> None:
    specs = [child(f"executor-{n}", group="executors", links=["executors"]) for n in (1, 2)]
    with Service(*specs) as service:
        service.wait_for(said="hello", child="executor-1", text="executor-2 1")
        service.wait_for(said="hello", child="executor-2", text="executor-1 1")
        assert service.stop() == 0
        assert not service.seen(said="link", child="executor-1", peer="executor-1")


def test_peers_learn_of_a_death_with_the_table_as_it_was_at_the_end() -> None:
    with Service(EXECUTOR, claimer()) as service:
        service.wait_ready()
        service.kill("executor")
        died = service.wait_for(said="peer_died", child="claimer")
        assert (died["peer"], died["peer_incarnation"], died["signal"], died["table"]) == ("executor", 1, "SIGKILL", "executor 1")
        assert died["peak_rss_kib"] > 1000
        service.wait_for(said="link", child="executor", incarnation=2)
        service.kill("claimer")
        died = service.wait_for(said="peer_died", child="executor", incarnation=2)
        assert (died["peer"], died["has_table"], died["table"]) == ("claimer", False, None)
        assert service.stop() == 0


def test_a_death_that_nobody_has_buried_is_told_to_the_next_incarnation_before_its_links() -> None:
    with Service(EXECUTOR, claimer("--bury-from", "2")) as service:
        service.wait_ready()
        service.kill("executor")
        service.wait_for(said="peer_died", child="claimer", incarnation=1)
        service.kill("claimer")
        again = service.wait_for(said="peer_died", child="claimer", incarnation=2, peer_incarnation=1)
        assert again["table"] == "executor 1"
        link = service.wait_for(said="link", child="claimer", incarnation=2)
        assert link["peer_incarnation"] == 2
        assert service.lines.index(again) < service.lines.index(link)
        service.kill("claimer", 2)
        service.wait_for(said="hello", child="claimer", incarnation=3)
        assert not service.seen(said="peer_died", child="claimer", incarnation=3), "buried by the second incarnation"
        assert service.stop() == 0


def test_a_death_while_the_peer_is_down_is_told_when_it_is_back() -> None:
    with Service(EXECUTOR, claimer(), restart_backoff_s=1.0) as service:
        service.wait_ready()
        service.kill("claimer", number=signal.SIGKILL)
        service.kill("claimer", 2)  # its second crash has a delay
        service.wait_for(event="actor.restart_scheduled", actor="claimer", count=2)
        service.kill("executor")
        service.wait_for(event="actor.crashed", actor="executor")
        assert not service.seen(event="actor.starting", actor="claimer", incarnation=3), "too slow to show anything"
        assert service.wait_for(said="peer_died", child="claimer", incarnation=3)["table"] == "executor 1"
        assert service.stop() == 0


def test_without_room_for_copies_a_message_is_not_half_kept() -> None:
    """For a child that does not read; whoever sends it has to know."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with its, subprocess.Popen(["sleep", "60"]) as popen:
        process = Process(popen, ours, None)
        while not process.has_unsent:
            process.tell(control.Ping(seq=1))
        before = set(os.listdir("/proc/self/fd"))
        spare = max(map(int, before)) + 1
        fillers = [os.dup(ours.fileno()) for _ in range(spare - len(before))]  # what numbers there are below the last
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max([*fillers, spare]) + 2, limits[1]))
            with pytest.raises(OSError, match="Too many open files"):
                process.tell(control.PeerDied(peer="executor", incarnation=1), tuple([ours.fileno()] * 8))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in fillers:
                os.close(fd)
        assert set(os.listdir("/proc/self/fd")) == before
        process.kill_group()
        popen.kill()
        process.close()
