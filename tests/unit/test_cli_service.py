"""Commands to the running service: what they send, what they print, and the exit code of every end. Real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shiftboss import commands
from shiftboss.cli import console, options, quick, service
from shiftboss.cli.control import NotRunning, Places, connect, find_places
from shiftboss.cli.exits import NoAnswer
from shiftboss.cli.local import duration
from shiftboss.cli.main import main
from shiftboss.cli.operate import Request
from shiftboss.supervisor.commands import Conversation
from tests.unit.fake_service import FakeService

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture(params=["quick", "whole"])
def cli(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Cli:
    """Runs a command line in an empty folder, read by the quick reader where it can, or by the whole command line."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "DEBUG", "SHIFTBOSS_ENV", "RUNTIME_DIRECTORY", "SHIFTBOSS_CONTROL_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)

    def run(*words: str) -> Ran:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["shiftboss", *words])
        code = console() if request.param == "quick" else main(words)
        return Ran(code, *capfd.readouterr())

    return run


def own_socket() -> Path:
    """Where a service that is started here would listen."""
    path = commands.socket_path("auto", "development", os.environ, Path.cwd(), os.geteuid())
    assert path is not None
    return path


def done(ok: bool, text: str, code: int | None = None) -> Callable[[Conversation, commands.AnyCommand], None]:
    return lambda conversation, _command: conversation.done(ok, text, code=code)


# ---- what is sent

LINES: dict[str, Request] = {
    "stop": Request(command=commands.Stop()),
    "stop --now --json": Request(command=commands.Stop(now=True), as_json=True),
    "drain": Request(command=commands.Drain()),
    "drain --no-wait --timeout 7": Request(command=commands.Drain(wait=False), timeout_s=7.0),
    "resume -e production": Request(command=commands.Resume(), env="production"),
    "reload": Request(command=commands.Reload()),
    "reload --env production --wait": Request(command=commands.Reload(), env="production"),
    "restart --config a.toml": Request(command=commands.Restart(), config=Path("a.toml")),
    "dump --socket /run/x -c b.toml": Request(command=commands.Dump(), socket=Path("/run/x"), config=Path("b.toml")),
}
ONLY_WHOLE: dict[str, Request] = {
    "scale 4": Request(command=commands.Scale(executors=4)),
    "scale 4 --timeout 0.5": Request(command=commands.Scale(executors=4), timeout_s=0.5),
    "stop --timeout=3": Request(command=commands.Stop(), timeout_s=3.0),
    "reload --timeout 1.5": Request(command=commands.Reload(), timeout_s=1.5),
}


@pytest.mark.parametrize("line", [*LINES, *ONLY_WHOLE])
def test_a_line_means_the_same_whoever_reads_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    monkeypatch.setattr(service, "operate", lambda request: asked.append(request) or 0)
    assert main(line.split()) == 0
    assert asked == [{**LINES, **ONLY_WHOLE}[line]]
    assert quick.read(line.split()) == LINES.get(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "start",
        "status",
        "stop now",
        "stop --help",
        "stop --no-wait",
        "reload --env",
        "reload --env -e",
        "reload --timeout -1",
    ],
)
def test_the_quick_reader_leaves_what_is_not_plain_to_the_other(line: str) -> None:
    assert quick.read(line.split()) is None


@pytest.mark.parametrize(
    "line",
    [
        "start",
        "start --env production -c a.toml",
        "start --import a -i b --only mail --only bulk",
        "start --set debug=true -s claim_interval=2s --set imports=c --import d",
    ],
)
def test_a_start_reads_the_same_settings_whoever_reads_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(env: str | None = None, file: Path | None = None, *, overrides: Any) -> Any:
        asked.append((env, file, dict(overrides)))

    for module in (quick, options):
        monkeypatch.setattr(module, "load_settings", load)
    monkeypatch.setattr("shiftboss.service.start", lambda loaded: 0)
    quick.run(line.split())
    main(line.split())
    assert len(asked) == 2
    assert asked[0] == asked[1]


@pytest.mark.parametrize("line", ["start extra", "start --set debug", "start --env", "start --help x", "start --env -c"])
def test_a_start_that_is_not_plain_is_left_to_the_other(line: str) -> None:
    assert quick.run(line.split()) is None


@pytest.mark.parametrize(
    "line", ["scale", "scale 0", "scale many", "scale 1001", "stop now", "reload --timeout soon", "dump --now"]
)
def test_a_wrong_line_exits_64_and_asks_nobody(cli: Cli, line: str) -> None:
    with FakeService(own_socket(), done(True, "done")) as fake:
        assert cli(*line.split()).code == 64
    assert fake.asked == []


# ---- what comes back


def test_progress_goes_to_people_the_end_to_whoever_reads_and_the_exit_code_is_0(cli: Cli) -> None:
    def answer(conversation: Conversation, command: commands.AnyCommand) -> None:
        conversation.progress("1 of 2 ready")
        conversation.done(True, "2 in service")

    with FakeService(own_socket(), answer) as fake:
        assert cli("restart") == (0, "2 in service\n", "shiftboss: 1 of 2 ready\n")
        ran = cli("restart", "--json")
        assert (ran.code, json.loads(ran.out)) == (0, {"ok": True, "text": "2 in service", "code": 0})
    assert fake.asked == [commands.Restart()] * 2


@pytest.mark.parametrize(("given", "code"), [(None, 1), (64, 64), (78, 78)])
def test_what_did_not_work_is_an_exit_code_and_every_line_of_why(cli: Cli, given: int | None, code: int) -> None:
    with FakeService(own_socket(), done(False, "a.toml:1: no\na.toml:2: no", given)):
        assert cli("reload") == (code, "", "shiftboss: a.toml:1: no\nshiftboss: a.toml:2: no\n")
        ran = cli("reload", "--json")
        assert (ran.code, json.loads(ran.out)["code"], json.loads(ran.out)["ok"]) == (code, code, False)


def test_waiting_ends_at_the_time_out_and_says_that_it_goes_on(cli: Cli) -> None:
    with FakeService(own_socket(), lambda conversation, _command: conversation.progress("at it")):
        began_s = time.monotonic()
        ran = cli("drain", "--timeout", "1")
        assert 0.9 < time.monotonic() - began_s < 10
    assert (ran.code, ran.out) == (1, "")
    assert "at it" in ran.err
    assert "not done within 1 s" in ran.err
    assert "goes on" in ran.err


def test_what_is_no_service_of_ours_is_said_so(cli: Cli) -> None:
    def answer(conversation: Conversation, command: commands.AnyCommand) -> None:
        conversation.unsent += b"220 mail.example ESMTP\n"
        conversation.done(True, "")

    with FakeService(own_socket(), answer):
        ran = cli("dump")
    assert (ran.code, "no Shiftboss service" in ran.err) == (1, True)


# ---- where the service is


def test_without_a_service_the_places_are_named(cli: Cli) -> None:
    ran = cli("reload")
    assert (ran.code, ran.out) == (1, "")
    assert "no running service found for environment development" in ran.err
    assert str(own_socket()) in ran.err
    assert "/run/shiftboss/development/control" in ran.err
    assert "--socket" in ran.err


def test_what_a_killed_service_left_is_no_service(cli: Cli) -> None:
    process = start_fake(own_socket(), "wait")
    process.kill()
    process.wait(PATIENCE_S)
    assert own_socket().is_socket()
    assert "no running service" in cli("reload").err


def test_the_setting_and_the_option_name_another_place(cli: Cli, tmp_path: Path) -> None:
    Path("shiftboss.toml").write_text(f'control_socket = "{tmp_path}/run/mine"\n')
    with FakeService(tmp_path / "run" / "mine", done(True, "by the setting")):
        assert cli("dump").out == "by the setting\n"
    with FakeService(tmp_path / "run" / "other", done(True, "by the option")):
        assert cli("dump", "--socket", "run/other").out == "by the option\n"
    Path("shiftboss.toml").write_text('control_socket = "off"\n')
    ran = cli("dump")
    assert (ran.code, "control_socket is off" in ran.err) == (1, True)


def test_a_path_that_no_socket_can_have_is_said_so(cli: Cli, tmp_path: Path) -> None:
    ran = cli("dump", "--socket", "x" * 200)
    assert (ran.code, "107 bytes" in ran.err) == (1, True)


def test_a_service_is_reached_while_its_configuration_is_broken(cli: Cli) -> None:
    Path("shiftboss.toml").write_text("debug = 3\n")
    with FakeService(own_socket(), done(True, "stopping")):
        assert cli("dump").out == "stopping\n"
    ran = cli("dump")
    assert (ran.code, "debug = 3" in ran.err) == (78, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("folder_mode", [0o755, 0o700])
def test_another_user_is_told_whose_service_it_is(folder_mode: int) -> None:
    with tempfile.TemporaryDirectory() as folder, FakeService(Path(folder) / "control", done(True, "")):
        Path(folder).chmod(folder_mode)
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                os.setuid(12345)
                try:
                    connect(Places("development", (Path(folder) / "control",)))
                except NoAnswer as error:
                    os.write(writing, str(error).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            said = answer.read()
    assert "not allowed" in said
    assert ("root" if folder_mode == 0o700 else "belongs to root") in said


def test_a_service_that_takes_nobody_in_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hung, contextlib.ExitStack() as waiting:
        hung.bind(str(tmp_path / "c"))
        hung.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                one = waiting.enter_context(socket.socket(socket.AF_UNIX))
                one.setblocking(False)
                one.connect(str(tmp_path / "c"))
        with pytest.raises(NoAnswer, match="takes no commands"):
            connect(Places("development", (tmp_path / "c",)))


def test_an_explicit_socket_needs_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_places("nowhere", None, Path("c")).paths == (tmp_path / "c",)
    with pytest.raises(NotRunning):
        connect(Places("nowhere", (tmp_path / "c",)))


# ---- as processes


def start_fake(path: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.fake_service", str(path), how], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def command(path: Path, *words: str, **environment: str) -> list[Any]:
    return [sys.executable, "-m", "shiftboss.cli", *words, "--socket", str(path)]


@pytest.fixture
def fakes(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], Path]]]:
    started: list[subprocess.Popen[str]] = []

    def start(how: str) -> tuple[subprocess.Popen[str], Path]:
        path = tmp_path / "control"
        started.append(start_fake(path, how))
        return started[-1], path

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


Fakes = Callable[[str], tuple[subprocess.Popen[str], Path]]


def test_stop_returns_when_the_process_is_gone_and_not_when_it_says_so(fakes: Fakes) -> None:
    process, path = fakes("linger")
    ran = subprocess.run(command(path, "stop"), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert process.poll() == 0
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "stopped\n", "shiftboss: at it\n")


def test_a_service_that_dies_in_the_middle_is_an_error(fakes: Fakes) -> None:
    process, path = fakes("die")
    ran = subprocess.run(command(path, "reload"), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert process.wait(PATIENCE_S) == 9
    assert ran.returncode == 1
    assert f"the service (pid {process.pid}) ended before it had answered" in ran.stderr


def test_an_interrupt_ends_the_waiting_and_says_that_it_goes_on(fakes: Fakes) -> None:
    process, path = fakes("wait")
    waiting = subprocess.Popen(command(path, "drain"), stderr=subprocess.PIPE, text=True)
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == "shiftboss: at it\n"
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 130
    assert said == f"shiftboss: interrupted; the service (pid {process.pid}) goes on with drain\n"


def test_a_reload_is_asked_for_without_loading_what_it_does_not_need(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    ran = subprocess.run(command(tmp_path / "c", "reload"), env=environment, capture_output=True, text=True, check=False)
    assert "no running service" in ran.stderr
    loaded = {line.split("|")[-1].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}
    assert "shiftboss.cli.operate" in loaded
    assert not loaded & {"typer", "pydantic", "rich", "psycopg", "sqlite3", "pykka", "asyncio", "shiftboss.supervisor", "logging"}


# ---- status


STATUS = commands.ServiceStatus(
    pid=4711,
    phase="paused",
    why="the executors keep crashing",
    uptime_s=3725.0,
    executors_wanted=4,
    executors_ready=3,
    actors=(
        commands.ActorStatus(name="claimer", state="ready", pid=4712, incarnation=1, uptime_s=12.4, status="3 running"),
        commands.ActorStatus(name="executor-1", state="backoff", restarts=7, last_end="SIGKILL after 3.2 s\x1b[2J"),
    ),
    last_reload="bad.toml:1: nonsense",
    last_reload_ok=False,
    last_reload_at=0.0,
)


@pytest.fixture
def status_service(cli: Cli) -> Iterator[None]:
    def answer(conversation: Conversation, command: commands.AnyCommand) -> None:
        conversation.done(True, "paused", data=STATUS)

    with FakeService(own_socket(), answer):
        yield


def test_status_shows_the_service_first(cli: Cli, status_service: None) -> None:
    ran = cli("status", "--local")
    first, second, _empty, *table = ran.out.splitlines()
    assert first == "service paused (the executors keep crashing), 3 of 4 executors ready, up 1h 02m, pid 4711"
    assert second == "last reload at 1970-01-01 00:00:00Z FAILED: bad.toml:1: nonsense"
    assert [line.split() for line in table] == [
        ["ACTOR", "STATE", "PID", "UP", "RESTARTS", "STATUS", "LAST", "END"],
        ["claimer", "ready", "4712", "12s", "0", "3", "running", "-"],
        ["executor-1", "backoff", "-", "-", "7", "-", "SIGKILL", "after", "3.2", "s\\x1b[2J"],
    ]
    assert ran.code == 0


def test_status_shows_the_service_while_the_database_is_down_and_exits_75(cli: Cli, status_service: None) -> None:
    down = ("--set", "database_url=postgresql://u@127.0.0.1:1/x")
    ran = cli("status", *down)
    assert (ran.code, "service paused" in ran.out, "shiftboss: " in ran.err) == (75, True, True)
    ran = cli("status", "--json", *down)
    shown = json.loads(ran.out)
    assert (ran.code, shown["service"]["phase"], bool(shown["error"])) == (75, "paused", True)


def test_status_shows_the_database_without_a_service(cli: Cli) -> None:
    assert cli("db", "migrate").code == 0
    ran = cli("status")
    assert (ran.code, ran.out.startswith("service not running here\n\nenvironment development")) == (0, True)
    shown = json.loads(cli("status", "--json").out)
    assert (shown["service"], shown["service_error"], shown["environment"]) == (None, "not running here", "development")
    ran = cli("status", "--local")
    assert (ran.code, ran.out, "no running service" in ran.err) == (1, "", True)


def test_status_shows_both(cli: Cli, status_service: None) -> None:
    assert cli("db", "migrate").code == 0
    shown = json.loads(cli("status", "--json").out)
    assert shown["service"]["actors"][1]["restarts"] == 7
    assert shown["queues"] == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (192, "3m 12s"), (18_180, "5h 03m"), (1_054_000, "12d 4h")]
)
def test_durations_are_as_long_as_people_care(seconds: float, text: str) -> None:
    assert duration(seconds) == text
