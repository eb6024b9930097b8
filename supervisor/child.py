"""One child: its record over all incarnations, and the OS process of the present one."""

from __future__ import annotations

import contextlib
import os
import resource  # noqa: F401  os.wait4 loads it when it is first called: then there may be no descriptor left
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from shiftboss import control
from shiftboss.supervisor.signals import blocked
from shiftboss.supervisor.spec import NAME, ChildSpec
from shiftboss.supervisor.states import WITH_PROCESS, ChildEvent, ChildState, after

# systemd means these for the main process alone; a child that read them would speak for us.
_OURS_ALONE: Final = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")


class Exit(msgspec.Struct, frozen=True):
    """How a process ended: by its own exit code, or by a signal (`SIGKILL`)."""

    exit_code: int | None
    signal: str | None
    peak_rss_kib: int = 0


def exit_of(wait_status: int, peak_rss_kib: int) -> Exit:
    """Decode a status of wait(2); a signal and an exit code are different things."""
    code = os.waitstatus_to_exitcode(wait_status)
    if code >= 0:
        return Exit(code, None, peak_rss_kib)
    return Exit(None, signal_name(-code), peak_rss_kib)


def signal_name(number: int) -> str:
    """`SIGTERM` for 15; real-time signals have no names in Python."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Process:
    """One OS process: the leader of its own session and process group, reached by a control socket, watched by a pidfd.

    Its number stays its own until `reap`, so signals can hit nobody else.
    """

    def __init__(self, popen: subprocess.Popen[bytes], control_socket: socket.socket, table_fd: int | None) -> None:
        self.pid = popen.pid
        self.pidfd = os.pidfd_open(popen.pid)
        self.control = control_socket
        self.table_fd = table_fd
        self.linked: set[str] = set()  # names of the peers that share a socket with this incarnation
        self._popen = popen
        self._outbox: deque[tuple[control.ToChild, tuple[int, ...]]] = deque()

    def tell(self, message: control.ToChild, fds: tuple[int, ...] = ()) -> None:
        """Send, or keep (with copies of the descriptors) until the child reads. A child that is gone hears nothing.

        Raises:
            OSError: it does not read now, and there is no room for copies.
        """
        if self._outbox or not self._send(message, fds):
            self._outbox.append((message, _copies(fds)))

    def flush(self) -> None:
        """Send what was kept, as far as the child reads."""
        while self._outbox and self._send(*self._outbox[0]):
            _close(*self._outbox.popleft()[1])

    @property
    def has_unsent(self) -> bool:
        return bool(self._outbox)

    def _send(self, message: control.ToChild, fds: tuple[int, ...]) -> bool:
        try:
            control.send(self.control, message, fds)
        except BlockingIOError:
            return False
        except OSError:
            pass  # it has ended or is ending; its pidfd tells
        return True

    def dump_and_end(self) -> None:
        """SIGABRT: faulthandler writes all stacks, then the process ends, unless it is stuck in the kernel or stopped."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGABRT)

    def dump(self) -> None:
        """SIGUSR1: children of ours write the stacks of their threads."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGUSR1)

    def kill_group(self) -> None:
        """SIGKILL to the process and to every descendant that has not left its group; also when only they are left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> Exit:
        """Collect the end of a process that has ended; its group goes first, while the number is still taken."""
        self.kill_group()
        _pid, status, usage = os.wait4(self.pid, 0)
        self._popen.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
        return exit_of(status, usage.ru_maxrss)

    def close(self) -> None:
        """Close all but the table, whose owner is whoever took it over."""
        while self._outbox:
            _close(*self._outbox.popleft()[1])
        self.control.close()
        _close(self.pidfd)


def spawn(spec: ChildSpec, incarnation: int, board_fd: int) -> Process:
    """Start the spec's command in a process of its own.

    It starts with the signals blocked that are meant for the service (systemctl kill and Ctrl-C reach every process), and
    unblocks them when it has decided what they mean to it: one that comes while its interpreter starts does not end it.

    Raises:
        OSError: no such program, no room for another process or descriptor.
    """
    table_fd = memory_file(f"{spec.name}-table", spec.table_bytes) if spec.table_bytes else None
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        ours.setblocking(False)
        with its, _secrets(spec) as secrets:
            env = _environment(spec, incarnation, its.fileno(), board_fd, table_fd) | secrets
            passed = (
                its.fileno(),
                board_fd,
                *(() if table_fd is None else (table_fd,)),
                *map(int, secrets.values()),
                *spec.pass_fds,
            )
            # Popen without preexec_fn execs by vfork, with every caught signal back at its default and our mask.
            with blocked():
                popen = subprocess.Popen(  # not a context manager here: the process outlives this function
                    [word.replace(NAME, spec.name) for word in spec.argv],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    pass_fds=passed,
                    start_new_session=True,
                )
        return Process(popen, ours, table_fd)
    except BaseException:
        ours.close()
        _close(*(() if table_fd is None else (table_fd,)))
        raise


@contextlib.contextmanager
def _secrets(spec: ChildSpec) -> Iterator[dict[str, str]]:
    """Variable -> the number of a descriptor, ours until the child has it."""
    with contextlib.ExitStack() as opened:
        numbers = {}
        for name, text in spec.secrets.items():
            fd = control.write_secret(name, text.encode())
            opened.callback(os.close, fd)
            numbers[name] = str(fd)
        yield numbers


def _environment(spec: ChildSpec, incarnation: int, control_fd: int, board_fd: int, table_fd: int | None) -> dict[str, str]:
    inherited: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith(_OURS_ALONE)}
    return {
        **inherited,
        **spec.env,
        control.CONTROL_FD_VARIABLE: str(control_fd),
        control.BOARD_FD_VARIABLE: str(board_fd),
        control.PARENT_PID_VARIABLE: str(os.getpid()),
        control.CHILD_NAME_VARIABLE: spec.name,
        control.INCARNATION_VARIABLE: str(incarnation),
        **({} if table_fd is None else {control.TABLE_FD_VARIABLE: str(table_fd)}),
    }


def memory_file(name: str, size: int) -> int:
    """A descriptor of `size` bytes of zeroed shared memory; the caller closes it.

    Raises:
        OSError: no memory or no descriptor left.
    """
    fd = os.memfd_create(f"shiftboss-{name}", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def _copies(fds: tuple[int, ...]) -> tuple[int, ...]:
    """All or none."""
    copies: list[int] = []
    try:
        copies.extend(map(os.dup, fds))
    except OSError:
        _close(*copies)
        raise
    return tuple(copies)


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class Child(msgspec.Struct):
    """What the supervisor knows of one child, over all its incarnations.

    Attributes:
        incarnation: number of the present or last one; rises at every start.
        streak: ends in a row, without having been ready for long in between.
        reason: why we ended the present incarnation ourselves, if we did.
        planned: the present incarnation is being replaced on request.
        down_since_s: since when it has not been ready.
        held_back: a successor that is not linked to anybody before all are ready.
        retiring: its successor is in service; it finishes what it runs and is not started again.
        restarts: ends that nobody had asked for.
        last_end: how the last incarnation that has ended did so, for people.
    """

    spec: ChildSpec
    state: ChildState = ChildState.IDLE
    incarnation: int = 0
    process: Process | None = None
    started_s: float = 0.0
    ready_s: float | None = None
    ever_ready: bool = False
    streak: int = 0
    reason: str | None = None
    planned: bool = False
    down_since_s: float | None = None
    status: str = ""
    held_back: bool = False
    retiring: bool = False
    restarts: int = 0
    last_end: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def running(self) -> bool:
        return self.state in WITH_PROCESS

    @property
    def ready(self) -> bool:
        return self.state is ChildState.READY

    def move(self, event: ChildEvent) -> None:
        """Take the transition of `CHILD_TRANSITIONS`."""
        self.state = after(self.state, event)

    def begin(self, process: Process | None, now_s: float) -> None:
        """A new incarnation runs as `process`; None: it could not be made."""
        self.move(ChildEvent.SPAWN)
        self.process, self.started_s, self.ready_s = process, now_s, None
        self.reason, self.planned, self.status = None, False, ""
        if self.down_since_s is None:
            self.down_since_s = now_s

    def become_ready(self, now_s: float) -> None:
        """The present incarnation has said Ready."""
        self.move(ChildEvent.READY)
        self.ready_s, self.ever_ready, self.down_since_s = now_s, True, None
