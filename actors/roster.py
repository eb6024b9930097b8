"""The executors a claimer knows, as they come, say hello, retire and die."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from msgspec.structs import replace

from shiftboss.actors.board import Board
from shiftboss.actors.endings import MAX_NAMED, ended_by_death, ended_for, ended_of_stranger, log_lost
from shiftboss.actors.link import PeerRef
from shiftboss.actors.messages import CancelAll, Died, FromPeer, Hello, LinkDown, Linked, Recall, ToClaimer
from shiftboss.actors.outbox import Outbox, Waiting
from shiftboss.actors.peers import Holding, Peer
from shiftboss.actors.retire_plan import Retirement, RetireStep
from shiftboss.actors.table import Table
from shiftboss.control import PeerDied, PeerReleased, PeerRetiring, ToParent
from shiftboss.events import Event, emit
from shiftboss.model import Claim, Lease, Outcome, TypeInfo

log = logging.getLogger("shiftboss.claimer")
LINK_DRAIN_S: Final = 1.0  # how long the last words of a dead executor are waited for

Held: TypeAlias = list[tuple[Peer, Holding]]


class Roster:
    """Executors by name, one incarnation of each.

    Args:
        deliver: passes what an executor says on to the actor, from the link's own thread.

    Attributes:
        types: every type that an executor ever named; the latest word on each counts.
    """

    def __init__(
        self,
        outbox: Outbox,
        board: Board,
        deliver: Callable[[FromPeer | LinkDown], None],
        tell_parent: Callable[[ToParent], None],
    ) -> None:
        self._outbox, self._board, self._deliver, self._tell_parent = outbox, board, deliver, tell_parent
        self._peers: dict[str, Peer] = {}
        self.types: dict[str, TypeInfo] = {}

    def __iter__(self) -> Iterator[Peer]:
        """A copy: a peer may go while one looks at it."""
        return iter(list(self._peers.values()))

    def find(self, name: str, incarnation: int) -> Peer | None:
        peer = self._peers.get(name)
        return peer if peer is not None and peer.incarnation == incarnation else None

    def usable(self) -> list[Peer]:
        """Those that may be sent work."""
        return [peer for peer in self if peer.usable]

    def held(self) -> Held:
        return [(peer, holding) for peer in self for holding in peer.holdings.values()]

    @property
    def silent(self) -> bool:
        """Whether one has not said yet what it holds."""
        return not all(peer.said_hello for peer in self)

    def types_of(self, peers: Iterable[Peer]) -> list[TypeInfo]:
        """What at least one of them can run."""
        kinds = {peer.types for peer in peers}  # mostly one and the same
        return [self.types[name] for name in sorted({name for kind in kinds for name in kind})]

    # ---- they come

    def link(self, linked: Linked) -> None:
        """A new executor, or an old one seen by a new claimer."""
        name, incarnation = linked.link.peer, linked.link.incarnation
        assert linked.table_fd is not None, f"{name} has no table"

        def pass_on(message: ToClaimer) -> None:
            self._deliver(FromPeer(name, incarnation, message))

        def pass_end() -> None:
            self._deliver(LinkDown(name, incarnation))

        former = self._peers.get(name)
        if former is not None:
            self._bury(former)  # its successor is here: no more waiting for its last words
        ref = PeerRef[ToClaimer](socket.socket(fileno=linked.socket_fd), ToClaimer, pass_on, pass_end)
        self._peers[name] = Peer(name, incarnation, ref, Table(linked.table_fd))

    def hello(self, peer: Peer, hello: Hello) -> None:
        """It has said what it can run and what it holds."""
        for cell, claim, ended in peer.greet(hello):
            self._outbox.end(Waiting(ended, claim, peer, cell))
        self.types.update((info.type, info) for info in hello.types)
        self.show_capacity()

    def show_capacity(self) -> None:
        self._board.set("capacity", sum(peer.slots for peer in self if not peer.retiring))

    # ---- they die

    def died(self, message: Died) -> None:
        death, peer = message.death, self.find(message.death.peer, message.death.incarnation)
        if peer is not None:
            if message.table_fd is not None:
                os.close(message.table_fd)  # we have it since the link
            peer.death, peer.died_s = death, time.monotonic()
        elif message.table_fd is not None:
            self._bury_stranger(death, Table(message.table_fd))

    def bury_complete(self) -> bool:
        """Deal with deaths whose last words are read (they wait in the link), or have taken too long.

        Returns whether some have to wait.
        """
        waiting = False
        for peer in self:
            if peer.death is not None:
                if peer.link_down or time.monotonic() - peer.died_s >= LINK_DRAIN_S:
                    self._bury(peer)
                else:
                    waiting = True
        return waiting

    def _bury(self, peer: Peer) -> None:
        death = peer.death or PeerDied(peer=peer.name, incarnation=peer.incarnation)
        if peer.said_hello:
            self._end_holdings(peer, death)
        else:
            self._end_cells(death, peer.table)
        self._outbox.forget_peer(peer)
        self._outbox.bury(peer.name, peer.incarnation)
        del self._peers[peer.name]
        peer.close()
        self.show_capacity()

    def _end_holdings(self, peer: Peer, death: PeerDied) -> None:
        lost = []
        for holding in peer.holdings.values():
            started_ns = peer.started_ns(holding)
            if started_ns:
                lost.append(holding.claim.task_id)
                ended = ended_by_death(death, holding, self.types.get(holding.claim.type), started_ns)
                self._outbox.end(Waiting(ended, holding.claim))
            else:
                self.release(holding.claim)
        log_lost(log, death, lost)

    def _bury_stranger(self, death: PeerDied, table: Table) -> None:
        """An executor died while no claimer knew it. What had not started is given back by the reconcile sweep."""
        self._end_cells(death, table)
        table.close()
        self._outbox.bury(death.peer, death.incarnation)

    def _end_cells(self, death: PeerDied, table: Table) -> None:
        """Its table is all that is known of what it ran."""
        cells = list(table.started())
        for cell in cells:
            self._outbox.end(Waiting(ended_of_stranger(death, cell)))
        log_lost(log, death, [cell.task_id for cell in cells if not cell.ended_ns])

    # ---- they retire

    def retire(self, order: PeerRetiring) -> None:
        """Begin a retirement, or hurry one."""
        peer, now_s = self.find(order.peer, order.incarnation), time.monotonic()
        if peer is None:
            self._tell_parent(PeerReleased(peer=order.peer, incarnation=order.incarnation))
        elif peer.retirement is None:
            peer.retirement = Retirement.start(now_s, order.drain_s, order.grace_s)
        else:
            peer.retirement = peer.retirement.hurried(now_s, order.drain_s, order.grace_s)

    def go_on_retiring(self) -> bool:
        """Take the steps that are due; returns whether there are more to come."""
        relieved = all(peer.said_hello for peer in self if peer.retirement is None and peer.death is None)
        under_way = [peer for peer in self if peer.retirement and not peer.retirement.released and peer.death is None]
        going_on = [self._retire(peer, peer.retirement, relieved) for peer in under_way if peer.retirement]
        return any(going_on)

    def _retire(self, peer: Peer, plan: Retirement, relieved: bool) -> bool:
        """All steps of one that are due; whether it goes on."""
        while True:
            held, storing = bool(peer.holdings), bool(peer.storing)
            match plan.step(time.monotonic(), relieved=relieved, silent=not peer.said_hello, held=held, storing=storing):
                case RetireStep.WAIT:
                    return True
                case RetireStep.BEGIN:
                    plan = peer.retirement = replace(plan, begun=True)
                    peer.ref.tell(Recall())
                    self.show_capacity()
                case RetireStep.CANCEL:
                    plan = peer.retirement = replace(plan, cancelled=True)
                    self.cancel([peer], f"cancelling what {peer.name} still runs")
                case RetireStep.HAND_BACK:
                    self.hand_back([peer], f"{peer.name} was replaced")
                case RetireStep.RELEASE:
                    peer.retirement = replace(plan, released=True)
                    self._tell_parent(PeerReleased(peer=peer.name, incarnation=peer.incarnation))
                    return False

    # ---- what they hold is taken from them

    def cancel(self, peers: Iterable[Peer], message: str) -> None:
        """The time to drain is over: ask whatever still runs there to stop."""
        ids = []
        for peer in peers:
            ids += [holding.claim.task_id for holding in peer.holdings.values()]
            peer.ref.tell(CancelAll("stop"))
        emit(log, logging.WARNING, Event.DRAIN_TIMEOUT, message, running=len(ids), task_ids=ids[:MAX_NAMED])

    def hand_back(self, peers: Iterable[Peer], why: str) -> None:
        """Fenced, and before anything is killed: an attempt that ends in this instant loses the race cleanly."""
        for peer in peers:
            for cell in list(peer.holdings):
                holding = peer.holdings[cell]
                started_ns = peer.started_ns(holding)
                if not started_ns:
                    peer.give_back(cell)
                    self.release(holding.claim)
                    continue
                peer.finish([cell])
                ran_s = (time.monotonic_ns() - started_ns) / 1e9
                info = self.types.get(holding.claim.type)
                ended = ended_for(holding.claim, info, Outcome.INTERRUPTED, f"interrupted: {why}", ran_s)
                self._outbox.end(Waiting(ended, holding.claim, peer, cell))

    def release(self, claim: Claim) -> None:
        self._outbox.release(Lease(claim.task_id, claim.fence))
