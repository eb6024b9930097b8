"""What each kind of process loads: every module costs all of its kind memory and time at the start, and most can do without."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SQLITE, POSTGRES = "shiftboss.store.sqlite.store", "shiftboss.store.postgres.store"
PROCESS = "shiftboss.actors.process"
# Loaded by nobody but those who run event loops, or by psycopg for itself.
HEAVY = {
    "asyncio",
    "ssl",
    "uvloop",
    "email",
    "http",
    "socketserver",
    "mimetypes",
    "importlib.metadata",
    "zipfile",
    "tempfile",
    "secrets",
}
# Of the standard library, 1 MiB together in each process: `dataclasses` brings along `inspect`, and that `ast`, `dis` and more.
# An executor needs them, for the signatures of handlers and for arguments that are dataclasses.
DESCRIBING = {"inspect", "dataclasses"}
LATER = {"typing_extensions", "difflib"}  # by user code, or for a mistake
METRICS = {"prometheus_client", "shiftboss.actors.scrape", "shiftboss.actors.metrics"}  # when a gateway is first scraped
NEVER = {"rich", "typer", "click", "starlette", "uvicorn", "sqlalchemy", "multiprocessing"}
DRIVERS = {"psycopg", "sqlite3"}
ACTORS = ("claimer", "heartbeat", "leader", "gateway", "executor")


def loaded(*modules: str) -> set[str]:
    """What a fresh interpreter has loaded after these, beyond what it starts with (which is up to its installation)."""
    script = (
        "import sys, importlib; before = set(sys.modules)\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(*(set(sys.modules) - before))"
    )
    command = [sys.executable, "-c", script, *modules]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=env).stdout.split())


@pytest.mark.parametrize("actor", ACTORS)
def test_an_actor_on_sqlite_loads_only_what_its_role_uses(actor: str) -> None:
    own = f"shiftboss.actors.{actor}"
    got = loaded(PROCESS, own, *(() if actor == "executor" else (SQLITE,)))
    describing = set() if actor == "executor" else DESCRIBING
    assert got & (HEAVY | METRICS | NEVER | LATER | describing | {"psycopg"}) == set()
    assert {f"shiftboss.actors.{other}" for other in ACTORS} & got == {own}
    assert (actor == "executor") != ("sqlite3" in got), "an executor knows no database"


def test_a_gateway_that_nobody_has_asked_loads_neither_a_server_nor_a_store() -> None:
    got = loaded(PROCESS, "shiftboss.actors.gateway")
    assert got & {"shiftboss.actors.webserver", "shiftboss.store.base", "concurrent.futures", "random", "http"} == set()


def test_the_server_is_loaded_by_the_first_connection() -> None:
    script = (
        "import socket, sys, threading\n"
        "from shiftboss.actors.web import Answer, serve\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "answers = {'/': lambda: Answer(body=b'hello')}\n"
        "threading.Thread(target=serve, args=(listener, answers), daemon=True).start()\n"
        "threading.Event().wait(0.3)\n"
        "before = 'http.server' in sys.modules\n"
        "with socket.create_connection(listener.getsockname(), 10) as client:\n"
        "    client.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n')\n"
        "    text = b''.join(iter(lambda: client.recv(4096), b''))\n"
        "print(before, 'http.server' in sys.modules, text.endswith(b'hello'))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    assert told.split() == ["False", "True", "True"]


@pytest.mark.parametrize("actor", ["claimer", "heartbeat", "leader"])
def test_an_actor_on_postgresql_loads_no_other_driver_and_no_framework(actor: str) -> None:
    got = loaded(PROCESS, f"shiftboss.actors.{actor}", POSTGRES)
    assert got & (NEVER | METRICS | {"sqlite3", "uvloop", "http"}) == set()
    assert "psycopg" in got


def test_the_supervisor_loads_neither_actors_nor_drivers() -> None:
    got = loaded("shiftboss.service")
    assert got & (HEAVY | NEVER | LATER | DESCRIBING | METRICS | DRIVERS | {"pykka"}) == set()


def test_an_application_that_enqueues_without_asyncio_does_not_get_it() -> None:
    got = loaded("shiftboss.client", "shiftboss.decorator", "shiftboss.attempt", SQLITE)
    assert got & (HEAVY | NEVER | METRICS | {"psycopg", "pykka"}) == set()
