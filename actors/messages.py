"""What actors say to each other: frozen structs, one tagged union per receiver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from shiftboss.control import Drain, Dump, Link, PeerDied, Ping, Resume, Stop
from shiftboss.model import Claim, Ended, Progress, TypeInfo


class Message(msgspec.Struct, frozen=True, tag=True):
    """Anything that an actor may receive."""


# ---- claimer to executor


class Execute(Message, frozen=True, array_like=True):
    """Run these, in this order, as slots become free; and forget the outcomes in `stored`: they are in the database.

    `cells[i]` is where `claims[i]` stands in the executor's table; the claimer hands a cell out again only after its
    outcome was stored.
    """

    stored: Sequence[int]
    cells: Sequence[int]
    claims: Sequence[Claim]


class Recall(Message, frozen=True, array_like=True):
    """Give back what has not started, answered by `Returned`. `None`: everything."""

    cells: Sequence[int] | None = None


class CancelAttempt(Message, frozen=True, array_like=True):
    """Ask one attempt to stop. `reason`: "timeout" or "cancel"."""

    cell: int
    reason: str


class Stopping(Message, frozen=True, array_like=True):
    """The worker is stopping: `attempt.stopping` turns true everywhere, nothing is cancelled yet."""


class CancelAll(Message, frozen=True, array_like=True):
    """Ask every attempt to stop. `reason`: "stop" or "fenced"."""

    reason: str


# ---- executor to claimer


class Held(Message, frozen=True, array_like=True):
    """One task that an executor holds, told to a new claimer. `ended` is there when its outcome has not been stored yet."""

    cell: int
    claim: Claim
    ended: Ended | None


class Hello(Message, frozen=True, array_like=True):
    """An executor's first word on a new link: what it can run and what it holds."""

    slots: int
    types: Sequence[TypeInfo]
    held: Sequence[Held]


class Finished(Message, frozen=True, array_like=True):
    """Outcomes, in the order they came; kept by the executor until the claimer has stored them."""

    cells: Sequence[int]
    ended: Sequence[Ended]


class Returned(Message, frozen=True, array_like=True):
    """These had not started and never will here."""

    cells: Sequence[int]


class ProgressMade(Message, frozen=True, array_like=True):
    """The latest progress of some attempts."""

    progress: Sequence[Progress]


# ---- inside one process


class FromPeer(Message, frozen=True):
    """A message that came over the link to `peer`."""

    peer: str
    incarnation: int
    message: ToClaimer | ToExecutor


class LinkDown(Message, frozen=True):
    """The link to `peer` has reached its end; nothing more comes from that incarnation."""

    peer: str
    incarnation: int


class Linked(Message, frozen=True):
    """A link to `peer` is there. The descriptors now belong to the receiver."""

    link: Link
    socket_fd: int
    table_fd: int | None


class Died(Message, frozen=True):
    """A peer has died, with the descriptor of its table when it had one."""

    death: PeerDied
    table_fd: int | None


class Wake(Message, frozen=True):
    """Someone has rung: there may be tasks."""


class Tick(Message, frozen=True):
    """A timer of ours went off. `name` says which."""

    name: str


class Landed(Message, frozen=True):
    """The round that went on over connection number `lane` (from 0) has its answer."""

    lane: int


class Looked(Message, frozen=True):
    """The scout is back from the look of that name."""

    name: str


ToExecutor: TypeAlias = Execute | Recall | CancelAttempt | Stopping | CancelAll
ToClaimer: TypeAlias = Hello | Finished | Returned | ProgressMade
Local: TypeAlias = FromPeer | LinkDown | Linked | Died | Wake | Tick | Landed | Looked
Control: TypeAlias = Ping | Stop | Drain | Resume | Dump
