"""Runs what a page of documentation shows, as a reader would: its files, its commands, its second terminal.

A comment before a code block says what it is: `<!-- file: NAME -->` is written to that file, `<!-- background -->` runs on,
`<!-- wait -->` is repeated until the answer is right, `<!-- log -->` appears in what runs in the background, `<!-- shown -->`
is not run. A console block without one is run once. In an answer `…` stands for anything, a line of it for any lines.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_S = 40.0
_BLOCK = re.compile(r"(?:<!-- (?P<directive>[^\n]*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)\n```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One code block of a page."""

    directive: str
    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["directive"] or "", found["language"], found["text"], text.count("\n", 0, found.start()) + 1)
        for found in _BLOCK.finditer(text)
    ]


class Reader:
    """Follows one page in an empty folder."""

    def __init__(self, page: Path, folder: Path, variables: dict[str, str]) -> None:
        self._page, self._folder = page, folder
        self._env = {name: text for name, text in os.environ.items() if not name.startswith(("SHIFTBOSS", "PYTEST", "COV"))}
        for name in ("DATABASE_URL", "DEBUG", "METRICS_PORT", "WORKER_POOL_SIZE", "ENQUEUE_EXAMPLES"):
            self._env.pop(name, None)
        self._env |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        } | variables
        self._background: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._read_of_log = 0

    def follow(self) -> None:
        """Do everything that the page says; raises `AssertionError` where the answer is another."""
        try:
            for block in blocks_of(self._page):
                self._do(block)
        finally:
            self.leave()

    def leave(self) -> None:
        for process, _log in self._background:
            process.send_signal(signal.SIGTERM)
        for process, _log in self._background:
            process.wait(PATIENCE_S)

    def _do(self, block: Block) -> None:
        directive, _, argument = block.directive.partition(": ")
        if directive == "file":
            (self._folder / argument).write_text(block.text + "\n", encoding="utf-8")
        elif directive == "log":
            self._until(block, self._log_text, block.text, whole=False)
        elif directive == "background":
            ((command, answer),) = _commands(block.text)
            self._start(command)
            self._until(block, self._log_text, answer, whole=False)
        elif directive != "shown" and block.language == "console":
            for command, answer in _commands(block.text):
                self._until(block, lambda command=command: self._run(command), answer, patient=directive == "wait")

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
        )
        return done.stdout.decode()

    def _start(self, command: str) -> None:
        log = self._folder / f".terminal-{len(self._background) + 2}"
        with log.open("wb") as output:
            words = ["bash", "-c", f"exec {command}"]
            process = subprocess.Popen(words, cwd=self._folder, env=self._env, stdout=output, stderr=output)
        self._background.append((process, log))
        self._read_of_log = 0

    def _log_text(self) -> str:
        return self._background[-1][1].read_text(encoding="utf-8", errors="replace")[self._read_of_log :]

    def _until(self, block: Block, answer, expected: str, *, whole: bool = True, patient: bool = False) -> None:  # type: ignore[no-untyped-def]
        pattern, give_up_s, pause = _pattern(expected), time.monotonic() + PATIENCE_S, threading.Event()
        while True:
            actual = _squeeze(answer())
            found = pattern.fullmatch(actual) if whole else pattern.search(actual)
            if found:
                self._read_of_log = len(self._log_text()) if not whole else self._read_of_log
                return
            if (whole and not patient) or time.monotonic() > give_up_s:
                raise AssertionError(f"{self._page.name}:{block.line}: expected\n{expected}\n\nbut got\n{actual}")
            pause.wait(0.2)


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, expected answer) of each `$ ` in a console block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, answer = part.partition("\n")
        yield command, answer.rstrip("\n")


def _squeeze(text: str) -> str:
    """Columns may be wider or narrower than on the page."""
    return "\n".join(" ".join(line.split()) for line in text.strip("\n").splitlines())


def _pattern(expected: str) -> re.Pattern[str]:
    lines = []
    for line in _squeeze(expected).splitlines():
        if line == "…":
            lines.append(r"(?:[^\n]*\n)*?(?:[^\n]*)")
        else:
            lines.append(r"[^\n]*?".join(re.escape(part) for part in line.split("…")))
    return re.compile("\n".join(lines))
