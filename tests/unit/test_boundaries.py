"""What comes from outside stays data: nothing of it is executed or imported, none of it moves a cursor, all of it is bounded."""

from __future__ import annotations

import ast
import json
import logging
import os
import pty
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shiftboss.cli.exits import complain, json_text
from shiftboss.cli.local import print_local
from shiftboss.cli.main import main
from shiftboss.codec import DEFAULT_MAX_ARGS_BYTES, encode_untyped
from shiftboss.commands import ActorStatus, ServiceStatus
from shiftboss.context import Attempt
from shiftboss.errors import ArgumentsError, OptionError, ResultError
from shiftboss.failure import error_line, traceback_text
from shiftboss.logs.context import TASK_ATTRIBUTE, BoundTask
from shiftboss.logs.entry import encode_entry
from shiftboss.logs.formats import FORMATS, formatter_for
from shiftboss.model import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS, Claim
from shiftboss.options import MAX_KEY_CHARS, MAX_NAME_CHARS, MAX_TAGS, Options
from shiftboss.results import MAX_RESULT_BYTES, ResultCodec
from shiftboss.store.open import open_store

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("shiftboss", "actors", "supervisor") for path in (ROOT / folder).rglob("*.py"))

# ---- data is never code

_FORBIDDEN_MODULES = {
    "pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "code", "codeop", "runpy",
    "imp", "multiprocessing", "xmlrpc",
}  # fmt: skip
_FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pydoc.locate", "pkgutil.resolve_name"}
# What these import stands in tables of our own, or in the operator's setting `imports`.
_MAY_IMPORT = {
    "shiftboss/__init__.py", "shiftboss/logs/__init__.py", "shiftboss/cli/main.py", "actors/process.py", "actors/handlers.py",
}  # fmt: skip


def _calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def verdict(source: str, path: str) -> list[str]:
    """What in this source may turn data into code."""
    tree = ast.parse(source)
    calls = _calls(tree)
    wrong = sorted(_imports(tree) & _FORBIDDEN_MODULES) + sorted(calls & _FORBIDDEN_CALLS)
    if path not in _MAY_IMPORT:
        wrong += sorted(call for call in calls if call.rpartition(".")[2] in ("import_module", "spec_from_file_location"))
    shells = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "shell"]
    return wrong + ["shell="] * len(shells)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_can_turn_data_into_code(path: Path) -> None:
    assert verdict(path.read_text(), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import yaml.loader", "import marshal as m", "eval(x)", "exec(x)",
        "importlib.import_module(task.type)", "from importlib import import_module\nimport_module(x)", "__import__(x)",
        "subprocess.run(x, shell=True)", "os.system(x)", "def f():\n    import dill",
    ],
)  # fmt: skip
def test_one_that_could_is_found(source: str) -> None:
    assert verdict(source, "shiftboss/anything.py")


def test_every_source_is_looked_at() -> None:
    assert len(SOURCES) > 100
    assert {path.parts[len(ROOT.parts)] for path in SOURCES} == {"shiftboss", "actors", "supervisor"}


# ---- nothing moves the cursor

EVIL = "a\x1b[2J\x1b]0;title\x07\r\x9b31m\x7f\u202eb\u2028"
_MOVES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def evil_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where every text that somebody else may have written is hostile, past all checks of ours."""
    file = tmp_path / "tasks.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("SHIFTBOSS_ENV", raising=False)
    store = open_store(f"sqlite:///{file}")
    store.migrate()
    task = Options(queue="q", unique_key="k", tags=("t",)).new_task("t", encode_untyped("t", {"a": EVIL}))
    store.enqueue([task])
    store.close()
    with sqlite3.connect(file) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(tasks)")}
        texts = ["type", "queue", "unique_key", "last_error", "worker_id"]
        assert set(texts) < columns
        connection.execute(f"UPDATE tasks SET {', '.join(f'{name} = ?' for name in texts)}", [EVIL] * len(texts))
        connection.execute("UPDATE tasks SET tags = ?, meta = ?", [json.dumps([EVIL], ensure_ascii=False)] * 2)
        connection.execute(
            "INSERT INTO task_attempts (task_id, fence, attempt, outcome, worker_id, ended_at, error, traceback) "
            "VALUES (?, 1, 1, 'failed', ?, '2026-01-01T00:00:00+00:00', ?, ?)",
            (task.id, EVIL, EVIL, f"{EVIL}\n  {EVIL}"),
        )
        connection.execute("INSERT INTO queues (name, paused) VALUES (?, 1)", (EVIL,))
        connection.execute(
            "INSERT INTO workers (id, hostname, pid, version, started_at, last_heartbeat, timeout_s, pool_size) "
            "VALUES (?, ?, 1, ?, '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00', 30, 1)",
            (EVIL, EVIL, EVIL),
        )
        leader = "INSERT INTO leader (name, worker_id, term, expires_at) VALUES ('main', ?, 1, '2999-01-01T00:00:00+00:00')"
        connection.execute(leader, (EVIL,))
    connection.close()
    return task.id


COMMANDS = {
    "list": ["tasks", "list"],
    "show": ["tasks", "show", "ID"],
    "queues": ["queues", "list"],
    "workers": ["workers", "list"],
    "status": ["status"],
    "of the type": ["tasks", "list", "--type", EVIL],
}


@pytest.mark.parametrize("how", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_passes_on_what_moves_the_cursor(
    command: list[str], how: list[str], evil_database: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main([word.replace("ID", evil_database) for word in command] + how)
    out, err = capfd.readouterr()
    assert code == 0, err
    assert not _MOVES.search(out), repr(out)
    assert not _MOVES.search(err), repr(err)
    assert "[2J" in out, "it is shown, made visible"
    if how:
        assert EVIL in _strings(json.loads(out)), "and to a program as it is"


def _strings(data: Any) -> list[str]:
    match data:
        case dict():
            return [text for pair in data.items() for one in pair for text in _strings(one)]
        case list():
            return [text for one in data for text in _strings(one)]
    return [data] if isinstance(data, str) else []


def test_nor_on_a_terminal(evil_database: str) -> None:
    for command in ("tasks list", "tasks list --json", f"tasks show {evil_database}", "workers list", "status"):
        said = _on_a_terminal([sys.executable, "-m", "shiftboss.cli", *command.split()])
        assert "[2J" in said
        assert not _MOVES.search(said), repr(said)


def _on_a_terminal(command: list[str]) -> str:
    ours, its = pty.openpty()
    environ = {**os.environ, "TERM": "dumb", "COLUMNS": "300"}
    with subprocess.Popen(command, stdout=its, stderr=its, stdin=subprocess.DEVNULL, env=environ):
        os.close(its)
        said = b""
        while chunk := _read(ours):
            said += chunk
    os.close(ours)
    return said.decode().replace("\r\n", "\n")  # the terminal's own


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65_536)
    except OSError:  # its last user is gone
        return b""


def test_an_error_and_an_answer_of_the_service_do_not_either(capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"one {EVIL}\ntwo {EVIL}")
    print_local(
        ServiceStatus(
            pid=1, phase="quiet", why=EVIL, last_reload=EVIL, last_reload_ok=False,
            actors=(ActorStatus(name="executor-1", state="ready", last_end=EVIL, status=EVIL),),
        )
    )  # fmt: skip
    said = "".join(capsys.readouterr())
    assert said.count("[2J") >= 6
    assert not _MOVES.search(said), repr(said)
    assert json.loads(json_text({"a": EVIL, "b": msgspec.Raw(b'{"c":\t\r\n 1}')})) == {"a": EVIL, "b": {"c": 1}}


@pytest.mark.parametrize("format_", FORMATS)
def test_no_line_of_a_log_moves_the_cursor_or_forges_another(format_: str) -> None:
    fields = {"task_id": EVIL, "type": EVIL, "error": f"{EVIL}\nnew line", EVIL: 1, "worker_id": EVIL, "tags": [EVIL]}
    record = logging.makeLogRecord(
        {"name": EVIL, "levelno": 40, "levelname": "ERROR", "msg": f"{EVIL}\nforged", "event": "task.failed", "fields": fields}
    )
    setattr(record, TASK_ATTRIBUTE, BoundTask(EVIL, EVIL, 1, EVIL))
    record.exc_text = f"Traceback\n{EVIL}"
    said = formatter_for(format_, "executor-1", colours=False).format(record)
    assert not _MOVES.search(said), repr(said)
    if format_ != "text":
        assert "\n" not in said
    entry = encode_entry(record, "executor-1")
    assert not any(byte in entry for byte in (b"\x1b", b"\x07", b"\x7f", "\x9b".encode(), "\u202e".encode()))


# ---- all of it is bounded


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "q" * (MAX_NAME_CHARS + 1)}, {"unique": "k" * (MAX_KEY_CHARS + 1)}, {"tags": ["t" * (MAX_NAME_CHARS + 1)]},
        {"tags": [str(number) for number in range(MAX_TAGS + 1)]}, {"meta": {"m": "x" * 70_000}}, {"delay": 1e300},
        {"max_attempts": 10**9}, {"priority": 10**9},
    ],
    ids=str,
)  # fmt: skip
def test_an_option_past_its_bound_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises((OptionError, ArgumentsError)) as refused:
        Options().using(**options)
    assert len(str(refused.value)) < 1_000, "and not repeated at full length"


def test_arguments_and_results_past_their_bound_are_refused() -> None:
    with pytest.raises(ArgumentsError, match="more than 1,048,576"):
        encode_untyped("t", {"a": "x" * DEFAULT_MAX_ARGS_BYTES})
    with pytest.raises(ResultError, match="more than 1,048,576"):
        ResultCodec("t", str).encode("x" * MAX_RESULT_BYTES)


def test_what_a_failure_leaves_behind_is_cut() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            return "x" * 10_000_000

    try:
        raise Rude
    except Rude as error:
        assert len(error_line(error)) <= MAX_ERROR_CHARS
        assert len(traceback_text(error)) <= MAX_TRACEBACK_CHARS


def test_a_note_of_progress_is_cut() -> None:
    notes: list[str] = []
    claim = Claim(
        task_id="0", fence=1, attempt=1, type="t", queue="q", priority=0, args=msgspec.Raw(b"{}"), max_attempts=1, timeout_s=None,
        running=True, enqueued_at=0.0, due_at=0.0,
    )  # fmt: skip
    Attempt(claim, worker="w", _on_progress=lambda _claim, _percent, note: notes.append(note)).progress(1, EVIL * 10_000)
    assert len(notes[0]) <= 500
    assert not _MOVES.search(notes[0])
