"""The only actor that claims and finishes tasks: one batched transaction does both.

What happens here in a round (`_round`): everything that ended since the last one is stored, starts and returned tasks are
written, and tasks are claimed for the room there is, in one `exchange`. Then the claims go to the executors. While
the database works, the executors live on what was prefetched, and outcomes gather for the next round. A large round on
PostgreSQL flies (`carrier`): the next one is prepared, and sent, while the server works on it. A large claim and what has ended
then go beside each other, each in a transaction of its own.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import Any, Final

from shiftboss.actors.carrier import Carrier
from shiftboss.actors.claim_times import ClaimTimes
from shiftboss.actors.claiming import Claiming
from shiftboss.actors.doorbell import Doorbell
from shiftboss.actors.endings import log_ending
from shiftboss.actors.flight import Flight
from shiftboss.actors.halt import Halt
from shiftboss.actors.lanebook import FIRST_POLL_S, LaneBook
from shiftboss.actors.lookout import Lookout
from shiftboss.actors.messages import (
    Died,
    Finished,
    FromPeer,
    Hello,
    Landed,
    LinkDown,
    Linked,
    Looked,
    ProgressMade,
    Returned,
    Tick,
    Wake,
)
from shiftboss.actors.outage import Outage
from shiftboss.actors.outbox import Outbox, Parcel, Waiting
from shiftboss.actors.peers import Peer
from shiftboss.actors.planning import LARGE, Manner, round_manner
from shiftboss.actors.process import Process, ProcessActor
from shiftboss.actors.roster import Roster
from shiftboss.actors.scout import Scout
from shiftboss.actors.sweeps import Sweeps
from shiftboss.actors.timer import Timer
from shiftboss.actors.watching import Watcher
from shiftboss.config import Settings
from shiftboss.control import Drain, PeerRetiring, Resume, Stop
from shiftboss.errors import StoreUnavailable
from shiftboss.events import Event, emit
from shiftboss.model import Ended, Outcome, Verdict
from shiftboss.store.base import ClaimAsk, Exchange, Exchanged, Store
from shiftboss.store.open import open_store

log = logging.getLogger("shiftboss.claimer")

WATCH_S: Final = 0.1
CANCEL_POLL_S: Final = 1.0
PROGRESS_STORED_S: Final = 1.0
SLEEP_AFTER_S: Final = 0.1  # an idle claimer that polls more seldom than this wants to be rung for
AWAKE_AFTER_ROUNDS: Final = 20  # full claims in a row after which ringing is a waste
LINGER_S: Final = 0.004  # outcomes gather this long while the executors still have work
LATER_S: Final = 0.5  # what others have locked is asked about again after this
FOLD_S: Final = 1.0
UNKNOWN_FIRST_S, UNKNOWN_EVERY_S = 5.0, 60.0
_APPLIED, _SUCCESS = Verdict.APPLIED, Outcome.SUCCESS  # an enum's attribute costs as much as the rest of a comparison


class Claimer(ProcessActor):
    """Claims for the free slots and stores what finished."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        settings = self.settings
        self._board = process.board
        self._timer = Timer(lambda name: self.actor_ref.tell(Tick(name)))
        self._outage = Outage(log, process.board, "claimer_away_s")
        self._outbox = Outbox()
        self._roster = Roster(self._outbox, process.board, self._pass_on, process.tell_parent)
        self._claiming = Claiming(settings, self._roster, self._outbox)
        self._watcher = Watcher(self._outbox, self._roster.types, process.tell_parent, settings.cancel_grace_s)
        self._claim_times = ClaimTimes()
        self._worker_id = ""
        self._is_ready = False
        self._round_is_next = False  # its tick is in our mailbox
        self._landing = False  # no round starts before those under way have landed
        self._leaving = False
        self._sleeping = False
        self._halt = Halt(self._roster, self._outbox, process.tell_parent, self._round, self._end_stop)

    def begin(self) -> None:
        store = self._open_store()
        others = [self._open_store() for _ in range(1, store.exchanges_at_once)]
        self._carrier = Carrier([store, *others], self.actor_ref.tell)
        self._lookout = Lookout(self._carrier, Scout(self._open_store, self.actor_ref.tell), self._timer, self._outage)
        self._sweeps = Sweeps(self._lookout, self._carrier, self._roster, self._outbox, self._watcher, self._board)
        Doorbell.start(store.listener, self.actor_ref, self._board)
        self._soon()
        self._timer.after("reconcile", self.settings.heartbeat_interval_s)
        self._timer.after("cancels", CANCEL_POLL_S)
        self._timer.after("unknown", UNKNOWN_FIRST_S)

    def _open_store(self) -> Store:
        name = f"shiftboss {self.process.name}"
        return open_store(self.settings.database_url, application_name=name, create=False, memory=self.process.board)

    def reloaded(self, old: Settings) -> None:  # noqa: ARG002  whoever keeps something of them knows what it keeps
        new = self.settings
        self._claiming.change(new)
        self._watcher.grace_s = new.cancel_grace_s
        self._timer.sooner("reconcile", new.heartbeat_interval_s)
        self._soon()

    def leave(self) -> None:
        """The executors hold what they have not been told is stored, and tell it to the next claimer."""
        if self._carrier.busy:
            self._leaving = True
            self._let_land()
            return
        self._carrier.close()
        self.process.end(0)

    def _pass_on(self, message: FromPeer | LinkDown) -> None:
        self.actor_ref.tell(message)

    @property
    def _lanes(self) -> LaneBook:
        return self._claiming.lanes

    # ---- messages

    def receive(self, message: Any) -> None:
        match message:
            case FromPeer():
                self._from_peer(message)
            case Landed() | Looked():
                self._comes_back(message)
            case Wake():
                self._look_for_tasks(rung=True)
            case Tick(name=name):
                self._tick(name)
            case Linked() | LinkDown() | Died():
                self._comes_or_goes(message)
            case PeerRetiring():
                self._roster.retire(message)
                self._timer.after("retire", 0.0)
            case Stop():
                self._carrier.recall()
                self._halt.stop(message)
                self._timer.after("halt", 0.0)
            case Drain(seq=seq):
                self._carrier.recall()
                self._halt.drain(seq)
                self._timer.after("halt", 0.0)
            case Resume():
                self._halt.resume()
                self._look_for_tasks(rung=True)
            case _:
                raise TypeError(f"the claimer does not know {message!r}")

    def _comes_back(self, message: Landed | Looked) -> None:
        if isinstance(message, Landed):
            self._landed(self._carrier.landed(message))
            return
        self._lookout.back()
        self._after_look()
        self._soon()  # there may be another lane
        if not self._lanes.dear:
            self._lookout.rest()

    def _comes_or_goes(self, message: Linked | LinkDown | Died) -> None:
        match message:
            case Linked():
                self._roster.link(message)
            case LinkDown(peer=name, incarnation=incarnation):
                peer = self._roster.find(name, incarnation)
                if peer is not None:
                    peer.link_down = True
            case Died():
                self._roster.died(message)
        self._bury_dead()

    def _tick(self, name: str) -> None:
        match name:
            case "round":
                self._due_round()
            case "poll":
                self._look_for_tasks(rung=False)
            case "watch":
                self._watch()
            case "later":
                self._outbox.take_up()
                self._soon()
            case "retire":
                self._go_on_retiring()
            case "halt":
                self._go_on_halting()
            case _:
                self._sweep(name)

    def _sweep(self, name: str) -> None:
        every_s = {"reconcile": self.settings.heartbeat_interval_s, "cancels": CANCEL_POLL_S, "unknown": UNKNOWN_EVERY_S}
        if name in every_s:
            self._timer.after(name, every_s[name])
        self._sweeps.sweep(name, self._worker_id)
        self._after_look()

    def _after_look(self) -> None:
        if self._sweeps.doubtful:
            self._let_land()
            self._go_on_landed()
        if self._outbox.has_outcomes:
            self._soon()

    def _from_peer(self, message: FromPeer) -> None:
        peer = self._roster.find(message.peer, message.incarnation)
        if peer is None:
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

    def _hello(self, peer: Peer, hello: Hello) -> None:
        self._roster.hello(peer, hello)
        self._halt.greet(peer)
        self._look_for_tasks(rung=True)  # it may know types that nobody here knew
        self._timer.sooner("watch", WATCH_S)
        self._timer.sooner("retire", 0.0)
        if self._sweeps.owed and not self._roster.silent:
            self._timer.after("reconcile", 0.0)

    def _bury_dead(self) -> None:
        if self._roster.bury_complete():
            self._timer.sooner("watch", WATCH_S)
        if self._outbox:
            self._soon()

    def _go_on_retiring(self) -> None:
        before = self._outbox.outcomes
        if self._roster.go_on_retiring():
            self._timer.sooner("retire", WATCH_S)
        if self._outbox.outcomes > before:  # handed back; other outcomes may gather as they do
            self._soon()

    # ---- what executors say

    def _finished(self, peer: Peer, cells: list[int], ended: list[Ended]) -> None:
        waiting = [
            Waiting(one, holding.claim, peer, holding.cell)
            for one, holding in zip(ended, peer.finish(cells), strict=True)
            if holding is not None
        ]
        self._outbox.end(*waiting)
        limited = self._lanes.limited
        if limited and any(one.claim is not None and one.claim.queue in limited for one in waiting):
            self._lanes.drained = False  # its queue has room again
        self._claiming.ended(sum([one.ended.duration_s for one in waiting]), len(cells))
        if peer.replacing and not any(holding.cancel_reason for holding in peer.holdings.values()):
            peer.accepting, peer.replacing = True, False  # it stopped in time; the process may stay
        self._soon(LINGER_S if self._claiming.has_work_for_long() else 0.0)

    def _returned(self, peer: Peer, cells: list[int]) -> None:
        """Unstarted tasks: to an executor with a free slot if there is one, else back to the database for anyone."""
        for cell in cells:
            holding = peer.give_back(cell)
            if holding is None:
                continue
            able = [one for one in self._roster.usable() if holding.claim.type in one.types]
            other = max(able, key=lambda one: one.free_slots, default=None)
            if other is None or not other.free_slots or holding.cancel_reason or not self._halt.may_claim:
                self._roster.release(holding.claim)
            else:
                other.execute([holding.claim])
        self._soon()

    # ---- the round

    def _soon(self, delay_s: float = 0.0) -> None:
        """Have a round, unless the database is away: then the next one waits for its time, whatever comes in."""
        if self._outage.lasting:
            return
        if delay_s:
            self._timer.sooner("round", delay_s)
        elif not self._round_is_next:  # without the timer's thread: whoever enqueues waits for it
            self._round_is_next = True
            self.actor_ref.tell(Tick("round"))

    def _due_round(self) -> None:
        self._round_is_next = False
        if self._outage.waits:
            return  # its tick was in our mailbox already when the database went away; the timer has the next one
        self._timer.cancel("round")
        self._round()

    def _round(self) -> None:
        """One round; started by a tick of that name, so that any number of reasons make one round."""
        if not self._board.worker_id:
            self._timer.after("round", FIRST_POLL_S)
            return
        store = self._carrier.idle
        if (store is None and self._carrier.line is None) or self._waits_for_landing():
            return  # whoever lands has the next one
        try:
            self._check_identity()
            request = self._carry(store)
            if self._carrier.busy:
                if request is not None:  # the next look, when there may be enough for another one
                    self._soon(0.0 if self._outbox.waiting >= LARGE or self._carrier.line is not None else LINGER_S)
                return
            self._outage.over()
        except StoreUnavailable as error:
            self._timer.after("round", self._outage.wait_s(error))
            self._say_ready()  # the service has been up, or there were no worker: to wait is what there is to do
            return
        self._plan_next(request)

    def _waits_for_landing(self) -> bool:
        """Beside a round under way there can only be another large one, and only while what it may get is known."""
        if not self._carrier.busy:
            return False
        may_claim = not self._carrier.claiming or self._carrier.line is not None
        return self._landing or self._outbox.cautious or not (may_claim or self._outbox.waiting >= LARGE)

    def _carry(self, store: Store | None) -> Exchange | None:
        """Have a round: here and now, or in flight when it is large. What was asked; `None`: there was nothing to ask.

        Without a store that nobody uses a claim can wait in line.
        """
        ask = self._claim_ask(store)
        manner = self._manner(ask)
        if manner is Manner.NOT_YET or (ask is None and not self._outbox):
            return None
        if store is None and manner is not Manner.CLAIM_FLIES:
            return None
        parcel = self._outbox.nothing() if manner is Manner.CLAIM_FLIES else self._outbox.take()
        counters = () if manner is Manner.CLAIM_FLIES or self._carrier.counting else self._claim_times.due()
        request = Exchange(
            worker_id=self._worker_id,
            ended=parcel.ended,
            starts=list(parcel.starts.values()),
            releases=parcel.releases,
            progress=list(parcel.progress.values()),
            counters=counters,
            claim=ask,
            cautious=parcel.cautious,
            ledger=self._carrier.ledger(self._worker_id, bool(parcel)) if parcel or counters else "",
            keep_completed=self.settings.keeps_completed,
        )
        if manner is not Manner.HERE and self._carrier.send(
            request, parcel, manner is Manner.CLAIM_FLIES and self._claiming.in_turn
        ):
            return request
        assert store is not None  # only what has a thread goes without
        sent_s = time.monotonic()
        try:
            reply = store.exchange(request)
        except BaseException:
            self._outbox.put_back(parcel)
            raise
        took_s = time.monotonic() - sent_s
        self._settle(request, parcel, reply, took_s)
        return request

    def _manner(self, ask: ClaimAsk | None) -> Manner:
        return round_manner(
            flies=self._carrier.flies and self._halt.may_claim and not self._outage.lasting,
            busy=self._carrier.busy,
            outcomes=self._outbox.waiting,
            asked=0 if ask is None else ask.limit,
            backlog=self._lanes.full_rounds > 0,
            limited=bool(self._lanes.limited),
        )

    def _landed(self, flight: Flight) -> None:
        """A round has its answer, which came while other work was done."""
        try:
            reply = flight.answer()
        except StoreUnavailable as error:
            self._outbox.put_back(flight.parcel)
            self._timer.after("round", self._outage.wait_s(error))
            self._say_ready()
        else:
            if flight.alone is not None:
                self._claiming.alone = flight.alone
            if not flight.refused:
                self._settle(flight.request, flight.parcel, reply, flight.seconds)
            self._outage.over()
            self._plan_next(flight.request)
            self._soon()  # whatever asked for a round meanwhile was turned away, and asks only once
        if self._landing:
            self._go_on_landed()

    def _let_land(self) -> None:
        self._landing = True
        self._carrier.recall()

    def _go_on_landed(self) -> None:
        """When nothing is under way any more, as somebody wanted."""
        if self._carrier.busy:
            return
        self._landing = False
        if self._leaving:
            self.leave()
        self._sweeps.clear_doubts(self._worker_id)
        self._after_look()

    def _claim_ask(self, store: Store | None) -> ClaimAsk | None:
        if not self._halt.may_claim or (self._carrier.claiming and (self._carrier.line is None or self._outage.lasting)):
            return None  # two claims at a time would pass over each other's rows, one by one
        return self._claiming.ask(store, self._lookout if self._carrier.flies else None, self._carrier.claiming)

    def _settle(self, request: Exchange, parcel: Parcel, reply: Exchanged, seconds: float) -> None:
        """The transaction is committed: tell the executors and the parent, send out the claims."""
        if request.counters:
            self._claim_times.stored()
        if request.claim is not None:
            self._claim_times.add(seconds)
        self._are_stored(parcel, reply)
        for burial in self._outbox.buried():
            self.process.tell_parent(burial)
        if self._halt.may_claim and request.worker_id == self._board.worker_id:
            self._claiming.hand_out(list(reply.claims))
        else:  # asked for before it was known
            for claim in reply.claims:
                self._roster.release(claim)
        if request.claim is not None:
            self._lanes.learn(request.claim, reply.claims, seconds)

    def _are_stored(self, parcel: Parcel, reply: Exchanged) -> None:
        cells = defaultdict[Peer | None, list[int]](list)
        for waiting, verdict, state in self._outbox.settle(parcel, reply):
            if verdict is not _APPLIED or waiting.ended.outcome is not _SUCCESS:
                log_ending(log, waiting, verdict, state)
            cells[waiting.peer].append(waiting.cell)
        for peer, stored in cells.items():
            if peer is not None:
                peer.mark_stored(stored)

    def _say_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self.ready()

    def _plan_next(self, request: Exchange | None) -> None:
        self._say_ready()
        self._set_sleeping()
        more = request is not None and request.claim is not None and not self._lanes.drained
        if more or self._outbox.has_outcomes:
            self._soon()
        if self._outbox.cautious:
            self._timer.sooner("later", LATER_S)
        if self._lanes.drained and self._halt.may_claim:
            self._timer.sooner("poll", self._lanes.poll_s)
        if self._carrier.ledgers.full:
            self._timer.sooner("fold", FOLD_S)
        if any(peer.holdings for peer in self._roster):
            self._timer.sooner("watch", WATCH_S)
        if any(peer.releasable for peer in self._roster):
            self._timer.after("retire", 0.0)
        if self._halt.under_way:
            self._timer.after("halt", 0.0)
        self._board.set("active", sum(min(peer.slots, len(peer.holdings)) for peer in self._roster))
        self._board.set("claimer_s", time.monotonic())

    def _look_for_tasks(self, *, rung: bool) -> None:
        self._lanes.look_again(rung=rung)
        self._soon()

    def _set_sleeping(self) -> None:
        """Producers ring only when someone sleeps. Looked at once more after saying so: a task may have slipped in before."""
        sleep = self._lanes.drained and self._lanes.poll_s >= SLEEP_AFTER_S and not self._sleeping
        rise = self._sleeping and self._lanes.full_rounds > AWAKE_AFTER_ROUNDS
        if not (sleep or rise) or not self._halt.may_claim:
            return
        store = self._carrier.idle
        if store is None:
            return  # next time
        try:
            store.set_sleeping(self._worker_id, sleep)
        except StoreUnavailable:
            return  # the next round finds out
        self._sleeping = sleep
        if sleep:
            self._lanes.look_again(rung=False)
            self._soon()

    # ---- beside the rounds

    def _watch(self) -> None:
        for peer in self._roster:
            if peer.death is None:
                self._watcher.look(peer)
        self._bury_dead()
        if any(peer.holdings for peer in self._roster):
            self._timer.sooner("watch", WATCH_S)

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
        self._watcher.fence(self._roster)

    # ---- drain and stop

    def _go_on_halting(self) -> None:
        self._halt.go_on()
        if self._outbox:
            self._soon()
        if self._halt.under_way:
            self._timer.sooner("halt", WATCH_S)

    def _end_stop(self) -> None:
        if self._outbox.owes_outcomes:
            log.warning(
                "stopping with %d outcomes that could not be stored; their tasks will be recovered", self._outbox.outcomes
            )
        self._carrier.close()
        self.process.end(0)

    def dump(self) -> None:
        for peer in self._roster:
            running = [one.claim.task_id for one in peer.holdings.values() if peer.started_ns(one)]
            fields: dict[str, object] = {"slots": peer.slots, "held": len(peer.holdings), "storing": len(peer.storing)}
            emit(log, logging.INFO, Event.ACTOR_STATE, peer=peer.name, running=running, accepting=peer.usable, **fields)
        typical_s, drained = self._claiming.typical_s, self._lanes.drained
        emit(log, logging.INFO, Event.ACTOR_STATE, outbox=self._outbox.outcomes, drained=drained, typical_s=typical_s)
