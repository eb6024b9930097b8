"""The only actor that claims and finishes tasks: one batched transaction does both.

What happens here in a round (`_flush`): everything that ended since the last round is stored, starts and returned tasks are
written, and tasks are claimed for the room there is, in one `exchange`. Then the claims go to the executors. While
the database works, the executors live on what was prefetched, and outcomes gather for the next round.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections import Counter, deque
from typing import Any, Final, NamedTuple

from shiftboss.actors.doorbell import Doorbell
from shiftboss.actors.link import PeerRef
from shiftboss.actors.messages import (
    CancelAll,
    CancelAttempt,
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
from shiftboss.actors.peers import Holding, Peer
from shiftboss.actors.planning import MARK_MARGIN_S, Typical, distribute, lane_asks, order_lanes
from shiftboss.actors.process import Process, ProcessActor
from shiftboss.actors.table import Table
from shiftboss.actors.timer import Timer
from shiftboss.control import Drain, Dump, PeerBuried, PeerDied, Replace, Report, Resume, Stop
from shiftboss.errors import StoreUnavailable
from shiftboss.events import Event, emit
from shiftboss.model import Claim, Ended, Lease, Outcome, Progress, TaskState, TypeInfo, Verdict
from shiftboss.retry import Exponential
from shiftboss.store.base import ClaimAsk, CounterDelta, Exchange, Exchanged, Lane, Store
from shiftboss.store.counting import CLAIM_BUCKETS_S, bucket_of, labels
from shiftboss.store.open import open_store

log = logging.getLogger("shiftboss.claimer")

MAX_EXCHANGE: Final = 2_000  # outcomes in one transaction: bounds its length after an outage
LANES_FRESH_S: Final = 0.2  # under load lanes are read this often; an idle claimer reads them each time
MARKS_FRESH_S: Final = 5.0  # lanes are read from their beginning this often
START_STORED_AFTER_S: Final = 0.25  # an attempt that ends sooner is never written as running
RECALL_AFTER_S: Final = 0.4  # unstarted for longer: someone else may have a free slot
WATCH_S: Final = 0.1
CANCEL_POLL_S: Final = 1.0
FIRST_POLL_S: Final = 0.01
SLEEP_AFTER_S: Final = 0.1
LINK_DRAIN_S: Final = 1.0  # how long the last words of a dead executor are waited for
COUNTERS_S: Final = 1.0
LINGER_S: Final = 0.004  # outcomes gather this long while the executors still have work
TOLD_WHEN_UNKNOWN_S: Final = 60.0


class Waiting(NamedTuple):
    """One outcome on its way to the database. `peer` is `None` when no executor waits for the news."""

    ended: Ended
    claim: Claim | None
    peer: Peer | None
    cell: int


class Claimer(ProcessActor):
    """Claims for the free slots and stores what finished."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._board = process.board
        self._timer = Timer(lambda name: self.actor_ref.tell(Tick(name)))
        self._outage = Outage(log, process.board)
        self._rng = random.Random()
        self._worker_id = ""
        self._peers: dict[str, Peer] = {}
        self._types: dict[str, TypeInfo] = {}
        self._outbox: deque[Waiting] = deque()
        self._releases: list[Lease] = []
        self._starts: dict[str, Lease] = {}
        self._progress: dict[str, Progress] = {}
        self._burials: list[PeerBuried] = []
        self._typical = Typical()
        self._lanes: list[Lane] = []
        self._lanes_read_s = 0.0
        self._marks: dict[tuple[str, int], float] = {}
        self._marks_reset_s = 0.0
        self._limited: set[str] = set()
        self._drained = False  # the last claim got less than it asked for: nothing there until someone rings or time passes
        self._poll_s = FIRST_POLL_S
        self._sleeping = False
        self._full_rounds = 0
        self._reconciled = False
        self._is_ready = False
        self._quiet = False
        self._stop_at_s: float | None = None
        self._gone_at_s = 0.0
        self._cancelled_all = False
        self._claim_seconds: Counter[str] = Counter()
        self._claim_seconds_sum = 0.0
        self._counters_due_s = 0.0

    def on_start(self) -> None:
        self._store: Store = open_store(self.settings.database_url, application_name=f"shiftboss {self.process.name}")
        self._doorbell = Doorbell.start(self._store.listener, self.actor_ref, self._board)
        for name in ("flush", "watch"):
            self._timer.after(name, 0.0)
        self._timer.after("reconcile", self.settings.heartbeat_interval_s)
        self._timer.after("cancels", CANCEL_POLL_S)
        self._timer.after("unknown", 5.0)

    # ---- messages

    def receive(self, message: Any) -> Any:
        match message:
            case FromPeer():
                self._from_peer(message)
            case Wake():
                self._wake()
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
            case Dump():
                self._dump()
            case _:
                raise TypeError(f"the claimer does not know {message!r}")

    def _tick(self, name: str) -> None:
        match name:
            case "flush":
                self._flush()
            case "poll":
                self._wake(by_time=True)
            case "watch":
                self._watch()
            case "reconcile":
                self._reconcile()
                self._timer.after("reconcile", self.settings.heartbeat_interval_s)
            case "cancels":
                self._look_for_cancels()
            case "unknown":
                self._tell_unknown_types()
            case "stop":
                self._go_on_stopping()

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
                self._progress.update((one.task_id, one) for one in progress)
                self._timer.sooner("flush", 1.0)
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

        ref = PeerRef[ToClaimer](socket.socket(fileno=linked.socket_fd), ToClaimer, pass_on, pass_end)
        self._peers[name] = Peer(name, incarnation, ref, Table(linked.table_fd))

    def _hello(self, peer: Peer, hello: Hello) -> None:
        for cell, claim, ended in peer.greet(hello):
            self._outbox.append(Waiting(ended, claim, peer, cell))
        self._types.update((info.type, info) for info in hello.types)
        self._board.set("capacity", sum(one.slots for one in self._peers.values()))
        if self._stop_at_s is not None:
            peer.ref.tell(Stopping())
            peer.ref.tell(Recall())
        self._drained = False
        self._timer.after("flush", 0.0)

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
        for holding in list(peer.holdings.values()):
            self._end_of_holding(peer, peer.death, holding)
        for index, waiting in enumerate(self._outbox):
            if waiting.peer is peer:
                self._outbox[index] = waiting._replace(peer=None)
        self._burials.append(PeerBuried(peer=peer.name, incarnation=peer.incarnation))
        del self._peers[peer.name]
        peer.close()
        self._board.set("capacity", sum(one.slots for one in self._peers.values()))
        self._timer.after("flush", 0.0)

    def _end_of_holding(self, peer: Peer, death: PeerDied, holding: Holding) -> None:
        claim, started_ns = holding.claim, peer.started_ns(holding)
        if not started_ns:
            self._release(claim)
            return
        ran_s = max(0.0, (time.monotonic_ns() - started_ns) / 1e9)
        outcome, error = _cause(death, holding, claim)
        self._outbox.append(Waiting(self._ended(claim, outcome, error, ran_s), claim, None, -1))

    def _bury_stranger(self, death: PeerDied, table: Table) -> None:
        """An executor died while no claimer knew it. What its table shows as started was running or is stored already.

        The store tells the two apart by the fence; what had not started is given back by the reconcile sweep.
        """
        outcome = Outcome.INTERRUPTED if death.reason is not None else Outcome.CRASHED
        for cell in table.started():
            ended = Ended(
                task_id=cell.task_id,
                fence=cell.fence,
                outcome=outcome,
                error=_died_text(death),
                retry_in_s=Exponential()(1),
                duration_s=0.0,
            )
            self._outbox.append(Waiting(ended, None, None, -1))
        table.close()
        self._burials.append(PeerBuried(peer=death.peer, incarnation=death.incarnation))
        self._timer.after("flush", 0.0)

    def _ended(self, claim: Claim, outcome: Outcome, error: str, ran_s: float) -> Ended:
        info = self._types.get(claim.type) or TypeInfo(type=claim.type)
        backoff = Exponential(base_s=info.backoff_base_s, max_s=info.backoff_max_s)
        return Ended(
            task_id=claim.task_id,
            fence=claim.fence,
            outcome=outcome,
            error=error,
            retry_in_s=backoff(claim.attempt),
            started_at=time.time() - ran_s,
            duration_s=ran_s,
        )

    # ---- what executors say

    def _finished(self, peer: Peer, cells: list[int], ended: list[Ended]) -> None:
        total_s = 0.0
        for cell, one in zip(cells, ended, strict=True):
            holding = peer.finish(cell)
            if holding is None:
                continue  # given back or fenced before; the fence decides nothing here
            total_s += one.duration_s
            self._outbox.append(Waiting(one, holding.claim, peer, cell))
            if holding.claim.queue in self._limited:
                self._drained = False
        self._typical = self._typical.after(total_s / len(cells))
        if peer.replacing and not any(holding.cancel_reason for holding in peer.holdings.values()):
            peer.accepting, peer.replacing = True, False  # it stopped in time; the process may stay
        self._timer.sooner("flush", LINGER_S if self._has_work_for_long() else 0.0)

    def _has_work_for_long(self) -> bool:
        """Whether every executor still has more than half of what it may hold, so that a round can wait for company."""
        if self._drained or not self._peers:
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
        self._timer.after("flush", 0.0)

    def _release(self, claim: Claim) -> None:
        self._releases.append(Lease(claim.task_id, claim.fence))

    def _usable(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.usable]

    # ---- the round

    def _flush(self) -> None:
        """One round; called by the timer `flush`, so that any number of reasons make one round."""
        if not self._board.worker_id:
            self._timer.after("flush", FIRST_POLL_S)
            return
        try:
            self._check_identity()
            request = self._request()
            if request is not None:
                sent_s = time.monotonic()
                reply = self._store.exchange(request)
                self._claim_took(time.monotonic() - sent_s, request)
                self._settle(request, reply)
            self._outage.over()
        except StoreUnavailable as error:
            self._timer.after("flush", self._outage.wait_s(error))
            return
        self._after_round(request)

    def _request(self) -> Exchange | None:
        ask = self._claim_ask()
        worth_it = self._outbox or self._releases or self._starts or self._progress or self._burials
        if ask is None and not worth_it:
            return None
        waiting = [self._outbox[index] for index in range(min(len(self._outbox), MAX_EXCHANGE))]
        ended = sorted({(one.ended.task_id, one.ended.fence): one.ended for one in waiting}.values(), key=_by_id)
        return Exchange(
            worker_id=self._worker_id,
            ended=ended,
            starts=list(self._starts.values()),
            releases=self._releases,
            progress=list(self._progress.values()),
            counters=self._counters(),
            claim=ask,
        )

    def _may_claim(self) -> bool:
        return not self._quiet and self._stop_at_s is None

    def _claim_ask(self) -> ClaimAsk | None:
        if self._drained or not self._may_claim() or not self._types:
            return None
        typical_s = self._typical_now()
        usable = self._usable()
        room = sum(peer.room(typical_s) for peer in usable)
        free = sum(peer.free_slots for peer in usable)
        if room <= 0 or (not free and not self._outbox and room < sum(peer.slots for peer in usable)):
            return None
        held = Counter(holding.claim.queue for peer in usable for holding in peer.holdings.values()) if self._limited else {}
        asks = lane_asks(self._fresh_lanes(), room, held, self._fresh_marks())
        if not asks:
            self._drained = True
            return None
        merge = self.settings.claim_strategy if self.settings.claim_strategy in ("fifo", "lifo") else None
        return ClaimAsk(lanes=asks, limit=room, running=free, types=list(self._types.values()), merge=merge)

    def _typical_now(self) -> float | None:
        """The estimate, not less than what runs now has already taken: a long task shows before it ends."""
        now_ns = time.monotonic_ns()
        running = [
            (now_ns - holding.started_ns) / 1e9
            for peer in self._peers.values()
            for holding in peer.holdings.values()
            if holding.started_ns
        ]
        mean_s = sum(running) / len(running) if running else 0.0
        return max(self._typical.seconds or 0.0, mean_s) if self._typical.seconds is not None or running else None

    def _fresh_lanes(self) -> list[Lane]:
        now_s = time.monotonic()
        if now_s - self._lanes_read_s > LANES_FRESH_S:
            self._lanes = self._store.lanes(self.settings.only_queues or None)
            self._lanes_read_s = now_s
            self._limited = {lane.queue for lane in self._lanes if lane.concurrency is not None}
        return order_lanes(self._lanes, self.settings.claim_strategy, self._rng)

    def _fresh_marks(self) -> dict[tuple[str, int], float]:
        now_s = time.monotonic()
        if now_s - self._marks_reset_s > MARKS_FRESH_S:
            self._marks, self._marks_reset_s = {}, now_s
        return self._marks

    def _settle(self, request: Exchange, reply: Exchanged) -> None:
        """The transaction is committed: forget what it carried, tell the executors, send out the claims."""
        verdicts = {
            (ended.task_id, ended.fence): (verdict, state)
            for ended, verdict, state in zip(request.ended, reply.verdicts, reply.states, strict=True)
        }
        for _ in range(min(len(self._outbox), MAX_EXCHANGE)):
            waiting = self._outbox.popleft()
            self._say(waiting, *verdicts[waiting.ended.task_id, waiting.ended.fence])
            if waiting.peer is not None:
                waiting.peer.mark_stored(waiting.cell)
        self._releases, self._starts, self._progress = [], {}, {}
        self._counters_sent(request)
        for burial in self._burials if not self._outbox else ():
            self.process.tell_parent(burial)
        if not self._outbox:
            self._burials = []
        self._send_out(list(reply.claims))
        if request.claim is not None:
            self._judge_claim(request.claim, list(reply.claims))

    def _send_out(self, claims: list[Claim]) -> None:
        usable = self._usable()
        typical_s = self._typical_now()
        places = distribute(len(claims), [peer.free_slots for peer in usable], [peer.room(typical_s) for peer in usable])
        shares: list[list[Claim]] = [[] for _ in usable]
        for claim, place in zip(claims, places, strict=False):
            shares[place].append(claim)
        for peer, share in zip(usable, shares, strict=True):
            if share:
                peer.execute(share)
        for claim in claims[len(places) :]:
            self._release(claim)  # an executor has died meanwhile

    def _judge_claim(self, ask: ClaimAsk, claims: list[Claim]) -> None:
        """Whether there is more, and from where on."""
        if len(claims) < ask.limit and any(lane.since is not None for lane in ask.lanes):
            self._marks = {}  # something older may be there: look again from the beginning before going idle
            return
        self._drained = len(claims) < ask.limit
        self._full_rounds = 0 if self._drained else self._full_rounds + 1
        if claims:
            self._poll_s = FIRST_POLL_S
        if ask.merge is None:
            for claim in claims:
                self._marks[claim.queue, claim.priority] = claim.due_at - MARK_MARGIN_S

    def _after_round(self, request: Exchange | None) -> None:
        if not self._is_ready:
            self._is_ready = True
            self.ready()
        self._set_sleeping()
        if self._outbox or self._releases or (request is not None and request.claim is not None and not self._drained):
            self._timer.after("flush", 0.0)
        if self._drained and self._may_claim():
            self._timer.sooner("poll", self._poll_s)
        if any(peer.holdings for peer in self._peers.values()):
            self._timer.sooner("watch", WATCH_S)
        if self._stop_at_s is not None:
            self._timer.after("stop", 0.0)
        self._board.set("active", sum(min(peer.slots, len(peer.holdings)) for peer in self._peers.values()))
        self._board.set("claimer_s", time.monotonic())

    def _wake(self, by_time: bool = False) -> None:
        """Look for tasks now. Looking without being rung for backs off up to `claim_interval`."""
        self._poll_s = min(self._poll_s * 2, self.settings.claim_interval_s) if by_time else FIRST_POLL_S
        self._drained = False
        self._lanes_read_s = 0.0
        self._timer.sooner("flush", 0.0)

    def _set_sleeping(self) -> None:
        """Producers ring only when someone sleeps. Looked at once more after saying so: a task may have slipped in before."""
        sleep = self._drained and self._poll_s >= SLEEP_AFTER_S and not self._sleeping
        rise = self._sleeping and self._full_rounds > 20
        if (sleep or rise) and self._may_claim():
            try:
                self._store.set_sleeping(self._worker_id, sleep)
            except StoreUnavailable:
                return  # the next round finds out
            self._sleeping = sleep
            if sleep:
                self._drained, self._lanes_read_s = False, 0.0
                self._timer.after("flush", 0.0)

    # ---- counters

    def _claim_took(self, seconds: float, request: Exchange) -> None:
        if request.claim is not None:
            self._claim_seconds[bucket_of(seconds, CLAIM_BUCKETS_S)] += 1
            self._claim_seconds_sum += seconds

    def _counters(self) -> list[CounterDelta]:
        """How long claims took, once a second: of no use by the round, and a round should carry little."""
        if time.monotonic() < self._counters_due_s or not self._claim_seconds:
            return []
        deltas = [
            CounterDelta(name="task_claim_duration_seconds_bucket", labels=labels(le=le), value=float(count))
            for le, count in self._claim_seconds.items()
        ]
        return [
            *deltas,
            CounterDelta(name="task_claim_duration_seconds_sum", labels=labels(), value=self._claim_seconds_sum),
        ]

    def _counters_sent(self, request: Exchange) -> None:
        if request.counters:
            self._claim_seconds.clear()
            self._claim_seconds_sum = 0.0
            self._counters_due_s = time.monotonic() + COUNTERS_S

    # ---- verdicts

    def _say(self, waiting: Waiting, verdict: Verdict, state: TaskState | None) -> None:
        """Log what a person may ask for later. Success is not logged: it is counted."""
        ended, claim = waiting.ended, waiting.claim
        if verdict is Verdict.ALREADY_APPLIED or (verdict is Verdict.FENCED and claim is None):
            return
        fields: dict[str, object] = {"task_id": ended.task_id, "fence": ended.fence}
        if claim is not None:
            fields |= {"type": claim.type, "attempt": claim.attempt}
        if verdict is Verdict.FENCED:
            emit(log, logging.WARNING, Event.TASK_FENCED, "task is no longer ours: outcome dropped", **fields)
        elif ended.outcome is not Outcome.SUCCESS:
            event, level = _EVENTS[ended.outcome]
            if state is TaskState.DEAD_LETTER:
                event, level = Event.TASK_DEAD_LETTER, logging.ERROR
            retry_in_s = ended.retry_in_s if state is TaskState.PENDING else None
            emit(log, level, event, outcome=ended.outcome.value, error=ended.error, retry_in_s=retry_in_s, **fields)

    # ---- watching what runs

    def _watch(self) -> None:
        """Write starts, enforce timeouts, call back what waits too long. Only tasks that are not over at once come here."""
        now_s = time.monotonic()
        for peer in list(self._peers.values()):
            if peer.death is not None:
                self._bury_if_complete(peer)
                continue
            waiting = [self._look_at(peer, holding, now_s) for holding in peer.older_than(now_s - START_STORED_AFTER_S)]
            cells = [cell for cell in waiting if cell is not None]
            if cells and peer.usable:
                peer.ref.tell(Recall(cells))
            self._replace_if_stuck(peer, now_s)
        if self._starts:
            self._timer.sooner("flush", 0.0)
        if any(peer.holdings or peer.death for peer in self._peers.values()):
            self._timer.sooner("watch", WATCH_S)

    def _look_at(self, peer: Peer, holding: Holding, now_s: float) -> int | None:
        """Returns the cell when its task should be called back."""
        started_ns = peer.started_ns(holding)
        if not started_ns:
            overdue = now_s - holding.dispatched_s > RECALL_AFTER_S and not holding.recalled
            holding.recalled = holding.recalled or overdue
            return holding.cell if overdue else None
        if not holding.start_stored:
            holding.start_stored = True
            self._starts[holding.claim.task_id] = Lease(holding.claim.task_id, holding.claim.fence)
        timeout_s = holding.claim.timeout_s
        if timeout_s is not None and holding.cancel_reason is None and now_s - started_ns / 1e9 > timeout_s:
            self._cancel(peer, holding, "timeout")
        return None

    def _cancel(self, peer: Peer, holding: Holding, reason: str) -> None:
        """Ask an attempt to stop; past the grace its process is replaced, so nothing new goes there meanwhile."""
        holding.cancel_reason, holding.cancelled_s = reason, time.monotonic()
        peer.ref.tell(CancelAttempt(holding.cell, reason))
        info = self._types.get(holding.claim.type)
        if info is None or not info.is_async:
            peer.accepting, peer.replacing = False, True
            peer.ref.tell(Recall())

    def _replace_if_stuck(self, peer: Peer, now_s: float) -> None:
        for holding in peer.holdings.values():
            if holding.cancel_reason and now_s - holding.cancelled_s > self.settings.cancel_grace_s:
                reason = f"{holding.cancel_reason} of task {holding.claim.task_id} ({holding.claim.type})"
                peer.accepting = False
                self.process.tell_parent(Replace(peer=peer.name, incarnation=peer.incarnation, reason=reason))
                return

    def _look_for_cancels(self) -> None:
        self._timer.after("cancels", CANCEL_POLL_S)
        held = {
            (holding.claim.task_id, holding.claim.fence): (peer, holding)
            for peer in self._peers.values()
            for holding in peer.holdings.values()
        }
        if not held or self._outage.lasting:
            return
        try:
            requests = self._store.cancel_requests(self._worker_id)
        except StoreUnavailable as error:
            self._outage.wait_s(error)
            return
        for lease in requests:
            peer, holding = held.get((lease.task_id, lease.fence), (None, None))
            if peer is None or holding is None or holding.cancel_reason:
                continue
            if peer.started_ns(holding):
                self._cancel(peer, holding, "cancel")
            else:
                holding.cancel_reason = "cancel"
                holding.cancelled_s = time.monotonic()
                peer.ref.tell(Recall([holding.cell]))

    def _reconcile(self) -> None:
        """Give back what the database says is ours but nobody holds: claims whose reply was lost, or died with a claimer.

        Not before every executor has said what it holds: one that is stuck in C cannot answer.
        """
        silent = [peer for peer in self._peers.values() if not peer.said_hello]
        if silent or self._outage.lasting or not self._worker_id:
            return
        try:
            owned = self._store.owned(self._worker_id)
        except StoreUnavailable as error:
            self._outage.wait_s(error)
            return
        known = {(one.ended.task_id, one.ended.fence) for one in self._outbox}
        known |= {(h.claim.task_id, h.claim.fence) for peer in self._peers.values() for h in peer.holdings.values()}
        unknown = [Lease(one.task_id, one.fence) for one in owned if (one.task_id, one.fence) not in known]
        if unknown:
            emit(
                log, logging.WARNING, Event.TASK_RELEASED, "ours in the database, held by nobody: given back", count=len(unknown)
            )
            self._releases.extend(unknown)
            self._timer.after("flush", 0.0)

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
        for peer in self._peers.values():
            peer.ref.tell(CancelAll("fenced"))
            now_s = time.monotonic()
            for holding in peer.holdings.values():
                holding.cancel_reason, holding.cancelled_s = holding.cancel_reason or "fenced", now_s

    def _tell_unknown_types(self) -> None:
        self._timer.after("unknown", TOLD_WHEN_UNKNOWN_S)
        if self._outage.lasting or not self._types:
            return
        try:
            unknown = self._store.unknown_types(list(self._types))
        except StoreUnavailable as error:
            self._outage.wait_s(error)
            return
        for type_, count in unknown.items():
            emit(log, logging.WARNING, Event.TASK_UNKNOWN_TYPE, "no handler here for pending tasks", type=type_, count=count)

    # ---- quiet and stop

    def _set_quiet(self, quiet: bool) -> None:
        self._quiet = quiet
        if quiet:
            for peer in self._peers.values():
                peer.ref.tell(Recall())
        else:
            self._wake()

    def _begin_stop(self, stop: Stop) -> None:
        """Claim nothing more, give back what has not started, wait for the rest, then for less and less."""
        now_s = time.monotonic()
        first = self._stop_at_s is None
        self._stop_at_s = min(now_s + stop.drain_s, self._stop_at_s if self._stop_at_s is not None else float("inf"))
        self._gone_at_s = self._stop_at_s + stop.grace_s
        if first:
            for peer in self._peers.values():
                peer.ref.tell(Stopping())
                peer.ref.tell(Recall())
        self._timer.after("stop", 0.0)

    def _go_on_stopping(self) -> None:
        assert self._stop_at_s is not None
        now_s = time.monotonic()
        held = [(peer, holding) for peer in self._peers.values() for holding in peer.holdings.values()]
        if not held and not self._outbox and not self._releases:
            self._finish_stop()
        if now_s >= self._stop_at_s and held and not self._cancelled_all:
            self._cancelled_all = True
            ids = [holding.claim.task_id for _peer, holding in held]
            emit(log, logging.WARNING, Event.DRAIN_TIMEOUT, "cancelling what still runs", running=len(held), task_ids=ids)
            for peer in self._peers.values():
                peer.ref.tell(CancelAll("stop"))
        if now_s >= self._gone_at_s:
            self._hand_back(held)
            if now_s >= self._gone_at_s + 1.0 or not (self._outbox or self._releases):
                self._finish_stop()
        self._timer.sooner("flush", 0.0 if self._releases else WATCH_S)
        self._timer.after("stop", WATCH_S)
        self.process.tell_parent(Report(status=f"draining, {len(held)} running"))

    def _hand_back(self, held: list[tuple[Peer, Holding]]) -> None:
        """Fenced, and before anything is killed: an attempt that ends in this instant loses the race cleanly."""
        for peer, holding in held:
            peer.holdings.pop(holding.cell)
            started_ns = peer.started_ns(holding)
            if not started_ns:
                self._release(holding.claim)
                continue
            ran_s = (time.monotonic_ns() - started_ns) / 1e9
            ended = self._ended(holding.claim, Outcome.INTERRUPTED, "interrupted: the worker stopped", ran_s)
            self._outbox.append(Waiting(ended, holding.claim, None, -1))
        self._flush()

    def _finish_stop(self) -> None:
        if self._outbox:
            log.warning("stopping with %d outcomes that could not be stored; their tasks will be recovered", len(self._outbox))
        self._store.close()
        self.process.end(0)

    def _dump(self) -> None:
        for peer in self._peers.values():
            emit(
                log,
                logging.INFO,
                Event.ACTOR_STATE,
                peer=peer.name,
                slots=peer.slots,
                held=len(peer.holdings),
                running=[h.claim.task_id for h in peer.holdings.values() if peer.started_ns(h)],
                storing=len(peer.storing),
                accepting=peer.accepting,
            )
        emit(
            log, logging.INFO, Event.ACTOR_STATE, outbox=len(self._outbox), drained=self._drained, typical_s=self._typical.seconds
        )


_EVENTS: Final = {
    Outcome.FAILED: (Event.TASK_FAILED, logging.WARNING),
    Outcome.TIMEOUT: (Event.TASK_TIMEOUT, logging.WARNING),
    Outcome.CRASHED: (Event.TASK_CRASHED, logging.WARNING),
    Outcome.INTERRUPTED: (Event.TASK_INTERRUPTED, logging.WARNING),
    Outcome.CANCELLED: (Event.TASK_CANCELLED, logging.INFO),
    Outcome.SNOOZED: (Event.TASK_SNOOZED, logging.DEBUG),
    Outcome.LOST: (Event.TASK_CRASHED, logging.WARNING),
}


def _by_id(ended: Ended) -> str:
    """Rows are written in the order of their ids, so that two transactions never wait for each other in a circle."""
    return ended.task_id


def _died_text(death: PeerDied) -> str:
    how = f"killed by {death.signal}" if death.signal else f"exited with code {death.exit_code}"
    return f"{death.peer} was {how} after {death.uptime_s:.1f} s, peak memory {death.peak_rss_kib / 1024:.0f} MiB"


def _cause(death: PeerDied, holding: Holding, claim: Claim) -> tuple[Outcome, str]:
    """How an attempt ended whose process is gone: by its own doing, or because of a neighbour or a stop."""
    match holding.cancel_reason:
        case "timeout":
            return Outcome.TIMEOUT, f"timeout: still running after {claim.timeout_s:g} s; its process was replaced"
        case "cancel":
            return Outcome.CANCELLED, "cancelled: it did not stop when asked; its process was replaced"
    if death.reason is not None or holding.cancel_reason == "fenced":
        return Outcome.INTERRUPTED, f"interrupted: {death.reason or 'worker fenced'}"
    return Outcome.CRASHED, f"crashed: {_died_text(death)}"
