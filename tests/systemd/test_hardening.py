"""The hardening is in force for handlers, and what they need still works."""

from __future__ import annotations

import json
import re

import pytest

from tests.systemd.install import PROGRAM
from tests.systemd.machine import run, until
from tests.systemd.unit import HANDLERS, Unit

PROBES = """
import ctypes, json, socket, sqlite3, subprocess, sys, tempfile
from pathlib import Path

def attempt_of(what):
    try:
        what()
    except Exception as error:
        return type(error).__name__
    return "done"

def libc(name, *arguments):
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

def set_suid():
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)

@task(type="probe")
def probe() -> None:
    refused = {
        "write to /usr": lambda: Path("/usr/evil").write_text(""),
        "write to /etc": lambda: Path("/etc/evil").write_text(""),
        "write to its own code": lambda: Path(__file__).write_text(""),
        "look into /root": lambda: list(Path("/root").iterdir()),
        "become root": lambda: os.setuid(0),
        "trace another process": lambda: libc("ptrace", 16, os.getppid(), 0, 0),
        "mount": lambda: libc("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "make a namespace": lambda: libc("unshare", 0x10000000),
        "make a suid file": set_suid,
        "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "read the disk": lambda: open("/dev/sda", "rb"),
        "load a module": lambda: libc("init_module", b"", 0, b""),
        "set the clock": lambda: libc("settimeofday", b"\\0" * 16, None),
        "change the host's name": lambda: socket.sethostname("evil"),
        "see the process with number 1": lambda: Path("/proc/1/stat").read_text(),
    }
    allowed = {
        "write to the state directory": lambda: Path(os.environ["STATE_DIRECTORY"], "file").write_text("x"),
        "write to the runtime directory": lambda: Path(os.environ["RUNTIME_DIRECTORY"], "file").write_text("x"),
        "use /tmp": lambda: tempfile.TemporaryFile().close(),
        "run a program": lambda: subprocess.run(["true"], check=True),
        "open a TCP socket": lambda: socket.create_server(("127.0.0.1", 0)).close(),
        "open a database": lambda: sqlite3.connect(Path(os.environ["STATE_DIRECTORY"], "x.db")).execute("CREATE TABLE t (x)"),
        "start a thread": lambda: threading.Thread(target=print).start(),
        "map memory": lambda: __import__("mmap").mmap(-1, 4096).close(),
    }
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = {
        "refused": {name: attempt_of(what) for name, what in refused.items()},
        "allowed": {name: attempt_of(what) for name, what in allowed.items()},
        "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
        "no_new_privileges": status["NoNewPrivs"].strip(),
        "umask": status["Umask"].strip(),
        "tmp": sorted(os.listdir("/tmp")),
    }
    note(json.dumps(found))
"""


@pytest.fixture
def score() -> float:
    """Of the unit as it is installed, by systemd's own tool."""
    out = run("systemd-analyze", "security", "--no-pager", "shiftboss@production.service").out
    return float(re.search(r"Overall exposure level for \S+: ([\d.]+)", out)[1])  # type: ignore[index]


def test_a_handler_can_do_what_it_needs_and_nothing_else(unit: Unit) -> None:
    run("touch", "/tmp/somebody_elses").ok()
    unit.write_code(HANDLERS + PROBES)
    unit.start().enqueue("probe")
    until("the probe has run", unit.ledger)
    found = json.loads(unit.ledger()[0])
    assert {name for name, how in found["refused"].items() if how == "done"} == set()
    assert {name: how for name, how in found["allowed"].items() if how != "done"} == {}
    assert (found["capabilities"], found["no_new_privileges"], found["umask"]) == (0, "1", "0077")
    assert "somebody_elses" not in found["tmp"]
    assert unit.state_of() == "active"


def test_the_exposure_is_small(installed: None, score: float) -> None:
    assert score <= 1.5


def test_systemd_finds_nothing_wrong_with_the_units(installed: None) -> None:
    units = ("shiftboss@production.service", "shiftboss@production.socket")
    verified = run("systemd-analyze", "verify", "--recursive-errors=no", *units)
    assert (verified.code, verified.err.strip()) == (0, "")


def test_our_own_check_is_content_with_a_fresh_installation(installed: None) -> None:
    checked = run(PROGRAM, "systemd", "check", "--env", "production", "--socket", cwd="/opt/shiftboss")
    assert checked.code == 0, checked.err
    assert re.search(r"shiftboss@production is installed as it should be, exposure 1\.[0-5]", checked.out)


def test_check_finds_a_configuration_that_the_user_cannot_read(installed: None) -> None:
    run("chmod", "600", "/etc/shiftboss/production.toml").ok()
    try:
        checked = run(PROGRAM, "systemd", "check", "--env", "production", "--socket", cwd="/opt/shiftboss")
        assert checked.code == 1
        assert "shiftboss cannot read /etc/shiftboss/production.toml" in checked.err
    finally:
        run("systemd-tmpfiles", "--create", "shiftboss.conf").ok()


def test_the_user_has_no_shell_and_the_configuration_is_not_for_everybody(installed: None) -> None:
    assert run("getent", "passwd", "shiftboss").ok().out.strip().endswith("nologin")
    assert run("stat", "--format=%a %U %G", "/etc/shiftboss", "/etc/shiftboss/production.toml").ok().out.splitlines() == [
        "750 root shiftboss",
        "640 root shiftboss",
    ]
