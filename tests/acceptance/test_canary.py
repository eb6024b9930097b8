"""No password gets out: a service with a canary in its database's address fails in every way there is, and nothing that it or
a command says, nothing that others can see of its processes and nothing that it leaves in files or tables holds a part of it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from tests.acceptance.worker import ROOT, _children, until
from tests.pg_cluster import PgCluster

MARK = "xyzzy"
# Between every two characters that end a part of a URL stands the mark: no part of the password is without it.
PASSWORD = f"{MARK}1@{MARK}2/{MARK}3:{MARK}4?{MARK}5%{MARK}6#{MARK}7&{MARK}8 {MARK}9"
WRONG = f"{MARK}-wrong@{MARK}"
CODE = """
import os
from shiftboss import task

@task(type="fine")
def fine() -> str:
    return "done"

@task(type="fails", max_attempts=1)
def fails() -> None:
    raise ValueError("on purpose", sorted(os.environ))

@task(type="dies", max_attempts=1)
def dies() -> None:
    os._exit(3)
"""


def needles() -> list[bytes]:
    """The mark as it is, and in base64 wherever in a longer text it begins. In URL encoding it is as it is."""
    found = [MARK.encode()]
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + MARK.encode() * 3).decode()
        found.append(encoded[4:16].encode())  # what stands before and after does not reach so far
    return [*found, MARK.encode().hex().encode(), MARK.encode("utf-16-le")]


NEEDLES = needles()


def leaks(data: bytes) -> list[bytes]:
    lowered = data.lower()
    return [needle for needle in NEEDLES if needle in data or needle.lower() in lowered]


@pytest.fixture
def guarded(pg_cluster: PgCluster) -> Iterator[PgCluster]:
    """A server that asks `app` for its password. Asks for the common one only to be skipped with it."""
    assert pg_cluster
    with PgCluster() as cluster:
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE app LOGIN PASSWORD {}").format(sql.Literal(PASSWORD)))
            connection.execute("CREATE DATABASE canary OWNER app")
        rules = ("local all shiftboss trust", "host all app 127.0.0.1/32 scram-sha-256")
        (cluster.folder / "data" / "pg_hba.conf").write_text("\n".join(rules) + "\n")
        os.kill(cluster.pid, signal.SIGHUP)
        until("a password is asked for", lambda: _is_refused(cluster))
        yield cluster


def _is_refused(cluster: PgCluster) -> bool:
    try:
        psycopg.connect(f"postgresql://app@127.0.0.1:{cluster.port}/canary").close()
    except psycopg.OperationalError as error:
        return "no password supplied" in str(error)
    return False


class Victim:
    """A folder with a service in it, whose address stands in one file; keeps all that anybody says."""

    def __init__(self, folder: Path, port: int, log_format: str) -> None:
        self.folder, self.port = folder, port
        self.said: list[tuple[str, bytes]] = []
        self.secret = folder / "secret"
        self.process: subprocess.Popen[bytes] | None = None
        self.logs = 0
        (folder / "jobs_of_canary.py").write_text(CODE)
        self.settings = {
            "imports": '["jobs_of_canary"]',
            "metrics_port": "0",
            "executors": "1",
            "log_level": '"debug"',
            "log_format": f'"{log_format}"',
            "control_socket": f'"{folder}/control"',
            "start_timeout": '"3s"',
            "heartbeat_interval": '"500ms"',
            "restart_backoff": '"50ms"',
        }
        self.configure()
        self.address(PASSWORD)

    def address(self, password: str) -> None:
        self.secret.write_text(f"postgresql://app:{quote(password, safe='')}@127.0.0.1:{self.port}/canary")
        self.secret.chmod(0o600)

    def configure(self, **settings: str) -> None:
        self.settings |= settings
        (self.folder / "shiftboss.toml").write_text("".join(f"{name} = {value}\n" for name, value in self.settings.items()))

    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "SHIFTBOSS_ENV")}
        return {**kept, "DATABASE_URL_FILE": str(self.secret), "DEBUG": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}"}

    # ---- what it is asked

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "shiftboss.cli", *words],
            cwd=self.folder,
            env=self.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        self.said.append((" ".join(words), done.stdout))
        return done.stdout.decode(errors="replace")

    def start(self) -> Path:
        self.logs += 1
        log = self.folder / f"log-{self.logs}"
        with log.open("wb") as file:
            command = [sys.executable, "-m", "shiftboss.cli", "start"]
            self.process = subprocess.Popen(command, cwd=self.folder, env=self.environ(), stdout=file, stderr=file)
        return log

    def start_well(self) -> Path:
        log = self.start()
        assert self.process is not None
        until("ready", lambda: b"service.ready" in log.read_bytes() or self.process.poll() is not None)  # type: ignore[union-attr]
        assert self.process.poll() is None, log.read_text()
        return log

    def ends_with(self, code: int) -> None:
        assert self.process is not None
        assert self.process.wait(30) == code

    def get(self, path: str) -> str:
        text = (self.folder / f"log-{self.logs}").read_text()
        url = "http://127.0.0.1:" + text.rpartition("http://127.0.0.1:")[2].split('"')[0].split()[0]
        try:
            with urllib.request.urlopen(url + path, timeout=10) as answer:
                body, headers = answer.read(), answer.headers
        except HTTPError as error:
            body, headers = error.read(), error.headers
        except (OSError, HTTPException):  # killed in the middle of its answer, too
            return ""  # the gateway was killed and is not back yet
        self.said.append((path, body + str(headers).encode()))
        return str(body.decode())

    def look(self) -> None:
        """At all that one can see without asking: words and environments of its processes, open files, its files."""
        assert self.process is not None
        for pid in (self.process.pid, *_children(self.process.pid)):
            for what in ("cmdline", "comm", "environ", "status"):
                with contextlib.suppress(OSError):  # it has just ended
                    self.said.append((f"/proc/{pid}/{what}", Path(f"/proc/{pid}/{what}").read_bytes()))
        ps = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, check=False)
        self.said.append(("ps", ps.stdout))
        for path in self.folder.rglob("*"):
            if path.is_file() and path != self.secret and "__pycache__" not in path.parts:
                self.said.append((str(path), path.read_bytes()))

    def assert_silent(self) -> None:
        found = [(what, data.decode(errors="replace")[-3000:]) for what, data in self.said if leaks(data)]
        assert not found, f"{found[0][0]} tells a part of the password:\n{found[0][1]}"
        assert len(self.said) > 3
        self.said.clear()


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) for name in ("json", "text", "journal")])
def victim(request: pytest.FixtureRequest, tmp_path: Path, guarded: PgCluster) -> Iterator[Victim]:
    made = Victim(tmp_path, guarded.port, request.param)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_the_search_finds_a_canary_in_every_form() -> None:
    written = PASSWORD, PASSWORD.upper(), quote(PASSWORD, safe=""), json.dumps(PASSWORD), repr(PASSWORD), PASSWORD.encode().hex()
    for text in written:
        assert leaks(text.encode())
    for before in ("", "a", "ab", "app:"):
        assert leaks(base64.b64encode(f"{before}{MARK * 3}".encode()))
    assert not leaks(b"nothing of it, xyzz y")


@pytest.mark.timeout(400)
def test_no_failure_tells_the_password(victim: Victim, guarded: PgCluster) -> None:
    cannot_start(victim, guarded)
    victim.run("db", "migrate")
    for words in ("db check --json", "db migrate --sql", "db roles --worker app", "db roles --worker nobody --print"):
        victim.run(*words.split())
    log = victim.start_well()
    works_and_crashes(victim)
    if victim.settings["log_format"] == '"json"':  # what commands say is the same whatever the log looks like
        is_asked(victim)
    is_reloaded(victim)
    loses_its_database(victim, guarded, log)
    with psycopg.connect(guarded.dsn("canary")) as connection:
        tables = connection.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 2200").fetchall()
        for (table,) in tables:
            rows = connection.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))).fetchall()
            victim.said.append((table, repr(rows).encode()))
        victim.said.append(("activity", repr(connection.execute("SELECT a::text FROM pg_stat_activity a").fetchall()).encode()))
    victim.run("stop")
    victim.ends_with(0)
    victim.said.append(("the log", log.read_bytes()))
    victim.assert_silent()


def cannot_start(victim: Victim, guarded: PgCluster) -> None:
    """No schema; a wrong password; no server."""
    victim.start()
    victim.ends_with(78)
    victim.address(WRONG)
    victim.start()
    victim.ends_with(75)
    for words in ("status", "db check", "tasks list", "db migrate", "config check", "enqueue fine"):
        victim.run(*words.split())
    victim.address(PASSWORD)
    guarded.stop()
    victim.start()
    victim.ends_with(75)
    assert "cannot be used now" in victim.run("db", "check")
    guarded.start()
    said = b"".join((victim.folder / f"log-{number}").read_bytes() for number in (1, 2, 3))
    assert b"shiftboss db migrate" in said and b"password authentication failed" in said, "or nothing was tried"
    victim.said.append(("failed starts", said))


def works_and_crashes(victim: Victim) -> None:
    """Nor does a type lead to code that is not registered for it."""
    for words in ("fine", "fails", "dies", "os.system command=touch${IFS}pwned", "jobs_of_canary.fine", "builtins:eval"):
        victim.run("enqueue", *words.split())
    until("all that can be are over", lambda: victim.run("tasks", "list").count("dead_letter") == 2, 30)
    assert victim.process is not None
    for number in (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV):
        for pid in _children(victim.process.pid):
            os.kill(pid, number)
        until("well again", lambda: '"ready"' in victim.get("/readyz"), 30)
    log = victim.folder / f"log-{victim.logs}"
    until("the others are unknown", lambda: log.read_bytes().count(b"no handler here for pending tasks") >= 3, 30)
    assert not (victim.folder / "pwned").exists()
    assert victim.run("tasks", "list", "--status", "pending").count("os.system") == 1
    victim.look()


def is_asked(victim: Victim) -> None:
    lists = "workers list --json", "queues list", "tasks list --json"
    configuration = "config show", "config show --json", "config check"
    for words in ("status", "status --json", "status --local --json", "dump", *lists, *configuration, "version", "no_such"):
        victim.run(*words.split())
    task_id = json.loads(victim.run("tasks", "list", "--type", "fails", "--json").splitlines()[-1])[0]["id"]
    assert "on purpose" in victim.run("tasks", "show", task_id)
    for path in ("/health", "/readyz", "/livez", "/metrics", "/", "/health?x=1"):
        victim.get(path)
    assert victim.process is not None
    victim.process.send_signal(signal.SIGUSR1)


def is_reloaded(victim: Victim) -> None:
    """Into what is wrong, and into what is right with another address."""
    right = victim.settings.copy()
    for wrong in ({"executors": '"many"'}, {"imports": '["no_such_module"]'}, {"executors": "= ="}, {"database_url_file": "1"}):
        victim.configure(**wrong)
        assert "ready" not in victim.run("reload")
        victim.settings = right.copy()
    victim.configure(executors="2")
    victim.address(WRONG)
    victim.run("reload")
    victim.address(PASSWORD)
    victim.run("reload")
    victim.run("restart")


def loses_its_database(victim: Victim, guarded: PgCluster, log: Path) -> None:
    guarded.stop(signal.SIGQUIT)
    until("not ready", lambda: "not ready" in victim.get("/readyz"), 10)
    for words in ("status", "status --json", "db check", "tasks list", "dump"):
        victim.run(*words.split())
    victim.get("/metrics")
    victim.get("/health")
    victim.look()
    guarded.start()
    until("ready", lambda: '"ready"' in victim.get("/readyz"), 20)
    assert b"database.unreachable" in log.read_bytes()
