"""Who shares a socket with whom, and who still has to be told of a death."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import msgspec

from shiftboss import control
from shiftboss.supervisor.spec import ChildSpec

Tell = Callable[[str, control.ToChild, tuple[int, ...]], None]
"""Send a message with its descriptors to the child of this name."""


def peers_of(specs: Sequence[ChildSpec]) -> dict[str, tuple[str, ...]]:
    """For each child the names of all it is linked with, in start order; a link declared by one side is both sides'."""
    pairs = {
        frozenset((spec.name, other.name))
        for spec in specs
        for other in specs
        if other.name != spec.name and {other.name, other.group} & set(spec.links)
    }
    return {spec.name: tuple(o.name for o in specs if frozenset((spec.name, o.name)) in pairs) for spec in specs}


class _Obituary(msgspec.Struct):
    """A death that left a table, and the peers that have not buried it yet."""

    message: control.PeerDied
    table_fd: int
    mourners: set[str]


class Obituaries:
    """Tells peers of a death. One that left a table is told again to every new incarnation of a peer until it is buried.

    Owns the tables of the dead: each is closed when all its mourners have answered.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._open: list[_Obituary] = []

    def announce(self, message: control.PeerDied, table_fd: int | None, peers: set[str], running: set[str]) -> None:
        """Tell all `peers` that are `running`; takes `table_fd` over."""
        for name in sorted(peers & running):
            self._tell(name, message, () if table_fd is None else (table_fd,))
        if table_fd is None:
            return
        if peers:
            self._open.append(_Obituary(message, table_fd, set(peers)))
        else:
            os.close(table_fd)

    def repeat_to(self, peer: str) -> None:
        """A new incarnation of `peer` runs: tell it what its predecessor had not buried."""
        for obituary in self._open:
            if peer in obituary.mourners:
                self._tell(peer, obituary.message, (obituary.table_fd,))

    def bury(self, peer: str, buried: control.PeerBuried) -> None:
        """`peer` has dealt with this death; an answer for one that is not open is an echo, and harmless."""
        for obituary in self._open:
            if (obituary.message.peer, obituary.message.incarnation) == (buried.peer, buried.incarnation):
                obituary.mourners.discard(peer)
        self._close_settled()

    def forget(self, peer: str) -> None:
        """`peer` will not run again."""
        for obituary in self._open:
            obituary.mourners.discard(peer)
        self._close_settled()

    def close(self) -> None:
        for obituary in self._open:
            obituary.mourners.clear()
        self._close_settled()

    def _close_settled(self) -> None:
        for obituary in self._open:
            if not obituary.mourners:
                os.close(obituary.table_fd)
        self._open = [obituary for obituary in self._open if obituary.mourners]

    def __iter__(self) -> Iterator[control.PeerDied]:
        return (obituary.message for obituary in self._open)
