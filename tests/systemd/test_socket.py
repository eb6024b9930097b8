"""The gateway's address, opened by systemd: nobody is refused while the worker is away."""

from __future__ import annotations

import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.machine import run, until
from tests.systemd.unit import Unit


@pytest.fixture
def address(unit: Unit) -> Iterator[str]:
    """What systemd listens on for the unit."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = Path(f"/etc/systemd/system/{unit.socket}.d")
    folder.mkdir()
    (folder / "20-environment.conf").write_text(f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n")
    run("systemctl", "daemon-reload").ok()
    yield f"http://127.0.0.1:{port}"
    run("systemctl", "stop", unit.socket)


def get(url: str) -> int:
    """The status of the answer; waits for it as long as a start may take."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_request_to_a_service_that_is_down_starts_it_and_is_answered(unit: Unit, address: str) -> None:
    run("systemctl", "start", unit.socket).ok()
    assert unit.state_of() == "inactive"
    assert get(f"{address}/metrics") == 200
    until("active", lambda: unit.state_of() == "active")
    assert get(f"{address}/health") == 200


def test_a_restart_refuses_no_request(unit: Unit, address: str) -> None:
    run("systemctl", "start", unit.socket).ok()
    unit.start()
    answers, failures, over = 0, [], threading.Event()

    def ask() -> None:
        nonlocal answers
        while not over.is_set():
            try:
                get(f"{address}/metrics")
                answers += 1
            except OSError as error:
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    before = unit.main_pid
    unit.systemctl("restart").ok()
    over.set()
    asking.join()
    assert unit.main_pid != before
    assert get(f"{address}/metrics") == 200
    refused = [error for error in failures if "refused" in str(error)]
    assert refused == []
    assert answers > 0


def test_a_killed_gateway_gets_the_socket_again(unit: Unit, address: str) -> None:
    run("systemctl", "start", unit.socket).ok()
    unit.start()
    os.kill(unit.actors()["gateway"], signal.SIGKILL)
    assert get(f"{address}/metrics") == 200


def test_no_other_child_holds_the_socket(unit: Unit, address: str) -> None:
    run("systemctl", "start", unit.socket).ok()
    unit.start()
    port = int(address.rpartition(":")[2])
    listening = next(
        line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[1].endswith(f":{port:04X}")
    )
    holders = {name for name, pid in unit.actors().items() if _holds(pid, listening)}
    assert holders == {"gateway"}


def _holds(pid: int, inode: str) -> bool:
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    return f"socket:[{inode}]" in links


def test_a_socket_of_the_wrong_kind_ends_the_start_with_78(unit: Unit, address: str) -> None:
    port = address.rpartition(":")[2]
    folder = Path(f"/etc/systemd/system/{unit.socket}.d")
    (folder / "20-environment.conf").write_text(f"[Socket]\nListenStream=\nListenDatagram=127.0.0.1:{port}\n")
    run("systemctl", "daemon-reload").ok()
    run("systemctl", "start", unit.socket).ok()
    assert unit.systemctl("start").code != 0
    assert (unit.show("ExecMainStatus"), unit.show("NRestarts")) == ("78", "0")
    assert "does not accept stream connections" in unit.log()
