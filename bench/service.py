"""A real service, in the default configuration unless told otherwise, from `shiftboss start` to its end."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from bench import proc

Settings = Mapping[str, str]
"""Settings of a service as environment variables: `{"WORKER_POOL_SIZE": "100"}`."""

_ROOT: Final = Path(__file__).resolve().parent.parent
_PATIENCE_S: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)
_INHERITED: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


class ServiceFailed(Exception):
    """The service did not start or stop as it should; the message ends with its last words."""


class Service:
    """One worker for the time of a block; ready when the block begins, gone at its end.

    Attributes:
        ready_s, stop_s: from the exec to ready, and from SIGTERM to the end of the process.
    """

    def __init__(self, database_url: str, folder: Path, settings: Settings | None = None) -> None:
        self.ready_s = self.stop_s = 0.0
        self._ready = threading.Event()
        self._said: list[str] = []
        # Nothing of ours may come in from outside: what is measured is the default configuration.
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= {"DATABASE_URL": database_url, "METRICS_PORT": "0", "PYTHONPATH": str(_ROOT), **(settings or {})}
        self._began_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "shiftboss.cli", "start", "--import", "bench.handlers"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=stop_with_parent,
        )
        self._reader = threading.Thread(target=self._read, name="bench-service-log", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        if not self._ready.wait(_PATIENCE_S):
            self._kill()
            raise ServiceFailed(f"the service was not ready within {_PATIENCE_S:g} s\n{self._last_words()}")
        if not self.ready_s:  # its output has ended
            code = self._process.wait(_PATIENCE_S)
            raise ServiceFailed(f"the service ended with {code} before it was ready\n{self._last_words()}")
        return self

    def __exit__(self, *_error: object) -> None:
        asked_s = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._kill()
            raise ServiceFailed(f"the service did not stop within {_PATIENCE_S:g} s\n{self._last_words()}") from None
        self.stop_s = time.monotonic() - asked_s
        self._reader.join(_PATIENCE_S)
        if code:
            raise ServiceFailed(f"the service ended with {code}\n{self._last_words()}")

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self._process.pid

    def processes(self) -> dict[int, str]:
        """Pid -> role."""
        return proc.roles(self._process.pid)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said = [*self._said[-49:], line]
            with contextlib.suppress(ValueError):
                if json.loads(line).get("event") == "service.ready":
                    self.ready_s = time.monotonic() - self._began_s
                    self._ready.set()
        self._process.stdout.close()
        self._ready.set()  # it has ended: nobody need wait any longer

    def _last_words(self) -> str:
        return "".join(self._said)

    def _kill(self) -> None:
        for pid in [*self.processes(), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(_PATIENCE_S)


def stop_with_parent() -> None:
    """In a child before its exec: a bench that is killed leaves nothing behind."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_until(deadline_s: float) -> None:
    """Let time pass, up to monotonic `deadline_s`: the pace of a measurement, not a wait for something."""
    threading.Event().wait(max(0.0, deadline_s - time.monotonic()))
