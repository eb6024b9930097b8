"""Running the service for a developer: stop and start it whenever code changes."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import typer

from shiftboss.config import Settings, redact

_POLL_S: Final = 0.5
_STOP_POLL_S: Final = 0.1
_WATCHED: Final = frozenset({".py", ".toml"})
_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "build", "dist", "venv", "site-packages"})
# A service that does not stop within its own limits is given this much more, then killed.
_STOP_MARGIN_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1

Snapshot = Mapping[Path, int]


def watched_folders(imports: Iterable[str], current: Path) -> list[Path]:
    """Where code may change: this folder, and the packages of the imported modules. Imports nothing."""
    folders = [current]
    for name in {module.partition(".")[0] for module in imports}:
        found = importlib.util.find_spec(name)
        if found is None:
            continue
        if found.submodule_search_locations:
            folders.extend(Path(location).resolve() for location in found.submodule_search_locations)
        elif found.origin:
            folders.append(Path(found.origin).resolve())
    return [folder for folder in folders if not any(other in folder.parents for other in folders)]


def snapshot(folders: Iterable[Path]) -> Snapshot:
    """Every watched file -> when it was last written, in nanoseconds."""
    return {path: written for folder in folders for path, written in _files(folder)}


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """A file that is named itself, or all under a folder. What vanishes meanwhile has changed, too."""
    if folder.is_file():
        yield folder, folder.stat().st_mtime_ns
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
        for name in files:
            path = Path(base, name)
            if path.suffix in _WATCHED:
                with contextlib.suppress(OSError):
                    yield path, path.stat().st_mtime_ns


def changed(before: Snapshot, after: Snapshot) -> list[Path]:
    """Files that were written, added or removed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def run_and_reload(arguments: Sequence[str], settings: Settings) -> int:
    """Run `shiftboss start` with these arguments until it is asked to stop. Returns its last exit code."""
    folders = watched_folders(settings.imports, Path.cwd())
    _say(f"database {redact(settings.database_url)}, watching {', '.join(map(str, folders))}")
    developed = _Developed([sys.executable, "-m", "shiftboss.cli", "start", *arguments], settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, developed.on_signal)
    seen = snapshot(folders)
    developed.start()
    while not developed.wait(_POLL_S):
        now = snapshot(folders)
        if paths := changed(seen, now):
            _say(f"{paths[0]} changed{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: restarting")
            seen = now
            developed.restart()
    return developed.exit_code


class _Developed:
    """The service as a child process. It may have ended by itself, of an error in new code: then a change starts it."""

    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        self._command = command
        self._stop_limit_s = settings.shutdown_timeout_s + settings.cancel_grace_s + _STOP_MARGIN_S
        self._process: subprocess.Popen[bytes] | None = None
        self._signals: list[int] = []
        self.exit_code = 0

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def start(self) -> None:
        # Its own session: Ctrl-C reaches this process, which passes it on once. It dies with us, however we die.
        self._process = subprocess.Popen(self._command, start_new_session=True, preexec_fn=_end_with_parent(os.getpid()))

    def restart(self) -> None:
        self._stop(signal.SIGTERM)
        self.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the service to end or a signal; whether all is over."""
        if self._signals:
            number = signal.SIGQUIT if len(self._signals) > 1 else signal.SIGTERM
            self._stop(number)
            return True
        if self._process is None:
            signal.sigtimedwait((), seconds)
        elif self._ended_within(seconds):
            self._process = None
            _say(f"the service ended with exit code {self.exit_code}; the next change starts it again")
        return False

    def _stop(self, number: int) -> None:
        """End the service; a signal that comes meanwhile means: now."""
        if self._process is None:
            return
        deadline_s = time.monotonic() + self._stop_limit_s
        told = len(self._signals)
        self._process.send_signal(number)
        while not self._ended_within(_STOP_POLL_S):
            if time.monotonic() > deadline_s:
                self._process.kill()
            elif len(self._signals) > told:
                told = len(self._signals)
                self._process.send_signal(signal.SIGQUIT)
        self._process = None

    def _ended_within(self, seconds: float) -> bool:
        assert self._process is not None
        try:
            self.exit_code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def _end_with_parent(parent: int) -> Callable[[], None]:
    """For the child, before it execs: TERM when this process is gone, which it may be already."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)

    return arrange


def _say(text: str) -> None:
    typer.echo(f"shiftboss dev: {text}", err=True)
