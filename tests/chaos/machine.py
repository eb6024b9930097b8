"""Where and of what a run was: for the head of a report, without which its figures say nothing."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.pg_cluster import find_server_programs

ROOT: Final = Path(__file__).parents[2]


def commit() -> str:
    """Of what is tested, with a + when files of it have been changed since; "unknown" outside a repository."""
    head = _said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _said("git", "-C", str(ROOT), "status", "--porcelain", "--", "shiftboss", "actors", "supervisor", "tests/chaos")
    return f"{head}+" if head and changed else head or "unknown"


def describe(database: str) -> str:
    cores = len(os.sched_getaffinity(0))
    library = f"SQLite {sqlite3.sqlite_version}"
    if database == "postgres":
        words = _said(str(find_server_programs() / "postgres"), "--version").split()  # postgres (PostgreSQL) 15.1 (Debian …)
        library = f"PostgreSQL {words[2] if len(words) > 2 else ''}"
    return f"{cores} cores of {_processor()}, Linux {platform.release()}, Python {platform.python_version()}, {library}"


def command() -> str:
    return " ".join(["python -m tests.chaos.run", *sys.argv[1:]])


class Load:
    """How busy all of the machine was, ours and others', since it was made."""

    def __init__(self) -> None:
        self._before = _jiffies()

    def __str__(self) -> str:
        """Of all cores, in percent; `stolen` by neighbours of the virtual machine."""
        spent = [now - before for now, before in zip(_jiffies(), self._before, strict=True)]
        total, idle, stolen = sum(spent[:8]) or 1, spent[3] + spent[4], spent[7]
        return f"{100 * (total - idle - stolen) / total:.0f} % busy, {100 * stolen / total:.0f} % stolen"


def _jiffies() -> list[int]:
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _said(*command_: str) -> str:
    try:
        return subprocess.run(command_, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
