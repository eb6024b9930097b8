"""The control socket, with real sockets and a real selector: what it takes, what it refuses, and that it never blocks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shiftboss import commands
from shiftboss.events import Event
from shiftboss.supervisor import control_socket
from shiftboss.supervisor.commands import MAX_CONNECTIONS, SILENCE_S, CommandPeer, CommandServer, Conversation
from shiftboss.supervisor.conversation import MAX_UNSENT_BYTES, Credentials
from shiftboss.supervisor.timers import Timers
from shiftboss.testing import ManualClock

PATIENCE_S = 10.0
REAL_USER = os.geteuid()


class Loop:
    """The supervisor's side: a selector loop that is turned by hand, and keeps the commands that came."""

    def __init__(self, path: Path | None) -> None:
        self.clock = ManualClock()
        self.selector = selectors.DefaultSelector()
        self.timers = Timers(self.clock)
        self.log = logging.getLogger("test.commands")
        self.server = CommandServer(path, self.selector, self.timers, self.clock, self.log)
        self.path = path
        self.received: list[tuple[Conversation, commands.AnyCommand]] = []

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            for key, mask in self.selector.select(0):
                assert isinstance(key.data, CommandPeer)
                self.received += self.server.serve(key.data, mask)
            self.timers.run_due()

    def connect(self) -> socket.socket:
        """A program that has connected and was seen."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(PATIENCE_S)
        client.connect(str(self.path))
        self.turn()
        return client

    def ask(self, request: bytes) -> socket.socket:
        client = self.connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before it could ask
            client.sendall(request)
        self.turn(2)
        return client

    @property
    def watched(self) -> int:
        return len(self.selector.get_map())


@pytest.fixture
def loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Loop]:
    caplog.set_level(logging.DEBUG)
    made = Loop(tmp_path / "run" / "control")
    made.server.open()
    assert made.server.is_open
    yield made
    made.server.close(0)
    assert list((tmp_path / "run").iterdir()) == []
    assert made.watched == 0
    made.selector.close()


def replies(client: socket.socket) -> list[dict[str, Any]]:
    """All that it is told until the other side hangs up."""
    data = b""
    with client, contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            data += chunk
    return [json.loads(line) for line in data.splitlines()]


def logged(caplog: pytest.LogCaptureFixture, event: Event) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.__dict__.get("event") == event]


# ---- a conversation


def test_a_command_arrives_with_who_sent_it_and_is_answered_line_by_line(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    client = loop.ask(b'{"command": "scale", "executors": 4}\n')
    ((conversation, command),) = loop.received
    assert command == commands.Scale(executors=4)
    assert (conversation.pid, conversation.uid) == (os.getpid(), os.geteuid())
    conversation.progress("2 of 4 ready")
    conversation.done(True, "4 executors")
    assert replies(client) == [
        {"reply": "progress", "text": "2 of 4 ready"},
        {"reply": "done", "ok": True, "text": "4 executors"},
    ]
    assert logged(caplog, Event.COMMAND_RECEIVED) == [{"command": "scale", "uid": os.geteuid(), "sender_pid": os.getpid()}]
    assert loop.watched == 1


def test_a_request_may_come_in_pieces_and_only_the_first_of_a_connection_counts(loop: Loop) -> None:
    client = loop.connect()
    for piece in (b'{"comm', b'and": "re', b'sume"}\n{"command": "drain"}\n'):
        client.sendall(piece)
        loop.turn()
    client.sendall(b'{"command": "stop"}\n')
    loop.turn(2)
    assert [command for _, command in loop.received] == [commands.Resume()]


def test_one_that_closes_only_its_own_direction_still_gets_its_answer(loop: Loop) -> None:
    client = loop.ask(b'{"command": "dump"}\n')
    client.shutdown(socket.SHUT_WR)
    loop.turn(2)
    loop.received[0][0].done(True, "dumped")
    assert replies(client) == [{"reply": "done", "ok": True, "text": "dumped"}]


def test_a_program_that_goes_away_is_noticed_and_what_it_is_told_harms_nobody(loop: Loop) -> None:
    loop.ask(b'{"command": "restart"}\n').close()
    loop.turn(2)
    ((conversation, _),) = loop.received
    assert conversation.closed
    conversation.progress("still at it")
    conversation.done(True, "done")
    assert loop.watched == 1


def test_a_program_that_does_not_read_blocks_nothing_and_is_dropped_when_too_much_waits(loop: Loop) -> None:
    client = loop.ask(b'{"command": "reload"}\n')
    ((conversation, _),) = loop.received
    said = 0
    while not conversation.closed:
        conversation.progress("x" * 10_000)
        said += 10_000
        assert said < 3 * MAX_UNSENT_BYTES
    assert said > MAX_UNSENT_BYTES
    assert loop.watched == 1
    client.close()


def test_a_long_answer_is_sent_as_the_program_reads(loop: Loop) -> None:
    client = loop.ask(b'{"command": "reload"}\n')
    loop.received[0][0].progress("x" * 900_000)
    loop.received[0][0].done(True, "done")
    client.setblocking(False)
    data = b""
    for _ in range(1_000):
        loop.turn()
        with contextlib.suppress(BlockingIOError):
            data += client.recv(65536)
    client.close()
    loop.turn()
    assert loop.watched == 1
    assert len(data) > 900_000


# ---- what is refused


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (b"stop\n", "JSON"),
        (b'{"command": "quiet"}\n', "quiet"),
        (b'{"command": "stop", "when": 1}\n', "when"),
        (b'{"command": "scale"}\n', "executors"),
        (b'{"command": "scale", "executors": 0}\n', ">= 1"),
        (b"\xff\xfe\n", ""),
        (b"[" * 3000 + b"\n", ""),
        (b"x" * 5000, "4096 bytes"),
    ],
)
def test_what_is_no_command_is_answered_with_what_is_right_and_64(
    loop: Loop, request_: bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    (done,) = replies(loop.ask(request_))
    assert (done["reply"], done["ok"], done["code"]) == ("done", False, 64)
    assert says in done["text"]
    assert "one line" in done["text"]
    assert loop.received == []
    assert len(logged(caplog, Event.COMMAND_REFUSED)) == 1
    assert loop.watched == 1


def test_one_connection_too_many_is_told_so_and_the_others_go_on(loop: Loop) -> None:
    clients = [loop.ask(b'{"command": "dump"}\n') for _ in range(MAX_CONNECTIONS)]
    (refused,) = replies(loop.ask(b'{"command": "dump"}\n'))
    assert (refused["ok"], "too many" in refused["text"]) == (False, True)
    assert len(loop.received) == MAX_CONNECTIONS
    for conversation, _ in loop.received:
        conversation.done(True, "dumped")
    assert [replies(client)[0]["ok"] for client in clients] == [True] * MAX_CONNECTIONS
    loop.ask(b'{"command": "dump"}\n')
    assert len(loop.received) == MAX_CONNECTIONS + 1


def test_one_that_asks_nothing_is_dropped_and_one_that_waits_is_not(loop: Loop) -> None:
    silent, waiting = loop.ask(b'{"command"'), loop.ask(b'{"command": "drain"}\n')
    loop.clock.advance(SILENCE_S + 0.1)
    loop.turn()
    assert replies(silent) == []
    loop.received[0][0].done(True, "drained")
    assert replies(waiting)[0]["ok"] is True


def test_one_that_does_not_take_its_last_answer_is_dropped_after_a_while(loop: Loop) -> None:
    client = loop.ask(b'{"command": "status"}\n')
    loop.received[0][0].done(True, "x" * 900_000)
    assert loop.watched == 2
    loop.clock.advance(SILENCE_S + 0.1)
    loop.turn()
    assert loop.watched == 1
    client.close()


def test_another_user_is_refused_whatever_the_file_system_says(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE_S)
    monkeypatch.setattr("shiftboss.supervisor.commands.credentials_of", lambda sock: sock and _stranger())
    client.connect(str(loop.path))
    loop.turn(2)
    (done,) = replies(client)
    assert (done["ok"], "belongs to user" in done["text"]) == (False, True)


def _stranger() -> Any:
    return Credentials(pid=1, uid=REAL_USER + 1)


# ---- in the file system


def test_the_socket_and_its_folder_are_ours_alone_whatever_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        loop = Loop(tmp_path / "a" / "b" / "control")
        loop.server.open()
    finally:
        assert os.umask(mask) == 0
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").rglob("*")}
    assert modes == {"b": 0o700, "control": 0o600, "control.lock": 0o600}
    loop.server.close(0)
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b"]


def test_the_socket_is_never_open_to_others_not_even_for_an_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Path, "chmod", lambda path, _mode: seen.append(stat.S_IMODE(path.stat().st_mode)))
    mask = os.umask(0)
    try:
        Loop(tmp_path / "control").server.open()
    finally:
        os.umask(mask)
    assert [mode & 0o077 for mode in seen] == [0]


def test_without_a_path_there_is_no_socket() -> None:
    loop = Loop(None)
    loop.server.open()
    assert not loop.server.is_open
    loop.server.close(0)


def test_a_second_service_goes_on_without_and_leaves_the_first_one_its_socket(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    second = Loop(loop.path)
    second.server.open()
    assert not second.server.is_open
    (warning,) = logged(caplog, Event.CONTROL_UNAVAILABLE)
    assert warning["path"] == str(loop.path)
    assert "another running service" in warning["reason"]
    assert "control_socket" in warning["reason"]
    second.server.close(0)
    loop.ask(b'{"command": "dump"}\n')
    assert len(loop.received) == 1


def test_what_a_killed_service_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control"
    code = (
        "import os, sys; from pathlib import Path; from shiftboss.supervisor.control_socket import ControlSocket;"
        "ControlSocket(Path(sys.argv[1])); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.is_socket()
    loop = Loop(path)
    loop.server.open()
    loop.ask(b'{"command": "dump"}\n')
    assert len(loop.received) == 1
    loop.server.close(0)


def test_a_lock_that_its_holder_removes_meanwhile_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder ends between our open and our flock: what we have locked is a file without a name."""
    path = tmp_path / "control.lock"
    opened = os.open
    doomed = iter([True])

    def open_and_lose(*arguments: Any, **options: Any) -> int:
        fd = opened(*arguments, **options)
        if next(doomed, False):
            path.unlink()
        return fd

    monkeypatch.setattr(control_socket.os, "open", open_and_lose)
    fd = control_socket._lock(path)
    assert os.path.samestat(os.fstat(fd), path.stat())
    os.close(fd)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_where_others_may_write_is_refused(tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    loop = Loop(tmp_path / "open" / "control")
    loop.server.open()
    assert not loop.server.is_open
    assert "others may write" in logged(caplog, Event.CONTROL_UNAVAILABLE)[0]["reason"]
    assert list((tmp_path / "open").iterdir()) == []


@pytest.mark.skipif(REAL_USER != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, 12345)
    Loop(tmp_path / "theirs" / "control").server.open()
    assert "belongs to user 12345" in logged(caplog, Event.CONTROL_UNAVAILABLE)[0]["reason"]


def test_what_is_no_socket_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "control").write_text("precious")
    Loop(tmp_path / "control").server.open()
    assert "something else" in logged(caplog, Event.CONTROL_UNAVAILABLE)[0]["reason"]
    assert [path.name for path in tmp_path.iterdir()] == ["control"]
    assert (tmp_path / "control").read_text() == "precious"


def test_a_path_that_is_too_long_or_cannot_be_made_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Loop(tmp_path / ("x" * 100)).server.open()
    (tmp_path / "file").touch()
    Loop(tmp_path / "file" / "control").server.open()
    too_long, not_a_folder = (fields["reason"] for fields in logged(caplog, Event.CONTROL_UNAVAILABLE))
    assert "107 bytes" in too_long
    assert str(tmp_path / "file") in not_a_folder


# ---- the end


def test_at_the_end_what_waits_is_still_said_and_a_deaf_program_cannot_hold_it_up(loop: Loop) -> None:
    listening, deaf = loop.ask(b'{"command": "stop"}\n'), loop.ask(b'{"command": "stop"}\n')
    for conversation, _ in loop.received:
        conversation.progress("x" * 900_000)
    listening.setblocking(True)  # its time-out would make the reader's end one that does not wait
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdout.write(str(len(sys.stdin.buffer.read())))"],
        stdin=listening,
        stdout=subprocess.PIPE,
    )
    listening.close()
    loop.server._clock = _Running()
    for conversation, _ in loop.received:
        conversation.done(True, "stopped")
    began_s = time.monotonic()
    loop.server.close(3.0)
    assert time.monotonic() - began_s < 4.0
    assert int(reader.communicate(timeout=PATIENCE_S)[0]) > 900_000
    deaf.close()


class _Running(ManualClock):
    """A clock that goes by itself."""

    def monotonic_s(self) -> float:
        return time.monotonic()


# ---- where it is


def paths(
    setting: str = "auto", environment: str = "production", uid: int = 7, cwd: str = "/srv/app", **environ: str
) -> list[str]:
    first = commands.socket_path(setting, environment, environ, Path(cwd), uid)
    return [str(first), *map(str, commands.candidates(setting, environment, environ, Path(cwd), uid))]


def test_the_service_listens_where_commands_look() -> None:
    service, *looked = paths(RUNTIME_DIRECTORY="/run/shiftboss/production")
    assert service == "/run/shiftboss/production/control"
    assert looked[0] == service
    assert len(looked) == 2
    service, *looked = paths(XDG_RUNTIME_DIR="/run/user/7")
    assert service.startswith("/run/user/7/shiftboss/production-")
    assert looked[0] == "/run/shiftboss/production/control"
    assert looked[1] == service
    service, *looked = paths()
    assert looked == ["/run/shiftboss/production/control", service]
    assert service.startswith("/tmp/shiftboss-7/production-")
    assert paths(RUNTIME_DIRECTORY="/run/a:/run/b")[0] == "/run/a/control"


def test_projects_environments_and_users_do_not_share_a_socket() -> None:
    assert len({paths()[0], paths(cwd="/srv/other")[0], paths(environment="staging")[0], paths(uid=8)[0]}) == 4


def test_a_path_in_the_settings_is_the_only_place_and_off_is_none() -> None:
    assert paths("/run/x/c") == ["/run/x/c", "/run/x/c"]
    assert paths("c") == ["/srv/app/c", "/srv/app/c"]
    assert paths("off", RUNTIME_DIRECTORY="/run/a") == ["None"]


def test_names_and_folders_that_do_not_fit_are_got_round() -> None:
    assert len(paths(XDG_RUNTIME_DIR="/" + "x" * 100)[0]) < 107
    assert paths(XDG_RUNTIME_DIR="/" + "x" * 100)[0].startswith("/tmp/")
    assert paths(environment="/etc/../passwd " + "x" * 200)[0].startswith("/tmp/shiftboss-7/_etc____passwd_x")
    assert len(paths(environment="x" * 200)[0]) < 107
