"""What every test here does with the machine: run a command, wait for something, read the journal."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PATIENCE_S: Final = 30.0


def until(what: str, condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Ask again and again until `condition` is true; returns what it returned."""
    pause, give_up_s = threading.Event(), time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > give_up_s:
            raise AssertionError(f"waited {timeout_s:g} s in vain: {what}")
        pause.wait(0.1)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str
    duration_s: float

    def ok(self) -> Result:
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self


def run(*command: str | Path, env: Mapping[str, str] | None = None, user: str | None = None, cwd: str | Path = "/") -> Result:
    """Run a command to its end, as root or as another user."""
    started_s = time.monotonic()
    who: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=60, **who)
    return Result(done.returncode, done.stdout, done.stderr, time.monotonic() - started_s)


def journal(*matches: str) -> list[dict[str, Any]]:
    """The journal's entries of this boot that match, oldest first."""
    run("journalctl", "--sync").ok()
    out = run("journalctl", "--boot", "--all", "--output=json", "--no-pager", *matches).ok().out
    return [json.loads(line) for line in out.splitlines()]


def text_of(entries: Sequence[Mapping[str, Any]]) -> str:
    """Their messages, one after the other; bytes that are no text come as numbers."""
    return "\n".join(_text(entry.get("MESSAGE") or "") for entry in entries)


def _text(message: str | list[int]) -> str:
    return message if isinstance(message, str) else bytes(message).decode(errors="replace")


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
