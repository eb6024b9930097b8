"""The only actor that claims and finishes tasks: one batched transaction does both.

What happens here in a round (`_round`): everything that ended since the last one is stored, starts and returned tasks are
written, and tasks are claimed for the room there is, in one `exchange`. Then the claims go to the executors. While
the database works, the executors live on what was prefetched, and outcomes gather for the next round.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from dataclasses import replace
from typing import Any, Final

from shiftboss.actors.claim_times import ClaimTimes
from shiftboss.actors.doorbell import Doorbell
from shiftboss.actors.endings import ended_by_death, ended_for, ended_of_stranger, log_ending
from shiftboss.actors.lanebook import FIRST_POLL_S, LaneBook
from shiftboss.actors.link import PeerRef
from shiftboss.actors.messages import (
    CancelAll,
    Died,
    Finished,
    FromPeer,
    Hello,
    LinkDown,
    Linked,
    ProgressMade,
    Recall,
    Returned,
    Stopping,
    Tick,
    ToClaimer,
    Wake,
)
from shiftboss.actors.outage import Outage
from shiftboss.actors.outbox import Outbox, Waiting
from shiftboss.actors.peers import Holding, Peer
from shiftboss.actors.planning import Typical, distribute, lane_asks
from shiftboss.actors.process import Process, ProcessActor
from shiftboss.actors.stop_plan import StopPlan, StopStep
from shiftboss.actors.table import Table
from shiftboss.actors.timer import Timer
from shiftboss.actors.watching import Watcher
from shiftboss.control import Drain, PeerDied, Report, Resume, Stop
from shiftboss.errors import StoreUnavailable
from shiftboss.events import Event, emit
from shiftboss.model import Claim, Ended, Lease, Outcome, TypeInfo
from shiftboss.store.base import ClaimAsk, Exchange, Exchanged, Store
from shiftboss.store.open import open_store

log = logging.getLogger("shiftboss.claimer")

WATCH_S: Final = 0.1
CANCEL_POLL_S: Final = 1.0
PROGRESS_STORED_S: Final = 1.0
SLEEP_AFTER_S: Final = 0.1  # an idle claimer that polls more seldom than this wants to be rung for
AWAKE_AFTER_ROUNDS: Final = 20  # full claims in a row after which ringing is a waste
LINK_DRAIN_S: Final = 1.0  # how long the last words of a dead executor are waited for
LINGER_S: Final = 0.004  # outcomes gather this long while the executors still have work
UNKNOWN_FIRST_S, UNKNOWN_EVERY_S = 5.0, 60.0


class Claimer(ProcessActor):
    """Claims for the free slots and stores what finished."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        settings = self.settings
        self._board = process.board
        self._timer = Timer(lambda name: self.actor_ref.tell(Tick(name)))
        self._outage = Outage(log, process.board)
        self._peers: dict[str, Peer] = {}
        self._types: dict[str, TypeInfo] = {}
        self._outbox = Outbox()
        self._lanes = LaneBook(settings.only_queues, settings.claim_strategy, settings.claim_interval_s)
        self._watcher = Watcher(self._outbox, self._types, process.tell_parent, settings.cancel_grace_s)
        self._claim_times = ClaimTimes()
        self._typical = Typical()
        self._worker_id = ""
        self._is_ready = False
        self._sleeping = False
        self._quiet = False
        self._stop_plan: StopPlan | None = None

    def begin(self) -> None:
        self._store: Store = open_store(self.settings.database_url, application_name=f"shiftboss {self.process.name}")
        Doorbell.start(self._store.listener, self.actor_ref, self._board)
        self._soon()
        self._timer.after("reconcile", self.settings.heartbeat_interval_s)
        self._timer.after("cancels", CANCEL_POLL_S)
        self._timer.after("unknown", UNKNOWN_FIRST_S)

    def leave(self) -> None:
        """The executors hold what they have not been told is stored, and tell it to the next claimer."""
        self._store.close()
        self.process.end(0)

    # ---- messages

    def receive(self, message: Any) -> None:
        match message:
            case FromPeer():
                self._from_peer(message)
            case Wake():
                self._look_for_tasks(rung=True)
            case Tick(name=name):
                self._tick(name)
            case Linked():
                self._link(message)
            case LinkDown():
                self._link_down(message)
            case Died():
                self._died(message)
            case Stop():
                self._begin_stop(message)
            case Drain() | Resume():
                self._set_quiet(isinstance(message, Drain))
            case _:
                raise TypeError(f"the claimer does not know {message!r}")

    def _tick(self, name: str) -> None:
        match name:
            case "round":
                self._round()
            case "poll":
                self._look_for_tasks(rung=False)
            case "watch":
                self._watch()
            case "reconcile":
                self._timer.after("reconcile", self.settings.heartbeat_interval_s)
                self._unless_away(self._reconcile)
            case "cancels":
                self._timer.after("cancels", CANCEL_POLL_S)
                self._unless_away(self._look_for_cancels)
            case "unknown":
                self._timer.after("unknown", UNKNOWN_EVERY_S)
                self._unless_away(self._tell_unknown_types)
            case "stop" if self._stop_plan is not None:
                self._go_on_stopping(self._stop_plan)

    def _unless_away(self, duty: Any) -> None:
        """Duties beside the rounds: left out while the database is away, which the rounds find out and wait for."""
        if self._outage.lasting or not self._worker_id:
            return
        try:
            duty()
        except StoreUnavailable as error:
            self._timer.after("round", self._outage.wait_s(error))

    def _from_peer(self, message: FromPeer) -> None:
        peer = self._peers.get(message.peer)
        if peer is None or peer.incarnation != message.incarnation:
            return  # the last words of an incarnation whose end was already dealt with
        match message.message:
            case Finished(cells=cells, ended=ended):
                self._finished(peer, list(cells), list(ended))
            case Returned(cells=cells):
                self._returned(peer, list(cells))
            case ProgressMade(progress=progress):
                self._outbox.progress(progress)
                self._soon(PROGRESS_STORED_S)
            case Hello() as hello:
                self._hello(peer, hello)

    # ---- executors come and go

    def _link(self, linked: Linked) -> None:
        """A new executor, or an old one seen by a new claimer."""
        name, incarnation = linked.link.peer, linked.link.incarnation
        assert linked.table_fd is not None, f"{name} has no table"

        def pass_on(message: ToClaimer) -> None:
            self.actor_ref.tell(FromPeer(name, incarnation, message))

        def pass_end() -> None:
            self.actor_ref.tell(LinkDown(name, incarnation))

        former = self._peers.get(name)
        if former is not None:
            self._bury(former)  # its successor is here: no more waiting for its last words
        ref = PeerRef[ToClaimer](socket.socket(fileno=linked.socket_fd), ToClaimer, pass_on, pass_end)
        self._peers[name] = Peer(name, incarnation, ref, Table(linked.table_fd))

    def _hello(self, peer: Peer, hello: Hello) -> None:
        for cell, claim, ended in peer.greet(hello):
            self._outbox.end(Waiting(ended, claim, peer, cell))
        self._types.update((info.type, info) for info in hello.types)
        self._show_capacity()
        if self._stop_plan is not None:
            peer.ref.tell(Stopping())
            peer.ref.tell(Recall())
        self._lanes.drained = False
        self._soon()
        self._timer.sooner("watch", WATCH_S)

    def _link_down(self, message: LinkDown) -> None:
        peer = self._peers.get(message.peer)
        if peer is not None and peer.incarnation == message.incarnation:
            peer.link_down = True
            self._bury_if_complete(peer)

    def _died(self, message: Died) -> None:
        death, peer = message.death, self._peers.get(message.death.peer)
        if peer is not None and peer.incarnation == death.incarnation:
            if message.table_fd is not None:
                os.close(message.table_fd)  # we have it since the link
            peer.death, peer.died_s = death, time.monotonic()
            self._bury_if_complete(peer)
        elif message.table_fd is not None:
            self._bury_stranger(death, Table(message.table_fd))

    def _bury_if_complete(self, peer: Peer) -> None:
        """Deal with a death once its last words are read (they wait in the link), or have taken too long."""
        if peer.death is None:
            return
        if not peer.link_down and time.monotonic() - peer.died_s < LINK_DRAIN_S:
            self._timer.sooner("watch", WATCH_S)
            return
        self._bury(peer)

    def _bury(self, peer: Peer) -> None:
        death = peer.death or PeerDied(peer=peer.name, incarnation=peer.incarnation)
        for holding in peer.holdings.values():
            self._end_of_holding(peer, death, holding)
        self._outbox.forget_peer(peer)
        self._outbox.bury(peer.name, peer.incarnation)
        del self._peers[peer.name]
        peer.close()
        self._show_capacity()
        self._soon()

    def _end_of_holding(self, peer: Peer, death: PeerDied, holding: Holding) -> None:
        started_ns = peer.started_ns(holding)
        if started_ns:
            ended = ended_by_death(death, holding, self._types.get(holding.claim.type), started_ns)
            self._outbox.end(Waiting(ended, holding.claim))
        else:
            self._release(holding.claim)

    def _bury_stranger(self, death: PeerDied, table: Table) -> None:
        """An executor died while no claimer knew it. What had not started is given back by the reconcile sweep."""
        for cell in table.started():
            self._outbox.end(Waiting(ended_of_stranger(death, cell)))
        table.close()
        self._outbox.bury(death.peer, death.incarnation)
        self._soon()

    def _show_capacity(self) -> None:
        self._board.set("capacity", sum(peer.slots for peer in self._peers.values()))

    # ---- what executors say

    def _finished(self, peer: Peer, cells: list[int], ended: list[Ended]) -> None:
        total_s = 0.0
        for cell, one in zip(cells, ended, strict=True):
            holding = peer.finish(cell)
            if holding is None:
                continue
            total_s += one.duration_s
            self._outbox.end(Waiting(one, holding.claim, peer, cell))
            if holding.claim.queue in self._lanes.limited:
                self._lanes.drained = False  # its queue has room again
        self._typical = self._typical.after(total_s / len(cells))
        if peer.replacing and not any(holding.cancel_reason for holding in peer.holdings.values()):
            peer.accepting, peer.replacing = True, False  # it stopped in time; the process may stay
        self._soon(LINGER_S if self._has_work_for_long() else 0.0)

    def _has_work_for_long(self) -> bool:
        """Whether every executor still has more than half of what it may hold, so that a round can wait for company."""
        if self._lanes.drained or not self._peers:
            return False
        return all(len(peer.holdings) > 2 * peer.slots + peer.room(self._typical.seconds) for peer in self._peers.values())

    def _returned(self, peer: Peer, cells: list[int]) -> None:
        """Unstarted tasks: to an executor with a free slot if there is one, else back to the database for anyone."""
        for cell in cells:
            holding = peer.give_back(cell)
            if holding is None:
                continue
            other = max(self._usable(), key=lambda one: one.free_slots, default=None)
            if other is None or not other.free_slots or holding.cancel_reason or not self._may_claim():
                self._release(holding.claim)
            else:
                other.execute([holding.claim])
        self._soon()

    def _release(self, claim: Claim) -> None:
        self._outbox.release(Lease(claim.task_id, claim.fence))

    def _usable(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.usable]

    # ---- the round

    def _soon(self, delay_s: float = 0.0) -> None:
        """Have a round, unless the database is away: then the next one waits for its time, whatever comes in."""
        if not self._outage.lasting:
            self._timer.sooner("round", delay_s)

    def _round(self) -> None:
        """One round; started by the timer of that name, so that any number of reasons make one round."""
        if not self._board.worker_id:
            self._timer.after("round", FIRST_POLL_S)
            return
        try:
            self._check_identity()
            request = self._request()
            if request is not None:
                self._settle(request, self._exchange(request))
            self._outage.over()
        except StoreUnavailable as error:
            self._timer.after("round", self._outage.wait_s(error))
            return
        self._plan_next(request)

    def _request(self) -> Exchange | None:
        ask = self._claim_ask()
        if ask is None and not self._outbox:
            return None
        return Exchange(
            worker_id=self._worker_id,
            ended=self._outbox.ended(),
            starts=self._outbox.starts(),
            releases=self._outbox.releases(),
            progress=self._outbox.latest_progress(),
            counters=self._claim_times.due(),
            claim=ask,
        )

    def _may_claim(self) -> bool:
        return not self._quiet and self._stop_plan is None

    def _claim_ask(self) -> ClaimAsk | None:
        if self._lanes.drained or not self._may_claim() or not self._types:
            return None
        typical_s, usable = self._typical_now(), self._usable()
        room = sum(peer.room(typical_s) for peer in usable)
        free = sum(peer.free_slots for peer in usable)
        slots = sum(peer.slots for peer in usable)
        if room <= 0 or (not free and not self._outbox and room < slots):
            return None  # a few tasks more would not be worth a transaction of their own
        lanes = self._lanes.lanes(self._store)
        held = (
            Counter(holding.claim.queue for peer in self._peers.values() for holding in peer.holdings.values())
            if self._lanes.limited
            else {}
        )
        asks = lane_asks(lanes, room, held, self._lanes.marks())
        if not asks:
            self._lanes.drained = True
            return None
        return ClaimAsk(lanes=asks, limit=room, running=free, types=list(self._types.values()), merge=self._lanes.merge)

    def _typical_now(self) -> float | None:
        """The estimate, not less than what runs now has already taken: a long task shows before it ends."""
        now_ns = time.monotonic_ns()
        started = [one.started_ns for peer in self._peers.values() for one in peer.holdings.values() if one.started_ns]
        if not started:
            return self._typical.seconds
        return max(self._typical.seconds or 0.0, sum(now_ns - ns for ns in started) / len(started) / 1e9)

    def _exchange(self, request: Exchange) -> Exchanged:
        sent_s = time.monotonic()
        reply = self._store.exchange(request)
        if request.counters:
            self._claim_times.stored()
        if request.claim is not None:
            self._claim_times.add(time.monotonic() - sent_s)
        return reply

    def _settle(self, request: Exchange, reply: Exchanged) -> None:
        """The transaction is committed: tell the executors and the parent, send out the claims."""
        for waiting, verdict, state in self._outbox.settle(request, reply):
            log_ending(log, waiting, verdict, state)
            if waiting.peer is not None:
                waiting.peer.mark_stored(waiting.cell)
        for burial in self._outbox.buried():
            self.process.tell_parent(burial)
        self._send_out(list(reply.claims))
        if request.claim is not None:
            self._lanes.learn(request.claim, reply.claims)

    def _send_out(self, claims: list[Claim]) -> None:
        usable, typical_s = self._usable(), self._typical_now()
        places = distribute(len(claims), [peer.free_slots for peer in usable], [peer.room(typical_s) for peer in usable])
        shares: list[list[Claim]] = [[] for _ in usable]
        for claim, place in zip(claims, places, strict=False):
            shares[place].append(claim)
        for peer, share in zip(usable, shares, strict=True):
            if share:
                peer.execute(share)
        for claim in claims[len(places) :]:
            self._release(claim)  # an executor has died meanwhile

    def _plan_next(self, request: Exchange | None) -> None:
        if not self._is_ready:
            self._is_ready = True
            self.ready()
        self._set_sleeping()
        more = request is not None and request.claim is not None and not self._lanes.drained
        if more or self._outbox.owes_outcomes:
            self._soon()
        if self._lanes.drained and self._may_claim():
            self._timer.sooner("poll", self._lanes.poll_s)
        if any(peer.holdings for peer in self._peers.values()):
            self._timer.sooner("watch", WATCH_S)
        if self._stop_plan is not None:
            self._timer.after("stop", 0.0)
        self._board.set("active", sum(min(peer.slots, len(peer.holdings)) for peer in self._peers.values()))
        self._board.set("claimer_s", time.monotonic())

    def _look_for_tasks(self, *, rung: bool) -> None:
        self._lanes.look_again(rung=rung)
        self._soon()

    def _set_sleeping(self) -> None:
        """Producers ring only when someone sleeps. Looked at once more after saying so: a task may have slipped in before."""
        sleep = self._lanes.drained and self._lanes.poll_s >= SLEEP_AFTER_S and not self._sleeping
        rise = self._sleeping and self._lanes.full_rounds > AWAKE_AFTER_ROUNDS
        if not (sleep or rise) or not self._may_claim():
            return
        try:
            self._store.set_sleeping(self._worker_id, sleep)
        except StoreUnavailable:
            return  # the next round finds out
        self._sleeping = sleep
        if sleep:
            self._lanes.look_again(rung=False)
            self._soon()

    # ---- duties beside the rounds

    def _watch(self) -> None:
        for peer in list(self._peers.values()):
            if peer.death is not None:
                self._bury_if_complete(peer)
            else:
                self._watcher.look(peer)
        if self._outbox:
            self._soon()
        if any(peer.holdings or peer.death for peer in self._peers.values()):
            self._timer.sooner("watch", WATCH_S)

    def _look_for_cancels(self) -> None:
        held = {
            (holding.claim.task_id, holding.claim.fence): (peer, holding)
            for peer in self._peers.values()
            for holding in peer.holdings.values()
        }
        for lease in self._store.cancel_requests(self._worker_id) if held else ():
            if (lease.task_id, lease.fence) in held:
                self._watcher.cancel(*held[lease.task_id, lease.fence])

    def _reconcile(self) -> None:
        """Give back what the database says is ours but nobody holds: claims whose reply was lost, or died with a claimer.

        Not before every executor has said what it holds: one that is stuck in C cannot answer.
        """
        if not all(peer.said_hello for peer in self._peers.values()):
            return
        owned = self._store.owned(self._worker_id)
        self._board.set("claimer_s", time.monotonic())
        known = self._outbox.leases()
        known |= {(one.claim.task_id, one.claim.fence) for peer in self._peers.values() for one in peer.holdings.values()}
        unknown = [Lease(one.task_id, one.fence) for one in owned if (one.task_id, one.fence) not in known]
        if unknown:
            message = "ours in the database, held by nobody: given back"
            emit(log, logging.WARNING, Event.TASK_RELEASED, message, count=len(unknown))
            self._outbox.release(*unknown)
            self._soon()

    def _check_identity(self) -> None:
        """A new worker id means that the old one was declared dead: its tasks may run elsewhere, so ours stop."""
        worker_id = self._board.worker_id
        if worker_id == self._worker_id:
            return
        first, self._worker_id = not self._worker_id, worker_id
        if first:
            self._timer.after("reconcile", 0.0)
            return
        emit(log, logging.ERROR, Event.WORKER_FENCED, "this worker was declared dead: dropping its tasks", worker_id=worker_id)
        self._sleeping = False
        self._watcher.fence(self._peers.values())

    def _tell_unknown_types(self) -> None:
        if not self._types:
            return
        for type_, count in self._store.unknown_types(list(self._types)).items():
            emit(log, logging.WARNING, Event.TASK_UNKNOWN_TYPE, "no handler here for pending tasks", type=type_, count=count)

    # ---- quiet and stop

    def _set_quiet(self, quiet: bool) -> None:
        self._quiet = quiet
        if quiet:
            for peer in self._peers.values():
                peer.ref.tell(Recall())
        else:
            self._look_for_tasks(rung=True)

    def _begin_stop(self, stop: Stop) -> None:
        """Claim nothing more, give back what has not started, wait for the rest, then for less and less."""
        now_s = time.monotonic()
        if self._stop_plan is None:
            self._stop_plan = StopPlan.begin(now_s, stop.drain_s, stop.grace_s)
            for peer in self._peers.values():
                peer.ref.tell(Stopping())
                peer.ref.tell(Recall())
        else:
            self._stop_plan = self._stop_plan.hurried(now_s, stop.drain_s, stop.grace_s)
        self._timer.after("stop", 0.0)

    def _go_on_stopping(self, plan: StopPlan) -> None:
        held = [(peer, holding) for peer in self._peers.values() for holding in peer.holdings.values()]
        silent = not all(peer.said_hello for peer in self._peers.values())
        match plan.step(time.monotonic(), held=bool(held), owes=self._outbox.owes_outcomes, silent=silent):
            case StopStep.END:
                self._finish_stop()
            case StopStep.CANCEL:
                self._stop_plan = replace(plan, cancelled=True)
                self._cancel_all(held)
            case StopStep.HAND_BACK:
                self._hand_back(held)
        if self._outbox:
            self._soon()
        self._timer.sooner("stop", WATCH_S)
        self.process.tell_parent(Report(status=f"draining, {len(held)} running"))

    def _cancel_all(self, held: list[tuple[Peer, Holding]]) -> None:
        ids = [holding.claim.task_id for _peer, holding in held]
        emit(log, logging.WARNING, Event.DRAIN_TIMEOUT, "cancelling what still runs", running=len(held), task_ids=ids)
        for peer in self._peers.values():
            peer.ref.tell(CancelAll("stop"))

    def _hand_back(self, held: list[tuple[Peer, Holding]]) -> None:
        """Fenced, and before anything is killed: an attempt that ends in this instant loses the race cleanly."""
        for peer, holding in held:
            peer.holdings.pop(holding.cell)
            started_ns = peer.started_ns(holding)
            if not started_ns:
                self._release(holding.claim)
                continue
            ran_s = (time.monotonic_ns() - started_ns) / 1e9
            info = self._types.get(holding.claim.type)
            ended = ended_for(holding.claim, info, Outcome.INTERRUPTED, "interrupted: the worker stopped", ran_s)
            self._outbox.end(Waiting(ended, holding.claim))
        self._round()

    def _finish_stop(self) -> None:
        if self._outbox.owes_outcomes:
            log.warning(
                "stopping with %d outcomes that could not be stored; their tasks will be recovered", self._outbox.outcomes
            )
        self._store.close()
        self.process.end(0)

    def dump(self) -> None:
        for peer in self._peers.values():
            running = [one.claim.task_id for one in peer.holdings.values() if peer.started_ns(one)]
            fields = {"slots": peer.slots, "held": len(peer.holdings), "storing": len(peer.storing), "accepting": peer.accepting}
            emit(log, logging.INFO, Event.ACTOR_STATE, peer=peer.name, running=running, **fields)
        typical_s, drained = self._typical.seconds, self._lanes.drained
        emit(log, logging.INFO, Event.ACTOR_STATE, outbox=self._outbox.outcomes, drained=drained, typical_s=typical_s)
