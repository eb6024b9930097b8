"""The command line on a real SQLite file: what it prints, for people and programs, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import typer

from shiftboss.cli.main import main, make_app
from shiftboss.config import load_settings
from shiftboss.model import Ended, NewTask, Outcome, TaskState, TypeInfo, WorkerView, new_task_id
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk, Store
from shiftboss.store.open import open_store

NO_TASK = "01920000-0000-7000-8000-000000000000"


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs one command line in an empty folder, with none of our variables set."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "DEBUG", "SHIFTBOSS_ENV"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        code = main(arguments)
        return Ran(code, *capfd.readouterr())

    return run


@pytest.fixture
def store(cli: Cli) -> Store:
    opened = open_store("sqlite:///shiftboss.db")
    opened.migrate()
    return opened


def add(store: Store, **fields: Any) -> str:
    task = NewTask(**{"id": new_task_id(), "type": "mail:send", "args": msgspec.Raw(b'{"to":"a"}'), **fields})
    store.enqueue([task])
    return task.id


def hold(store: Store, worker_id: str = "worker-1") -> None:
    """Have a worker claim everything in the default queue."""
    now = store.now()
    worker = WorkerView(id=worker_id, hostname="h", pid=1, version="1", started_at=now, last_heartbeat=now, pool_size=4, active=1)
    store.register(worker, 60.0, exclusive=False)
    ask = ClaimAsk(
        lanes=[LaneAsk(queue="default", priority=0, limit=10)], limit=10, running=10, types=[TypeInfo(type="mail:send")]
    )
    store.exchange(Exchange(worker_id=worker_id, claim=ask))


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = getattr(command, "commands", {})
    return [path, *(found for name, child in below.items() for found in commands(child, (*path, name)))]


# ---- every command line


@pytest.mark.parametrize("path", commands(typer.main.get_command(make_app())), ids=" ".join)
def test_every_command_has_help(cli: Cli, path: tuple[str, ...]) -> None:
    ran = cli(*path, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: {' '.join(('shiftboss', *path))}")


@pytest.mark.parametrize(
    "line",
    [
        "bogus",
        "",
        "tasks bogus",
        "status --bogus",
        "tasks show",
        "tasks show 12",
        "tasks list --status lost",
        "tasks list --limit 0",
        "tasks retry",
        "tasks cancel",
        "tasks delete",
        "tasks retry --type a",
        "queues set mail",
        "queues set mail --concurrency -1",
        "enqueue",
        "enqueue t nonsense",
        "enqueue t a=1 a=2",
        "enqueue t [1]",
        "enqueue t {",
        "enqueue t --delay soon",
        "enqueue t --at tomorrow",
        "enqueue t --at 2030-01-01T00:00:00",
        "enqueue t --priority 101",
        "enqueue t --delay 1s --at 2030-01-01T00:00:00Z",
        "enqueue two\u00a0words",
        'enqueue t {"a":NaN}',
        "config show --set debug",
        "config init --env nowhere",
        "db migrate --plan --sql",
    ],
)
def test_a_wrong_command_line_exits_64_and_says_why(cli: Cli, line: str) -> None:
    ran = cli(*line.split(" ") if line else [])
    assert (ran.code, ran.out) == (64, "")
    assert ran.err
    assert "Traceback" not in ran.err


def test_bad_settings_exit_78_with_every_mistake(cli: Cli) -> None:
    Path("bad.toml").write_text("debug = 3\nworkers = 1\n")
    ran = cli("status", "--config", "bad.toml")
    assert (ran.code, ran.out) == (78, "")
    assert ran.err.startswith("shiftboss: bad.toml:1: debug = 3")
    assert len(ran.err.splitlines()) == 2
    assert cli("start", "--config", "bad.toml").code == 78
    assert cli("status", "--env", "nowhere").code == 78


def test_a_database_that_is_not_there_exits_75(cli: Cli) -> None:
    ran = cli("status", "--set", "database_url=postgresql://u:s3cret@127.0.0.1:1/x")
    assert (ran.code, ran.out) == (75, "")
    assert ran.err.startswith("shiftboss: ")
    assert "s3cret" not in ran.err


def test_a_database_without_our_schema_exits_75_and_names_the_command(cli: Cli) -> None:
    ran = cli("status")
    assert ran.code == 75
    assert "shiftboss db migrate" in ran.err


def test_debug_adds_the_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", "1")
    assert "Traceback" in cli("status", "--env", "nowhere").err


# ---- enqueue


def test_enqueue_prints_the_id_of_a_task_that_is_stored(cli: Cli) -> None:
    ran = cli(
        "enqueue", "mail:send", "user_id=42", "lang=no", 'tags=["a"]', 'text="7"', "empty=", "--priority", "9", "--queue", "mail"
    )
    task = cli("tasks", "show", ran.out.strip(), "--json").data
    assert task["args"] == {"user_id": 42, "lang": "no", "tags": ["a"], "text": "7", "empty": ""}
    assert (task["type"], task["queue"], task["priority"], task["status"]) == ("mail:send", "mail", 9, "pending")


def test_enqueue_takes_one_json_object_and_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cli("enqueue", "t", '{"a": {"b": [1, null]}}', "--json").data["id"]
    assert cli("tasks", "show", first, "--json").data["args"] == {"a": {"b": [1, None]}}
    reading, writing = os.pipe()
    os.write(writing, b'{"c": 1}')
    os.close(writing)
    with os.fdopen(reading) as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        second = cli("enqueue", "t", "-").out.strip()
    assert cli("tasks", "show", second, "--json").data["args"] == {"c": 1}


def test_enqueue_with_a_taken_unique_key_says_which_task_has_it(cli: Cli) -> None:
    first = cli("enqueue", "t", "--unique", "k").out
    again = cli("enqueue", "t", "--unique", "k")
    assert (again.code, again.out) == (0, first)
    assert "not enqueued" in again.err
    assert cli("enqueue", "t", "--unique", "k", "--json").data == {"id": first.strip(), "existing": True}


def test_enqueue_keeps_the_options(cli: Cli) -> None:
    made = cli("enqueue", "t", "--delay", "2h", "--timeout", "1m", "--max-attempts", "3", "--tag", "a", "--tag", "b").out.strip()
    task = cli("tasks", "show", made, "--json").data
    assert (task["timeout_s"], task["max_attempts"], task["tags"]) == (60.0, 3, ["a", "b"])
    assert task["run_at"] > task["enqueued_at"]


# ---- tasks


def test_list_filters_and_pages(cli: Cli, store: Store) -> None:
    ids = [
        add(store, type=f"t:{number % 2}", queue="a" if number < 2 else "b", tags=("x",) if number == 3 else ())
        for number in range(4)
    ]
    assert [task["id"] for task in cli("tasks", "list", "--json").data] == ids[::-1]
    assert [task["id"] for task in cli("tasks", "list", "--type", "t:1", "--json").data] == [ids[3], ids[1]]
    assert [task["id"] for task in cli("tasks", "list", "--queue", "a", "--json").data] == [ids[1], ids[0]]
    assert [task["id"] for task in cli("tasks", "list", "--tag", "x", "--json").data] == [ids[3]]
    assert cli("tasks", "list", "--status", "running", "--json").data == []
    page = cli("tasks", "list", "--limit", "2")
    assert f"--before {ids[2]}" in page.err
    assert [task["id"] for task in cli("tasks", "list", "--before", ids[2], "--json").data] == [ids[1], ids[0]]


def test_list_for_people_is_plain_columns_where_nobody_looks(cli: Cli, store: Store) -> None:
    task_id = add(store, type="evil\x1b[2J")
    lines = cli("tasks", "list").out.splitlines()
    assert lines[0].split() == ["ID", "TYPE", "QUEUE", "STATUS", "ATTEMPTS", "UPDATED", "ERROR"]
    assert lines[1].startswith(f"{task_id}  evil\\x1b[2J  default  pending  0/?")
    assert cli("tasks", "list", "--status", "dead_letter") == (0, "", "no such tasks\n")


def test_show_says_all_or_exits_1(cli: Cli, store: Store) -> None:
    task_id = add(store)
    shown = cli("tasks", "show", task_id.upper())
    assert shown.out.startswith("id ")
    assert task_id in shown.out
    assert '{"to":"a"}' in shown.out
    missing = cli("tasks", "show", NO_TASK)
    assert (missing.code, missing.out) == (1, "")
    assert NO_TASK in missing.err


def test_show_says_that_no_history_is_kept(cli: Cli, store: Store) -> None:
    task_id = add(store)
    hold(store)
    end = Ended(task_id=task_id, fence=1, outcome=Outcome.SUCCESS)
    store.exchange(Exchange(worker_id="worker-1", ended=[end], keep_completed=False))
    for option in ((), ("--json",)):
        shown = cli("tasks", "show", task_id, *option)
        assert (shown.code, shown.out) == (1, "")
        assert "has completed" in shown.err
        assert "completed_retention" in shown.err


def test_cancel_retry_and_delete_move_what_they_name(cli: Cli, store: Store) -> None:
    first, second = add(store), add(store)
    assert cli("tasks", "cancel", first, "--json").data == {"cancelled": 1, "requested": 0}
    assert cli("tasks", "show", first, "--json").data["status"] == "cancelled"
    assert cli("tasks", "show", second, "--json").data["status"] == "pending"
    assert cli("tasks", "retry", first) == (0, "1 task pending again\n", "")
    assert cli("tasks", "retry", first).code == 1
    assert cli("tasks", "delete", first, second) == (0, "2 tasks deleted\n", "")
    assert cli("tasks", "delete", first).code == 1
    assert cli("tasks", "cancel", NO_TASK).code == 1


def test_a_task_that_a_worker_holds_is_asked_to_stop_and_not_deleted(cli: Cli, store: Store) -> None:
    task_id = add(store)
    hold(store)
    assert cli("tasks", "delete", task_id).code == 1
    assert cli("tasks", "cancel", "--worker", "worker-1", "--yes", "--json").data == {"cancelled": 0, "requested": 1}
    assert cli("tasks", "show", task_id, "--json").data["cancel_requested"] is True


def test_many_at_once_must_be_meant(cli: Cli, store: Store) -> None:
    add(store)
    for verb in ("cancel", "retry", "delete"):
        assert "say which tasks" in cli("tasks", verb, "--yes").err
        assert "add --yes" in cli("tasks", verb, "--all").err  # standard input of the tests is no terminal
    assert store.status_counts() == {("mail:send", "pending"): 1}
    assert cli("tasks", "cancel", "--type", "other", "--yes").code == 1
    assert cli("tasks", "delete", "--all", "--yes") == (0, "1 task deleted\n", "")


# ---- queues, workers, status


def test_queues_are_paused_resumed_and_set(cli: Cli, store: Store) -> None:
    add(store, queue="mail")
    assert cli("queues", "pause", "mail", "bulk") == (0, "2 queues paused\n", "")
    assert cli("queues", "set", "mail", "--concurrency", "4", "--weight", "3").code == 0
    by_name = {queue["name"]: queue for queue in cli("queues", "list", "--json").data}
    assert (by_name["mail"]["paused"], by_name["mail"]["concurrency"], by_name["mail"]["weight"]) == (True, 4, 3)
    assert by_name["bulk"]["paused"] is True
    assert cli("queues", "resume", "mail").code == 0
    line = next(line for line in cli("queues", "list").out.splitlines() if line.startswith("mail"))
    assert line.split() == ["mail", "no", "4", "3", "1", "1", "0", "0", "0"]


def test_status_shows_workers_queues_and_tasks(cli: Cli, store: Store) -> None:
    add(store)
    hold(store)
    add(store, queue="mail")
    status = cli("status", "--json").data
    assert status["tasks"] == [
        {"type": "mail:send", "status": "pending", "count": 1},
        {"type": "mail:send", "status": "running", "count": 1},
    ]
    assert [worker["id"] for worker in status["workers"]] == ["worker-1"]
    assert {queue["name"] for queue in status["queues"]} >= {"default", "mail"}
    assert (status["environment"], status["leader"]) == ("development", None)
    assert "worker-1" in cli("workers", "list").out
    assert cli("workers", "list", "--json").data[0]["alive"] is True
    assert "mail:send" in cli("status").out


# ---- db, config, version


def test_db_is_migrated_once(cli: Cli) -> None:
    assert cli("db", "check").code == 1
    assert cli("db", "check", "--json").data["current"] == 0
    assert "CREATE TABLE" in cli("db", "migrate", "--sql").out.upper()
    assert "would run" in cli("db", "migrate", "--plan").out
    assert cli("db", "check").code == 1
    assert "ran" in cli("db", "migrate").out
    assert cli("db", "check").code == 0
    assert "nothing to do" in cli("db", "migrate").err


def test_config_show_is_toml_that_says_where_values_come_from(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app:s3cret@db/x")
    Path("shiftboss.toml").write_text('claim_interval = "2s"\n')
    ran = cli("config", "show", "--set", "worker_pool_size=3")
    assert 'claim_interval = "2s"' in ran.out
    assert "# shiftboss.toml:1" in ran.out
    assert "# command line" in ran.out
    assert "s3cret" not in ran.out
    Path("shown.toml").write_text(ran.out)
    assert load_settings(file=Path("shown.toml"), environ={}).settings.worker_pool_size == 3
    shown = cli("config", "show", "--json").data
    assert shown["claim_interval"] == {"value": "2s", "origin": "shiftboss.toml:1"}
    assert shown["database_url"]["value"] == "postgresql://app:***@db/x"


def test_config_init_writes_a_file_that_check_accepts_and_never_overwrites_unasked(cli: Cli) -> None:
    assert cli("config", "init", "--env", "production") == (0, "wrote conf/production.toml\n", "")
    assert cli("config", "check", "--env", "production").code == 0
    Path("conf/production.toml").write_text("debug = true\n")
    assert cli("config", "init", "--env", "production").code == 78
    assert Path("conf/production.toml").read_text() == "debug = true\n"
    assert cli("config", "init", "conf/production.toml", "--env", "production", "--force").code == 0
    assert cli("config", "check", "--env", "production", "--json").data["environment"] == "production"


def test_version(cli: Cli) -> None:
    assert cli("version").out.startswith("shiftboss ")
    assert cli("version", "--json").data["version"]


# ---- on PostgreSQL


def test_the_same_commands_work_on_postgresql(cli: Cli, pg_empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", pg_empty_database)
    refused = cli("enqueue", "t")
    assert (refused.code, "shiftboss db migrate" in refused.err) == (75, True)
    assert cli("db", "check").code == 1
    assert cli("db", "migrate").code == 0
    assert cli("db", "check").code == 0
    task_id = cli("enqueue", "t", "a=1", "--queue", "mail").out.strip()
    assert cli("tasks", "show", task_id, "--json").data["args"] == {"a": 1}
    assert cli("queues", "pause", "mail").code == 0
    assert cli("status", "--json").data["tasks"] == [{"type": "t", "status": "pending", "count": 1}]
    assert cli("tasks", "cancel", task_id).code == 0
    assert cli("tasks", "retry", "--status", "cancelled", "--yes").code == 0
    assert cli("tasks", "delete", task_id).code == 0
    assert cli("tasks", "show", task_id).code == 1


# ---- as a process


def run_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shiftboss.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=30, check=False)


def test_help_loads_neither_rich_nor_a_database_and_is_quick() -> None:
    began_s = time.monotonic()
    assert run_process("--help").returncode == 0
    took_s = time.monotonic() - began_s
    loaded = run_process("--help", PYTHONPROFILEIMPORTTIME="1").stderr
    heavy = [
        name for name in ("rich.console", "psycopg", "sqlite3", "pykka", "uvicorn", "prometheus_client") if f" {name}\n" in loaded
    ]
    assert heavy == []
    assert took_s < 2.0  # 0.2 s on an idle machine; this one may be busy


def test_a_reader_that_has_gone_is_no_traceback(store: Store) -> None:
    store.enqueue([NewTask(id=new_task_id(), type="t", args=msgspec.Raw(b"{}")) for _ in range(3_000)])
    command = f"{shlex.quote(sys.executable)} -m shiftboss.cli tasks list --limit 3000 | head -1"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (len(ran.stdout.splitlines()), ran.stderr) == (1, "")


def test_a_terminal_gets_a_framed_table(store: Store) -> None:
    task_id = add(store)
    parent, child = pty.openpty()
    ran = subprocess.run(
        [sys.executable, "-m", "shiftboss.cli", "tasks", "list"], stdout=child, stderr=child, timeout=30, check=False
    )
    os.close(child)
    shown = os.read(parent, 65_536).decode()
    os.close(parent)
    assert ran.returncode == 0
    assert "─" in shown
    assert "pending" in shown
    assert task_id in shown  # in one piece, though the terminal is narrow


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands(shell: str) -> None:
    variables = {
        "bash": {"COMP_WORDS": "shiftboss ta", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "shiftboss ta"},
        "fish": {"_TYPER_COMPLETE_ARGS": "shiftboss ta", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    ran = run_process(_SHIFTBOSS_COMPLETE=f"complete_{shell}", **variables)
    assert "tasks" in ran.stdout
    assert "queues" not in ran.stdout


def test_states_are_offered_in_the_reference_of_list(cli: Cli) -> None:
    assert all(state in " ".join(cli("tasks", "list", "--help").out.split()) for state in TaskState)
