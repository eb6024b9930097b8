"""The task protocol as an explicit-state model: one task, two workers, and a network that loses, delays and repeats.

What is sent may be on its way for long, also when its sender was killed, gave up or was declared dead, and may be sent again
meanwhile. Every answer may be lost. A worker's row may expire at any moment, whether the worker is dead or only paused. An
operator may cancel and retry. A worker that was killed starts anew under a new identity. The two workers are alike, so states
that differ only in which is which are one; in a trace their numbers may therefore change places.

A claim is stored as running (charged at once) or as claimed (prefetched); user code of a prefetched task runs before its
start is written, so an end may find it claimed. `BROKEN` names variants of the rules; each breaks a property.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

PENDING, CLAIMED, RUNNING, COMPLETED, DEAD, CANCELLED = "pending", "claimed", "running", "completed", "dead_letter", "cancelled"
LEASED: Final = (CLAIMED, RUNNING)
NOBODY: Final = -1
GONE: Final = 2  # the identity of all who are dead; the two who live are 0 and 1

S1 = "S1 completed at most once"
S2 = "S2 only the newest claim ends a task"
S3 = "S3 attempts and refunds stay within their bounds"
S4 = "S4 the fence never falls"
S5 = "S5 completed is final"
S6 = "S6 a leased task has an owner, no other task has one"
S7 = "S7 a fence has one holder"
S8 = "S8 a task is not run more often than its attempts and refunds allow"
S9 = "S9 verdicts are true"
S10 = "S10 a task that was asked to stop is not claimed again"
L1 = "L1 it can always end"


class Fence(NamedTuple):
    """What is stored, and the true number of the claim, which only the properties see."""

    token: int
    claim: int


class Client(NamedTuple):
    """One worker: its identity, what it is doing, and the claim that it does it with."""

    identity: int
    mode: str  # idle, held, running, or the kind of message for which it wants an answer
    fence: Fence | None = None


class Message(NamedTuple):
    """To the database. Kinds: claim, prefetch, start, release, success, failed, interrupted, cancelled."""

    kind: str
    identity: int
    fence: Fence | None = None
    seen: bool | None = None  # whether the end was recorded when the statement began; only with a stale snapshot


class State(NamedTuple):
    """The row, the workers' rows, the workers, the network; then what only the properties look at."""

    status: str = PENDING
    fence: Fence = Fence(0, 0)
    attempts: int = 0
    refunds: int = 0
    owner: int = NOBODY
    asked: bool = False
    retries: int = 0
    clients: tuple[Client, ...] = ()
    net: frozenset[Message] = frozenset()  # sent by someone who heard no answer, not arrived yet
    ends: frozenset[tuple[Fence, str]] = frozenset()  # who ended each claim: owner or lost
    runs: int = 0
    since: int = 0  # runs are counted for claims after this one: since the last retry


Step = tuple[str, State, str | None]
ENDS: Final = ("success", "failed", "interrupted", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far the search goes; `late` is how many statements may be on their way at once without a living sender's call."""

    claims: int = 3
    attempts: int = 2
    refunds: int = 1
    retries: int = 0
    late: int = 2
    cancel: bool = False


# Each with the properties of which it must break one, and bounds within which that shows soon.
_SHORT, _FRUGAL = Bounds(late=1), Bounds(late=1, attempts=1, refunds=0)
BROKEN: Final = {
    "guard by id only": ((S1, S2, S3, S5, S6), _SHORT),
    "guard by status only": ((S2,), _SHORT),
    "guard by status and owner": ((S2,), _SHORT),
    "attempt as fence": ((S2, S4, S7), _SHORT),
    "retry resets the fence": ((S4,), Bounds(late=1, retries=1)),
    "uncapped refunds": ((S8,), _FRUGAL),
    "a recovered claim costs nothing": ((S8,), _FRUGAL),
    "claim does not charge": ((S3, S8), _SHORT),
    "an end does not charge a start that was not written": ((S3, S8), _SHORT),
    "verdict by the fence alone": ((S9,), _SHORT),
    "verdict from the same snapshot": ((S9,), _SHORT),
    "recover ignores the last attempt": ((S3,), _SHORT),
    "no recover": ((L1,), Bounds(late=1, claims=2)),
    "no sweep": ((L1,), Bounds(late=1, claims=2)),
    "sweep without asking what runs": ((S8,), _FRUGAL),
    "cancel is forgotten when an attempt ends": ((S10,), Bounds(late=1, cancel=True)),
}


@dataclass(frozen=True, slots=True)
class Protocol:
    """Our protocol within `bounds`, or a variant of it with one rule broken."""

    bounds: Bounds
    broken: str = ""

    def initial(self) -> State:
        return State(clients=(Client(0, "idle"), Client(1, "idle")))

    def is_end(self, state: State) -> bool:
        return state.status in (COMPLETED, DEAD, CANCELLED) or (
            state.status == PENDING and state.fence.claim >= self.bounds.claims
        )

    def is_help(self, label: str) -> bool:
        return label.startswith(("operator", "paused")) or "killed" in label

    def steps(self, state: State) -> Iterator[Step]:
        for label, following, told in self._moves(state):
            yield label, _same(_forget(following)), told or self._wrong(state, following)

    def _moves(self, s: State) -> Iterator[Step]:
        for index in range(len(s.clients)):
            yield from self._worker(s, index)
        for message in s.net:
            yield from self._arrives(s, message)
        yield from self._recover(s)
        yield from self._operator(s)

    # ---- a worker

    def _worker(self, s: State, index: int) -> Iterator[Step]:
        client = s.clients[index]
        who = f"w{client.identity}"
        yield from self._killed(s, index)
        match client.mode:
            case "idle":
                for kind in ("claim", "prefetch"):
                    yield from self._calls(s, index, Message(kind, client.identity))
                if s.owner == client.identity and self.broken != "no sweep":
                    # What the database says is mine and I do not know of: a claim whose answer was lost.
                    yield from self._calls(s, index, Message("release", client.identity, s.fence))
            case "held":
                counted = client.fence is not None and client.fence.claim > s.since
                yield f"{who} runs it", _with(s._replace(runs=s.runs + counted), index, client._replace(mode="running")), None
                yield f"{who} gives it back", _with(s, index, client._replace(mode="release")), None
            case "running":
                yield from self._calls(s, index, Message("start", client.identity, client.fence))
                for kind in ENDS if s.asked else ENDS[:3]:
                    yield f"{who} ends it, {kind}", _with(s, index, client._replace(mode=kind)), None
                if self.broken == "sweep without asking what runs" and s.owner == client.identity:
                    yield from self._calls(s, index, Message("release", client.identity, s.fence))
            case kind:
                yield from self._calls(s, index, Message(kind, client.identity, client.fence))

    def _killed(self, s: State, index: int) -> Iterator[Step]:
        # One that stays dead does nothing that an idle or a paused one could not do too: it starts anew at once, as somebody
        # new; what it held and what it sent belongs to nobody who lives.
        me = s.clients[index].identity
        net = frozenset(message._replace(identity=GONE) if message.identity == me else message for message in s.net)
        after = _with(s._replace(net=net, owner=GONE if s.owner == me else s.owner), index, Client(me, "idle"))
        yield f"w{me} is killed and starts anew", after, None

    def _calls(self, s: State, index: int, message: Message) -> Iterator[Step]:
        """Answered, not answered, or cut off while what was sent is still on its way."""
        for label, after, told, claimed in self._takes(s, message):
            if message.kind != "start":
                yield label, _with(after, index, _answered(s.clients[index], claimed)), told
            if after is not s:
                yield f"{label}, answer lost", after, told
        if message not in s.net and len(s.net) < self.bounds.late:
            yield f"w{message.identity} leaves {message.kind} on its way", s._replace(net=s.net | {message}), None

    # ---- the database

    def _arrives(self, s: State, message: Message) -> Iterator[Step]:
        if self.broken == "verdict from the same snapshot" and message.seen is None and message.fence and message.kind in ENDS:
            seen = message._replace(seen=self._recorded(s, message.fence))
            yield f"{message.kind} begins late", s._replace(net=s.net - {message} | {seen}), None
            return
        for label, after, told, _ in self._takes(s, message):
            yield f"late: {label}", after._replace(net=s.net - {message}), told

    def _takes(self, s: State, message: Message) -> Iterator[tuple[str, State, str | None, Fence | None]]:
        """What a statement does: a label, the state after it, the property broken, and the claim it made."""
        if message.fence is None:
            yield self._claim(s, message)
            return
        who, mine = f"w{message.identity}", self._mine(s, message)
        match message.kind:
            case "start":
                started = mine and s.status == CLAIMED
                yield f"{who} start", s._replace(status=RUNNING, attempts=s.attempts + 1) if started else s, None, None
            case "release":
                yield f"{who} release", self._released(s) if mine else s, None, None
            case kind if mine:
                told = S2 if message.fence.claim != s.fence.claim else None
                yield f"{who} {kind}: applied", self._end(s, message), told, None
            case kind:
                yield f"{who} {kind}: refused", s, self._judge(s, message), None

    def _mine(self, s: State, message: Message) -> bool:
        match self.broken:
            case "guard by id only":
                return True
            case "guard by status only":
                return s.status in LEASED
            case "guard by status and owner":
                return s.status in LEASED and s.owner == message.identity
            case _:
                return s.status in LEASED and message.fence is not None and s.fence.token == message.fence.token

    def _claim(self, s: State, message: Message) -> tuple[str, State, str | None, Fence | None]:
        who = f"w{message.identity}"
        if s.status != PENDING or s.fence.claim >= self.bounds.claims:
            return f"{who} finds nothing to claim", s, None, None
        charge = message.kind == "claim" and self.broken != "claim does not charge"
        token = s.attempts + 1 if self.broken == "attempt as fence" else s.fence.token + 1
        fence = Fence(token, s.fence.claim + 1)
        status = RUNNING if message.kind == "claim" else CLAIMED
        after = s._replace(status=status, fence=fence, owner=message.identity, attempts=s.attempts + charge, asked=False)
        return f"{who} {message.kind}s {fence.claim}", after, None, fence

    def _end(self, s: State, message: Message) -> State:
        unpaid = s.status == CLAIMED and self.broken != "an end does not charge a start that was not written"
        s = s._replace(attempts=s.attempts + unpaid, ends=s.ends | {(message.fence or s.fence, "owner")})
        match message.kind:
            case "success":
                return _ended(s, COMPLETED)
            case "cancelled":
                return _ended(s, CANCELLED)
            case "interrupted" if s.refunds < self.bounds.refunds or self.broken == "uncapped refunds":
                refunds = min(s.refunds + 1, self.bounds.refunds)
                return self._again(s._replace(attempts=s.attempts - 1, refunds=refunds))
            case _:
                return self._again(s) if s.attempts < self.bounds.attempts else _ended(s, DEAD)

    def _released(self, s: State) -> State:
        if s.status == CLAIMED:
            return self._again(s)
        if s.refunds < self.bounds.refunds or self.broken == "uncapped refunds":
            return self._again(s._replace(attempts=s.attempts - 1, refunds=min(s.refunds + 1, self.bounds.refunds)))
        return self._again(s) if s.attempts < self.bounds.attempts else _ended(s, DEAD)

    def _again(self, s: State) -> State:
        stops = s.asked and self.broken != "cancel is forgotten when an attempt ends"
        return _ended(s, CANCELLED if stops else PENDING)

    def _recover(self, s: State) -> Iterator[Step]:
        if s.status not in LEASED or self.broken == "no recover":
            return
        # Its row may have expired because it is dead, or only because it was paused: the model allows it at any time.
        name = "recover" if s.owner == GONE else "paused: recover"
        if s.status == CLAIMED and (s.refunds < self.bounds.refunds or self.broken == "a recovered claim costs nothing"):
            cost = self.broken != "a recovered claim costs nothing"
            yield f"{name}, never started", self._again(s._replace(refunds=s.refunds + cost)), None
            return
        lost = s._replace(attempts=s.attempts + (s.status == CLAIMED), ends=s.ends | {(s.fence, "lost")})
        more = lost.attempts < self.bounds.attempts or self.broken == "recover ignores the last attempt"
        yield f"{name}, lost", self._again(lost) if more else _ended(lost, DEAD), None

    def _operator(self, s: State) -> Iterator[Step]:
        if self.bounds.cancel and s.status == PENDING:
            yield "operator cancels", _ended(s, CANCELLED), None
        if self.bounds.cancel and s.status in LEASED and not s.asked:
            yield "operator asks to stop", s._replace(asked=True), None
        if s.status in (DEAD, CANCELLED) and s.retries < self.bounds.retries:
            fence = Fence(0, s.fence.claim) if self.broken == "retry resets the fence" else s.fence
            fresh = s._replace(status=PENDING, attempts=0, refunds=0, fence=fence, retries=s.retries + 1, asked=False)
            yield "operator retries", fresh._replace(runs=0, since=s.fence.claim), None

    # ---- answers and what must hold

    def _recorded(self, s: State, fence: Fence) -> bool:
        """What the verdict's query would say."""
        if self.broken == "verdict by the fence alone":
            return any(end.token == fence.token for end, _ in s.ends)
        return any(by == "owner" and end.token == fence.token for end, by in s.ends)

    def _judge(self, s: State, message: Message) -> str | None:
        """Whether "already applied" or "fenced", as it will be told, is the truth."""
        if message.fence is None:
            return None
        told = self._recorded(s, message.fence) if message.seen is None else message.seen
        return None if told == ((message.fence, "owner") in s.ends) else S9

    def _wrong(self, old: State, new: State) -> str | None:
        checks = (
            (S1, old.status == COMPLETED and _newly_ended(old, new)),
            (S5, old.status == COMPLETED and new.status != COMPLETED),
            (S3, not (0 <= new.attempts <= self.bounds.attempts and 0 <= new.refunds <= self.bounds.refunds)),
            (S4, new.fence.token < old.fence.token),
            (S6, (new.status in LEASED) != (new.owner != NOBODY)),
            (S7, _shared(new)),
            (S8, new.runs > self.bounds.attempts + self.bounds.refunds),
            (S10, old.asked and not new.asked and new.status == PENDING and new.retries == old.retries),
        )
        return next((name for name, broken in checks if broken), None)


def _with(s: State, index: int, client: Client) -> State:
    clients = list(s.clients)
    clients[index] = client
    return s._replace(clients=tuple(clients))


def _answered(client: Client, claimed: Fence | None) -> Client:
    return client._replace(mode="idle", fence=None) if claimed is None else client._replace(mode="held", fence=claimed)


def _ended(s: State, status: str) -> State:
    return s._replace(status=status, owner=NOBODY, asked=False)


def _newly_ended(old: State, new: State) -> bool:
    return len(new.ends - old.ends) > 0


def _shared(s: State) -> bool:
    tokens = [c.fence.token for c in s.clients if c.fence is not None and c.mode in ("running", *ENDS)]
    return len(tokens) != len(set(tokens))


def _forget(s: State) -> State:
    """Drop from the ghosts what nobody can ask about any more, so that equal states are equal."""
    if not s.ends:
        return s
    asked_for = {m.fence.token for m in s.net if m.fence} | {c.fence.token for c in s.clients if c.fence}
    kept = frozenset(end for end in s.ends if end[0].token in asked_for)
    return s if kept == s.ends else s._replace(ends=kept)


def _same(s: State) -> State:
    """One state for two that differ only in which worker is which."""
    first, second = s.clients
    if _looks(s, first) <= _looks(s, second):
        return s
    swap = (1, 0, GONE, NOBODY)
    net = frozenset(message._replace(identity=swap[message.identity]) for message in s.net)
    return s._replace(clients=(second._replace(identity=0), first._replace(identity=1)), owner=swap[s.owner], net=net)


def _looks(s: State, client: Client) -> tuple[object, ...]:
    sent = sorted((m.kind, m.fence or Fence(0, 0), m.seen or False) for m in s.net if m.identity == client.identity)
    return client.mode, client.fence or Fence(0, 0), s.owner == client.identity, sent
