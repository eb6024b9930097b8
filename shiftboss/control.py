"""All that a parent and a child process say to each other, and how it is written on the wire or handed over at birth.

One message is one datagram on a `SOCK_SEQPACKET` socketpair (boundaries are kept, descriptors ride with their message,
the end of either side is EOF): msgpack of a tagged union. Nothing here knows tasks, SQL or pykka.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

# The child finds these in its environment.
CONTROL_FD_VARIABLE: Final = "SHIFTBOSS_CONTROL_FD"  # its end of the control socketpair
BOARD_FD_VARIABLE: Final = "SHIFTBOSS_BOARD_FD"  # shared memory of the whole service
TABLE_FD_VARIABLE: Final = "SHIFTBOSS_TABLE_FD"  # shared memory of this child alone, kept by the parent after its death
PARENT_PID_VARIABLE: Final = "SHIFTBOSS_PARENT_PID"
CHILD_NAME_VARIABLE: Final = "SHIFTBOSS_CHILD_NAME"
INCARNATION_VARIABLE: Final = "SHIFTBOSS_INCARNATION"

# What a process ends with; those of sysexits(3) where there is one.
EXIT_USAGE: Final = 64  # wrong command line
EXIT_GAVE_UP: Final = 70  # boot failures, or more restarts than the budget
EXIT_OS_ERROR: Final = 71  # the process could not be made at all
EXIT_UNREACHABLE: Final = 75  # something that the service needs was not reached in time
EXIT_CONFIG: Final = 78  # bad configuration

MAX_MESSAGE_BYTES: Final = 64 * 1024
_MAX_FDS: Final = 4

# Where the parent keeps the numbers of its children's process groups in the memory of the whole service.
_GROUPS_AT: Final = 2048
_MAX_GROUPS: Final = 500
BOARD_BYTES: Final = _GROUPS_AT + 4 * (1 + _MAX_GROUPS)


def write_groups(memory: mmap.mmap, pids: Sequence[int]) -> None:
    """Note the process groups that are to go when the parent is gone; of more than 500 the first."""
    known = pids[:_MAX_GROUPS]
    view = memoryview(memory)[_GROUPS_AT:BOARD_BYTES].cast("i")
    view[0] = 0  # a reader meanwhile finds none, not half of them
    for place, pid in enumerate(known, start=1):
        view[place] = pid
    view[0] = len(known)


def read_groups(memory: mmap.mmap) -> list[int]:
    """What the parent has noted last."""
    view = memoryview(memory)[_GROUPS_AT:BOARD_BYTES].cast("i")
    return list(view[1 : 1 + view[0]])


class ControlMessage(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Anything on a control link."""


# ---- parent to child


class Ping(ControlMessage, frozen=True):
    """Are you there? Answered from the actor's own loop, not from a helper thread."""

    seq: int


class Link(ControlMessage, frozen=True):
    """A socket to a peer; its descriptor rides along. A second descriptor, if any, is the peer's shared table."""

    peer: str
    incarnation: int
    has_table: bool = False


class PeerDied(ControlMessage, frozen=True):
    """A linked peer has ended. With `has_table` its shared table rides along.

    Sent again to every new incarnation of the receiver until one of them has answered `PeerBuried`.
    """

    peer: str
    incarnation: int
    exit_code: int | None = None  # None when it was ended by a signal
    signal: str | None = None  # "SIGKILL"
    reason: str | None = None  # why, when the supervisor itself ended it: the `reason` of a Replace, "hung", "stop"
    peak_rss_kib: int = 0
    uptime_s: float = 0.0
    has_table: bool = False


class Stop(ControlMessage, frozen=True):
    """End. `drain_s`: how long running work may take (0: none); then `grace_s` for a cooperative cancel; then be gone.

    A later Stop with less time replaces the earlier one.
    """

    drain_s: float
    grace_s: float


class Drain(ControlMessage, frozen=True):
    """Take no new work, finish what runs, stay up; the draining child answers `Drained` with the same `seq`.

    `why`: for people. `broken`: not because somebody asked for it, but because children keep ending. A later one asks for
    an answer anew.
    """

    why: str = ""
    seq: int = 0
    broken: bool = False


class Resume(ControlMessage, frozen=True):
    """Take work again after Drain."""


class Dump(ControlMessage, frozen=True):
    """Write your state and the stacks of all your threads to the log, then answer `Dumped`."""


class Reload(ControlMessage, frozen=True):
    """Work by these settings from now on. Opaque to the parent."""

    settings: bytes


class Leave(ControlMessage, frozen=True):
    """End now, cleanly and with 0, between two pieces of work: your successor takes over what you hold. Not a stop."""


class PeerRetiring(ControlMessage, frozen=True):
    """Send this linked peer nothing more, take back what it has not started, let the rest run for `drain_s`, cancel it for
    `grace_s`, hand back what is left; when it holds nothing any more, answer `PeerReleased`.

    Its successors are linked before. Sent again, with the time that is left, to every new incarnation of the receiver
    until one of them has answered. With `drain_s` 0 a later one cuts the drain short.
    """

    peer: str
    incarnation: int
    drain_s: float
    grace_s: float


# ---- child to parent


class Ready(ControlMessage, frozen=True):
    """I have started and do my work."""


class Pong(ControlMessage, frozen=True):
    """The answer to Ping `seq`."""

    seq: int


class Report(ControlMessage, frozen=True):
    """One line on what I am doing, for status output."""

    status: str


class Replace(ControlMessage, frozen=True):
    """Kill this peer's process group and start it anew; planned, so outside the restart budget."""

    peer: str
    incarnation: int
    reason: str


class PeerReleased(ControlMessage, frozen=True):
    """This retiring peer holds nothing of mine any more; it may be stopped."""

    peer: str
    incarnation: int


class Drained(ControlMessage, frozen=True):
    """After the `Drain` with this `seq`: nothing runs any more. Said once for each, and at once when nothing ran."""

    seq: int = 0


class Tired(ControlMessage, frozen=True):
    """Please start my successor and retire me when it is ready. Said once."""

    reason: str


class Dumped(ControlMessage, frozen=True):
    """All that `Dump` asked for is in the log."""


class Checked(ControlMessage, frozen=True):
    """What a process that was started to check a new configuration has found: the new settings (opaque to the parent),
    or why they cannot be used, one mistake a line."""

    settings: bytes = b""
    error: str = ""


class PeerBuried(ControlMessage, frozen=True):
    """All that followed from this peer's death is done; its table may go."""

    peer: str
    incarnation: int


ToChild: TypeAlias = Ping | Link | PeerDied | Stop | Drain | Resume | Dump | Reload | Leave | PeerRetiring
ToParent: TypeAlias = Ready | Pong | Report | Replace | PeerBuried | PeerReleased | Drained | Tired | Dumped | Checked

_encoder = msgspec.msgpack.Encoder()
_to_child_decoder = msgspec.msgpack.Decoder(ToChild)
_to_parent_decoder = msgspec.msgpack.Decoder(ToParent)


def write_secret(name: str, data: bytes) -> int:
    """A descriptor (close-on-exec) of memory that holds `data`, for a process to be born with; the caller closes it.

    Not the environment: that stays to be seen in /proc, in `ps e` and in crash reports for as long as the process lives.
    """
    fd = os.memfd_create(f"shiftboss-{name.lower()}", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd


def read_secret(variable: str) -> bytes:
    """What `write_secret` was given, once: the variable, which holds the descriptor's number, and the memory are gone then."""
    fd = int(os.environ.pop(variable))
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def send(sock: socket.socket, message: ControlMessage, fds: tuple[int, ...] = ()) -> None:
    """Send one message with the descriptors that ride along.

    Raises:
        BlockingIOError: the other side does not read (non-blocking sockets).
        OSError: the other side is gone.
    """
    data = _encoder.encode(message)
    if fds:
        socket.send_fds(sock, [data], list(fds))
    else:
        sock.send(data)


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    data, fds, _flags, _address = socket.recv_fds(sock, MAX_MESSAGE_BYTES, _MAX_FDS)
    for fd in fds:
        os.set_inheritable(fd, False)  # recv_fds ignores the flag that would make the kernel do it
    return data, fds


def receive_in_child(sock: socket.socket) -> tuple[ToChild | None, list[int]]:
    """The next message from the parent and its descriptors (close-on-exec); `None` when the parent is gone."""
    data, fds = _receive(sock)
    return (_to_child_decoder.decode(data) if data else None), fds


def receive_in_parent(sock: socket.socket) -> tuple[ToParent | None, list[int]]:
    """The next message from a child; `None` when it has closed its end.

    Raises:
        BlockingIOError: nothing there (non-blocking sockets).
    """
    data, fds = _receive(sock)
    return (_to_parent_decoder.decode(data) if data else None), fds
