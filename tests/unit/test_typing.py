"""A type checker finds a wrong call, and finds nothing wrong in a right one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import shiftboss

SNIPPET = """
from typing import Any
from datetime import timedelta
from shiftboss import Attempt, Client, Handle, Task, default_client, task

@task
def send(user_id: int, lang: str = "en") -> str:
    return lang

@task(queue="mail", max_attempts=5, timeout=timedelta(seconds=30))
def with_options(user_id: int) -> None: ...

@task
def progress(attempt: Attempt, rows: int) -> float:
    return 1.0

@task
async def sync_account(attempt: Attempt, account: str) -> int:
    return 7

@task(priority=5)
async def plain_async(account: str) -> list[int]:
    return []

async def right(client: Client, attempt: Attempt) -> None:
    a: Handle[str] = send.enqueue(42, lang="no")
    b: str = send.enqueue(42).result(timeout=1)
    c: str = send(42)
    d: Handle[int] = await sync_account.aenqueue("x")
    e: int = await (await sync_account.aenqueue(account="x")).aresult()
    f: int = await sync_account(attempt, "x")
    g: float = progress(attempt, 5)
    h: Handle[float] = progress.using(delay=5, unique="k").enqueue(rows=3)
    i: list[Handle[str]] = client.enqueue_many([send.prepare(1), send.prepare(2, "no")])
    j: Handle[str] = client.enqueue(send, 1)
    k: list[int] = plain_async.enqueue("x").result()
    m: Task[[int], None] = with_options
    n: Handle[Any] = client.enqueue("mail:send", anything=1)

async def wrong(client: Client, attempt: Attempt) -> None:
    send.enqueue("42")                                # E: arg-type
    send.enqueue()                                    # E: call-arg
    send.enqueue(1, language="no")                    # E: call-arg
    send.enqueue(1, "no", 3)                          # E: call-arg
    send("1")                                         # E: arg-type
    send.using(priority="high")                       # E: arg-type
    send.using(queue="q").enqueue("1")                # E: arg-type
    send.prepare("1")                                 # E: arg-type
    await send.aenqueue(None)                         # E: arg-type
    client.enqueue(send, "1")                         # E: call-overload
    progress.enqueue(attempt, 5)                      # E: arg-type
    progress.enqueue(attempt)                         # E: arg-type
    await sync_account.aenqueue()                     # E: call-arg
    with_options.enqueue(user_id="1")                 # E: arg-type
    o: int = send.enqueue(1).result()                 # E: assignment
    p: str = await sync_account(attempt, "x")         # E: assignment
    q: str = sync_account.enqueue("x").result()       # E: assignment
    r: int = plain_async.enqueue("x").result()        # E: assignment
    task(max_attempts="5")                            # E: call-overload

def lost() -> None:
    send.enqueue                                      # not called: nothing for a type checker
"""


def test_mypy_agrees_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--hide-error-context", "--config-file=", str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(shiftboss.__file__).parent.parent)},  # an editable install is not followed
        check=False,
    )
    found = {
        int(match[1]): match[2]
        for match in re.finditer(r"snippet\.py:(\d+): error: .*\[([a-z-]+)\]$", checked.stdout, re.MULTILINE)
    }
    expected = {
        number: match[1] for number, line in enumerate(SNIPPET.splitlines(), 1) if (match := re.search(r"# E: ([a-z-]+)", line))
    }
    assert found == expected, checked.stdout + checked.stderr
