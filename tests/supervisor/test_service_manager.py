"""The notify protocol against a socket of our own, and what a whole service says over it."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_harness import PATIENCE_S, Service, child

from shiftboss.supervisor.notify import Notifier


class Manager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(PATIENCE_S)
        self.env = {"NOTIFY_SOCKET": address.replace("\0", "@")}

    def receive(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(65536).decode().splitlines())

    def until(self, key: str, value: str | None = None) -> list[dict[str, str]]:
        """Every message up to the one that has `key` (with `value`)."""
        messages = [self.receive()]
        while key not in messages[-1] or value not in (None, messages[-1][key]):
            messages.append(self.receive())
        return messages

    def rest(self) -> list[dict[str, str]]:
        self.socket.setblocking(False)
        messages = []
        while True:
            try:
                messages.append(self.receive())
            except BlockingIOError:
                return messages


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


def test_an_abstract_address_works_as_well() -> None:
    manager = Manager(f"\0shiftboss-test-{os.getpid()}")
    notifier = Notifier(manager.env)
    notifier.status("here")
    assert manager.receive() == {"STATUS": "here"}
    notifier.close()
    manager.socket.close()


def test_messages_are_one_datagram_each(manager: Manager) -> None:
    notifier = Notifier(manager.env)
    notifier.ready("2 of 2\nactors")
    assert manager.receive() == {"READY": "1", "STATUS": "2 of 2 actors"}
    notifier.stopping("bye")
    assert manager.receive() == {"STOPPING": "1", "STATUS": "bye"}
    notifier.extend_timeout(10.0)
    assert manager.receive() == {"EXTEND_TIMEOUT_USEC": "10000000"}
    notifier.watchdog()
    assert manager.receive() == {"WATCHDOG": "1"}
    before_us = time.monotonic_ns() // 1000
    notifier.reloading("again")
    reloading = manager.receive()
    assert reloading["RELOADING"] == "1"
    assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    notifier.close()


def test_a_full_socket_drops_hints_and_keeps_what_matters(manager: Manager) -> None:
    notifier = Notifier(manager.env)
    for _ in range(10_000):
        notifier.watchdog()
    notifier.ready("ready")
    assert not notifier.flush(), "10,000 datagrams did not fill the socket"
    manager.receive()
    assert notifier.flush()
    assert {"READY": "1", "STATUS": "ready"} in manager.rest()
    notifier.close()


def test_without_a_manager_nothing_happens() -> None:
    for environ in ({}, {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000000"}, {"NOTIFY_SOCKET": "vsock:2:1234"}):
        notifier = Notifier(environ)
        notifier.ready("ready")
        assert notifier.flush()
        notifier.close()


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "9000000"}, 9.0),
        ({"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": str(os.getpid())}, 9.0),
        ({"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_only_fed_by_the_process_it_is_meant_for(environ: dict[str, str], watchdog_s: float | None) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "/nowhere/notify", **environ})
    assert notifier.watchdog_s == watchdog_s
    notifier.close()


def test_a_service_says_ready_feeds_the_watchdog_and_asks_for_time_while_stopping(manager: Manager) -> None:
    claimer = child("claimer", "--stop", "drain:2.5", drains=True)
    with Service(claimer, env={**manager.env, "WATCHDOG_USEC": "300000"}, shutdown_timeout_s=20.0) as service:
        starting = manager.until("READY")
        assert any("EXTEND_TIMEOUT_USEC" in message for message in starting)
        assert starting[-1]["STATUS"] == "ready, 1 of 1 actors ready"
        fed = [manager.until("WATCHDOG") and time.monotonic() for _ in range(4)]
        assert max(later - earlier for earlier, later in itertools.pairwise(fed)) < 0.3
        service.send(signal.SIGTERM)
        manager.until("STOPPING")
        manager.until("EXTEND_TIMEOUT_USEC")
        manager.until("EXTEND_TIMEOUT_USEC")  # the next, 2 s later
        manager.until("STATUS", "stopped")
        assert service.wait_exit() == 0


def test_the_watchdog_starves_when_a_core_child_stays_down(manager: Manager) -> None:
    specs = [child("gateway", "--boot", "hang", critical=False), child("claimer", "--boot", "hang", "--boot-from", "2")]
    env = {**manager.env, "WATCHDOG_USEC": "150000"}
    with Service(*specs, env=env, core_down_limit_s=0.5) as service:
        manager.until("READY")
        service.kill("claimer")
        manager.socket.settimeout(1.5)
        with pytest.raises(TimeoutError):
            while True:
                manager.receive()
        assert service.process.poll() is None


@pytest.mark.parametrize(("started", "wrapper"), [("self", None), ("1", 1), ("", None), ("no number", None)])
def test_a_wrapper_between_systemd_and_the_service_is_noticed(started: str, wrapper: int | None) -> None:
    pid = str(os.getpid()) if started == "self" else started
    notifier = Notifier({"NOTIFY_SOCKET": "/run/notify", "SYSTEMD_EXEC_PID": pid})
    notifier.close()
    assert notifier.wrapper_pid == wrapper


def test_a_service_behind_a_wrapper_says_what_is_wrong(manager: Manager) -> None:
    with Service(child("claimer"), env={**manager.env, "SYSTEMD_EXEC_PID": "1"}) as service:
        line = service.wait_for(event="service.wrapped", wrapper_pid=1)
        assert "exec" in line["message"]
        assert service.stop() == 0
