"""systemd's notify protocol, without dependencies: one datagram a message to `$NOTIFY_SOCKET`, nothing without it."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Mapping


class Notifier:
    """Speaks to the service manager. Never blocks: while its socket is full, what matters waits, the rest is dropped.

    Attributes:
        watchdog_s: the manager wants a sign of life at least this often; None: it wants none (of this process).
        wrapper_pid: the manager started this process, not us: what we say will be refused under NotifyAccess=main.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._unsent: deque[bytes] = deque()
        self.watchdog_s = _watchdog_s(environ) if self._address else None
        self.wrapper_pid = _wrapper_pid(environ) if self._address else None

    def ready(self, status: str) -> None:
        """Started, or a reload has ended."""
        self._say(f"READY=1\nSTATUS={_line(status)}")

    def reloading(self, status: str) -> None:
        """A reload begins; `ready` must follow, also when it fails. The time tells the manager which reload is meant."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        self._say(f"STOPPING=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._hint(f"STATUS={_line(status)}")

    def extend_timeout(self, seconds: float) -> None:
        """Start or stop may take this much longer from now."""
        self._hint(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def watchdog(self) -> None:
        """A sign of life."""
        self._hint("WATCHDOG=1")

    @property
    def enabled(self) -> bool:
        return self._socket is not None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, text: str) -> None:
        self._unsent.append(text.encode())
        self.flush()

    def _hint(self, text: str) -> None:
        self.flush()
        if not self._unsent:
            self._send(text.encode())

    def flush(self) -> bool:
        """Send what waits; True when nothing waits any more."""
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    def _send(self, data: bytes) -> bool:
        """False when it has to be tried again later; a manager that is gone has heard enough."""
        if self._socket is not None:
            try:
                self._socket.sendto(data, self._address)
            except BlockingIOError:
                return False
            except OSError:
                pass  # no manager listens (any more): not a reason to end
        return True


def _address(value: str) -> str:
    """`/path` or `@abstract`; anything else (vsock) is not for us."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else ""


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    interval = environ.get("WATCHDOG_USEC", "")
    return int(interval) / 1e6 if interval.isdigit() and int(interval) > 0 else None


def _wrapper_pid(environ: Mapping[str, str]) -> int | None:
    """systemd says in `$SYSTEMD_EXEC_PID` which process it has started (systemd.exec(5), since 248)."""
    started = environ.get("SYSTEMD_EXEC_PID", "")
    return int(started) if started.isdigit() and int(started) != os.getpid() else None


def _line(text: str) -> str:
    return " ".join(text.split())
