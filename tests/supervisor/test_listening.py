"""Sockets that systemd has opened reach the one child they are meant for, and nobody else."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator

import pytest

from shiftboss.errors import ConfigError
from shiftboss.supervisor.child import spawn
from shiftboss.supervisor.listening import choose_listener, take_listeners
from shiftboss.supervisor.spec import ChildSpec

SHOW_OPEN = ("sh", "-c", "exit $([ -e /proc/self/fd/{fd} ] && echo 11 || echo 12)")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def passed(count: int, names: str = "", pid: int | None = None) -> dict[str, str]:
    """The variables of sd_listen_fds(3), for this process."""
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names, "HOME": "/"}


def test_a_passed_socket_is_found_by_its_name_and_closed_on_exec(listener: socket.socket) -> None:
    listener.set_inheritable(True)
    environ = passed(1, "http")
    assert take_listeners(environ, listener.fileno()) == {"http": listener.fileno()}
    assert not listener.get_inheritable()
    assert environ == {"HOME": "/"}


def test_sockets_of_another_process_are_not_ours() -> None:
    environ = passed(1, "http", pid=1)
    assert take_listeners(environ) == {}
    assert environ == {"HOME": "/"}


def test_the_socket_named_http_is_chosen_and_the_others_are_closed(listener: socket.socket) -> None:
    other = os.dup(listener.fileno())
    assert choose_listener({"admin": other, "http": listener.fileno()}, "http") == listener.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(other)


def test_the_only_socket_is_chosen_whatever_its_name(listener: socket.socket) -> None:
    assert choose_listener({"shiftboss@production.socket": listener.fileno()}, "http") == listener.fileno()
    assert choose_listener({}, "http") is None


def test_several_sockets_without_the_right_name_are_refused(listener: socket.socket) -> None:
    with pytest.raises(ConfigError, match="named a, b, and none is named http: set FileDescriptorName=http"):
        choose_listener({"b": listener.fileno(), "a": 0}, "http")


def test_two_sockets_of_one_name_are_refused(listener: socket.socket) -> None:
    first = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD_CLOEXEC, 500)  # where no other thread opens anything
    second = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD_CLOEXEC, first + 1)
    try:
        with pytest.raises(ConfigError, match="give each its own FileDescriptorName="):
            take_listeners(passed(second - first + 1, "http:http"), first)
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["datagrams", "not-listening"])
def test_a_socket_that_accepts_no_connections_is_refused(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as sock, pytest.raises(ConfigError, match="does not accept stream connections"):
        choose_listener({"http": sock.fileno()}, "http")


def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(ConfigError, match="does not accept stream connections"):
            choose_listener({"http": reader}, "http")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("meant", [True, False])
def test_only_the_child_that_is_meant_gets_it_every_time_anew(listener: socket.socket, meant: bool) -> None:
    fd = listener.fileno()
    argv = tuple(word.replace("{fd}", str(fd)) for word in SHOW_OPEN)
    spec = ChildSpec(name="one", argv=argv, pass_fds=(fd,) if meant else ())
    board_fd = os.memfd_create("board")
    for incarnation in (1, 2):
        process = spawn(spec, incarnation, board_fd)
        os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT)
        assert process.reap().exit_code == (11 if meant else 12)
        process.close()
    os.close(board_fd)
    assert not listener.get_inheritable()
