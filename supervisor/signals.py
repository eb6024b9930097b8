"""Signals as bytes in a pipe: the handlers do nothing at all, the loop reads which ones came."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from typing import Final, Self

# Every catchable signal whose default would end or stop us, and SIGCHLD; the rest cannot be caught or does no harm.
HANDLED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGPWR,
    signal.SIGPIPE,
)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    """Nothing: the number is in the wakeup socket already. A handler may not log, raise or lock."""


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Keep the handled signals waiting meanwhile; what is started here begins its life with them blocked."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def hold_signals() -> None:
    """Keep the handled signals waiting but for the time that a `SignalQueue` reads them.

    What comes before is read by it; what comes after it changes the exit code no more, whichever thread it is handed to.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    for number in HANDLED:
        signal.signal(number, _on_signal)


class SignalQueue:
    """Receives signals from `with` on; those that were blocked or come meanwhile are kept, none is lost.

    Handlers, not SIG_IGN and not a blocked mask: exec puts a caught signal back to its default, so children start clean.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def __enter__(self) -> Self:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        self._wakeup_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _on_signal) for number in HANDLED}
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return self

    def __exit__(self, *_error: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._reader.fileno()

    def read(self) -> list[signal.Signals]:
        """The signals since the last call, in order; the kernel may have merged equal ones."""
        received = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := self._reader.recv(4096):
                received += chunk
        return [signal.Signals(number) for number in received]
