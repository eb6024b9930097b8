"""What the claimer has to write and has not written yet. Nothing leaves it before the database has said what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from operator import attrgetter
from typing import Final, TypeAlias

import msgspec

from shiftboss.actors.peers import Peer
from shiftboss.control import PeerBuried
from shiftboss.model import Claim, Ended, Lease, Progress, TaskState, Verdict
from shiftboss.store.base import Exchanged

MAX_ENDED: Final = 2_000  # outcomes in one transaction: bounds its length after an outage


class Waiting(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One outcome on its way to the database. `peer` is `None` when no executor waits for the news."""

    ended: Ended
    claim: Claim | None = None
    peer: Peer | None = None
    cell: int = -1


_Key: TypeAlias = tuple[str, int]  # task id and fence
_ENDED: Final = attrgetter("ended")
_TASK_ID: Final = attrgetter("ended.task_id")
_LEASE: Final = attrgetter("task_id", "fence")


class Parcel:
    """What goes out together. It is still owed until `Outbox.settle` or `Outbox.put_back` is told what became of it.

    Attributes:
        ended: each lease once, in the order of their ids: two transactions that lock rows in the same order never wait for
            each other in a circle.
        cautious: somebody holds rows of ours, as far as we know: for `Exchange.cautious`.
    """

    __slots__ = ("cautious", "ended", "progress", "releases", "starts", "waiting")

    def __init__(
        self,
        waiting: list[Waiting],
        releases: list[Lease],
        starts: dict[str, Lease],
        progress: dict[str, Progress],
        cautious: bool,
    ) -> None:
        self.waiting = sorted(waiting, key=_TASK_ID)
        self.releases, self.starts, self.progress, self.cautious = releases, starts, progress, cautious
        ended = list(map(_ENDED, self.waiting))
        if len(set(map(_TASK_ID, self.waiting))) < len(ended):
            ended = list(dict(zip(map(_LEASE, ended), ended, strict=True)).values())
        self.ended = ended

    def __bool__(self) -> bool:
        return bool(self.waiting or self.releases or self.starts or self.progress)


class Outbox:
    """Outcomes, starts, returned tasks and progress; and deaths that are dealt with once all that is stored.

    What is on its way is in a parcel; there may be several. What the database wants to hear later, since somebody else has
    locked the row, is laid aside until `take_up`.
    """

    def __init__(self) -> None:
        self._ended: deque[Waiting] = deque()
        self._releases: list[Lease] = []
        self._starts: dict[str, Lease] = {}
        self._progress: dict[str, Progress] = {}
        self._burials: list[_Burial] = []
        self._under_way: list[Parcel] = []
        self._later = _Later()
        self._taken_up = False  # what goes out next has been laid aside before

    def __bool__(self) -> bool:
        """Whether a round now would have something to write."""
        return bool(self._ended or self._releases or self._starts or self._progress) or any(one.due for one in self._burials)

    @property
    def owes_outcomes(self) -> bool:
        """Whether tasks would be lost to recovery if this process ended now."""
        return self.has_outcomes or bool(self._later.ended or self._later.releases or self._under_way)

    @property
    def has_outcomes(self) -> bool:
        """Whether a round now would store some of what is owed."""
        return bool(self._ended or self._releases)

    @property
    def waiting(self) -> int:
        """How many outcomes would go with a round now."""
        return len(self._ended)

    @property
    def outcomes(self) -> int:
        """How many are owed."""
        return sum(1 for _ in self._owed())

    @property
    def cautious(self) -> bool:
        """Whether somebody holds rows of ours, as far as we know."""
        return bool(self._later) or self._taken_up

    def leases(self) -> set[_Key]:
        """(task id, fence) of every outcome, and of every returned task, that is not stored."""
        releases = chain(self._releases, self._later.releases, *(parcel.releases for parcel in self._under_way))
        return {_LEASE(one.ended) for one in self._owed()} | set(map(_LEASE, releases))

    def _owed(self) -> Iterator[Waiting]:
        return chain(self._ended, self._later.ended, *(parcel.waiting for parcel in self._under_way))

    # ---- in

    def end(self, *waiting: Waiting) -> None:
        self._ended.extend(waiting)

    def release(self, *leases: Lease) -> None:
        self._releases.extend(leases)

    def start(self, lease: Lease) -> None:
        self._starts[lease.task_id] = lease

    def progress(self, made: Sequence[Progress]) -> None:
        self._progress.update((one.task_id, one) for one in made)

    def bury(self, peer: str, incarnation: int) -> None:
        """Tell the parent so once everything that is owed now is stored."""
        owed = {_LEASE(one.ended) for one in self._owed()}
        self._burials.append(_Burial(PeerBuried(peer=peer, incarnation=incarnation), owed))

    def forget_peer(self, peer: Peer) -> None:
        """Nobody at `peer` waits for news any more."""
        self._ended = deque(_without_peer(self._ended, peer))
        self._later.ended = list(_without_peer(self._later.ended, peer))
        for parcel in self._under_way:
            parcel.waiting = list(_without_peer(parcel.waiting, peer))

    def take_up(self) -> None:
        """What was laid aside goes out with the next round."""
        later, self._later = self._later, _Later()
        self._taken_up = self._taken_up or bool(later)
        self._ended.extend(later.ended)
        self._releases += later.releases
        self._starts = later.starts | self._starts
        self._progress = later.progress | self._progress

    # ---- out

    def take(self) -> Parcel:
        """What goes out with the next round; `settle` or `put_back` has to follow."""
        waiting = list(islice(self._ended, MAX_ENDED))
        for _ in waiting:
            self._ended.popleft()
        parcel = Parcel(waiting, self._releases, self._starts, self._progress, self.cautious)
        self._releases, self._starts, self._progress, self._taken_up = [], {}, {}, False
        self._under_way.append(parcel)
        return parcel

    def nothing(self) -> Parcel:
        """For a round that only claims; `settle` or `put_back` has to follow as well."""
        parcel = Parcel([], [], {}, {}, cautious=False)
        self._under_way.append(parcel)
        return parcel

    def put_back(self, parcel: Parcel) -> None:
        """The database could not be asked, or did not answer: all of it goes out again, as if nothing had happened."""
        self._under_way.remove(parcel)
        self._ended.extendleft(reversed(parcel.waiting))
        self._releases = parcel.releases + self._releases
        self._starts = parcel.starts | self._starts
        self._progress = parcel.progress | self._progress
        self._taken_up = self._taken_up or parcel.cautious

    def settle(self, parcel: Parcel, reply: Exchanged) -> Iterable[tuple[Waiting, Verdict, TaskState | None]]:
        """It is committed: forget what it carried, or lay it aside. Returns each outcome that has a verdict, and where it led."""
        self._under_way.remove(parcel)
        if not (reply.later or self._burials) and len(parcel.waiting) == len(parcel.ended):  # nearly always
            return zip(parcel.waiting, reply.verdicts, reply.states, strict=True)
        self._lay_aside(parcel, reply.later)
        return list(self._told(parcel, reply))

    def _told(self, parcel: Parcel, reply: Exchanged) -> Iterator[tuple[Waiting, Verdict, TaskState | None]]:
        told: Iterable[tuple[Verdict, TaskState | None]] = zip(reply.verdicts, reply.states, strict=True)
        if len(parcel.waiting) != len(parcel.ended):
            verdicts = dict(zip(map(_LEASE, parcel.ended), told, strict=True))  # some lease stands there twice
            told = [verdicts[_LEASE(one.ended)] for one in parcel.waiting]
        for waiting, (verdict, state) in zip(parcel.waiting, told, strict=True):
            if verdict is Verdict.LATER:
                self._later.ended.append(waiting)
            else:
                for burial in self._burials:
                    burial.owed.discard(_LEASE(waiting.ended))
                yield waiting, verdict, state

    def _lay_aside(self, parcel: Parcel, task_ids: AbstractSet[str]) -> None:
        if task_ids:
            self._later.releases += [one for one in parcel.releases if one.task_id in task_ids]
            self._later.starts |= {key: one for key, one in parcel.starts.items() if key in task_ids}
            self._later.progress |= {key: one for key, one in parcel.progress.items() if key in task_ids}

    def buried(self) -> list[PeerBuried]:
        """Deaths of which everything is stored."""
        due = [one.news for one in self._burials if one.due]
        self._burials = [one for one in self._burials if not one.due]
        return due


class _Burial:
    """A death, and which outcomes have to be stored before it may be told."""

    __slots__ = ("news", "owed")

    def __init__(self, news: PeerBuried, owed: set[_Key]) -> None:
        self.news, self.owed = news, owed

    @property
    def due(self) -> bool:
        return not self.owed


class _Later:
    """What is laid aside."""

    def __init__(self) -> None:
        self.ended: list[Waiting] = []
        self.releases: list[Lease] = []
        self.starts: dict[str, Lease] = {}
        self.progress: dict[str, Progress] = {}

    def __bool__(self) -> bool:
        return bool(self.ended or self.releases or self.starts or self.progress)


def _without_peer(some: Iterable[Waiting], peer: Peer) -> Iterator[Waiting]:
    return (Waiting(one.ended, one.claim, None, one.cell) if one.peer is peer else one for one in some)
