"""What the claimer has to write and has not written yet. Nothing leaves it before the database has said what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from operator import attrgetter, is_
from typing import Final, NamedTuple

from shiftboss.actors.peers import Peer
from shiftboss.control import PeerBuried
from shiftboss.model import Claim, Ended, Lease, Progress, TaskState, Verdict
from shiftboss.store.base import Exchange, Exchanged

MAX_ENDED: Final = 2_000  # outcomes in one transaction: bounds its length after an outage


class Waiting(NamedTuple):
    """One outcome on its way to the database. `peer` is `None` when no executor waits for the news."""

    ended: Ended
    claim: Claim | None = None
    peer: Peer | None = None
    cell: int = -1


_ENDED: Final = attrgetter("ended")
_TASK_ID: Final = attrgetter("ended.task_id")
_LEASE: Final = attrgetter("task_id", "fence")


class Outbox:
    """Outcomes, starts, returned tasks and progress; and deaths that are dealt with once all that is stored.

    What the database wants to hear later, since somebody else has locked the row, is laid aside until `take_up`.
    """

    def __init__(self) -> None:
        self._ended: deque[Waiting] = deque()
        self._releases: list[Lease] = []
        self._starts: dict[str, Lease] = {}
        self._progress: dict[str, Progress] = {}
        self._burials: list[PeerBuried] = []
        self._later = _Later()
        self._taken_up = False  # what goes out next has been laid aside before

    def __bool__(self) -> bool:
        return bool(self._ended or self._releases or self._starts or self._progress or self._burials)

    @property
    def owes_outcomes(self) -> bool:
        """Whether tasks would be lost to recovery if this process ended now."""
        return self.has_outcomes or bool(self._later.ended or self._later.releases)

    @property
    def has_outcomes(self) -> bool:
        """Whether a round now would store some of what is owed."""
        return bool(self._ended or self._releases)

    @property
    def outcomes(self) -> int:
        return len(self._ended) + len(self._later.ended)

    @property
    def cautious(self) -> bool:
        """Whether somebody holds rows of ours, as far as we know."""
        return bool(self._later) or self._taken_up

    def leases(self) -> set[tuple[str, int]]:
        """(task id, fence) of every outcome, and of every returned task, that waits."""
        ended = {(one.ended.task_id, one.ended.fence) for one in (*self._ended, *self._later.ended)}
        return ended | {(one.task_id, one.fence) for one in (*self._releases, *self._later.releases)}

    # ---- in

    def end(self, waiting: Waiting) -> None:
        self._ended.append(waiting)

    def release(self, *leases: Lease) -> None:
        self._releases.extend(leases)

    def start(self, lease: Lease) -> None:
        self._starts[lease.task_id] = lease

    def progress(self, made: Sequence[Progress]) -> None:
        self._progress.update((one.task_id, one) for one in made)

    def bury(self, peer: str, incarnation: int) -> None:
        """Tell the parent so once everything that waits now is stored."""
        self._burials.append(PeerBuried(peer=peer, incarnation=incarnation))

    def forget_peer(self, peer: Peer) -> None:
        """Nobody at `peer` waits for news any more."""
        self._ended = deque(_without_peer(self._ended, peer))
        self._later.ended = list(_without_peer(self._later.ended, peer))

    def take_up(self) -> None:
        """What was laid aside goes out with the next round."""
        later, self._later = self._later, _Later()
        self._taken_up = bool(later)
        self._ended.extend(later.ended)
        self._releases += later.releases
        self._starts = later.starts | self._starts
        self._progress = later.progress | self._progress

    # ---- out

    def ended(self) -> list[Ended]:
        """The outcomes of the next round, each lease once, in the order of their ids: two transactions that lock rows in
        the same order never wait for each other in a circle."""
        batch = sorted(islice(self._ended, MAX_ENDED), key=_TASK_ID)
        for _ in batch:
            self._ended.popleft()
        self._ended.extendleft(reversed(batch))  # in this order, so that `settle` meets them as they went out
        ended = list(map(_ENDED, batch))
        if len(set(map(_TASK_ID, batch))) == len(batch):
            return ended
        return list(dict(zip(map(_LEASE, ended), ended, strict=True)).values())

    def releases(self) -> list[Lease]:
        return self._releases

    def starts(self) -> list[Lease]:
        return list(self._starts.values())

    def latest_progress(self) -> list[Progress]:
        return list(self._progress.values())

    def settle(self, request: Exchange, reply: Exchanged) -> Iterator[tuple[Waiting, Verdict, TaskState | None]]:
        """The round is committed: forget what it carried, or lay it aside; yields each outcome that has a verdict, and where
        it led."""
        self._lay_aside(reply.later)
        self._releases, self._starts, self._progress, self._taken_up = [], {}, {}, False
        batch = [self._ended.popleft() for _ in range(min(len(self._ended), MAX_ENDED))]
        told: Iterable[tuple[Verdict, TaskState | None]] = zip(reply.verdicts, reply.states, strict=True)
        if len(batch) != len(request.ended) or not all(map(is_, map(_ENDED, batch), request.ended)):
            verdicts = dict(zip(map(_LEASE, request.ended), told, strict=True))  # some lease stands there twice
            told = [verdicts[_LEASE(one.ended)] for one in batch]
        for waiting, (verdict, state) in zip(batch, told, strict=True):
            if verdict is Verdict.LATER:
                self._later.ended.append(waiting)
            else:
                yield waiting, verdict, state

    def _lay_aside(self, task_ids: AbstractSet[str]) -> None:
        if task_ids:
            self._later.releases += [one for one in self._releases if one.task_id in task_ids]
            self._later.starts |= {key: one for key, one in self._starts.items() if key in task_ids}
            self._later.progress |= {key: one for key, one in self._progress.items() if key in task_ids}

    def buried(self) -> list[PeerBuried]:
        """Deaths of which everything is stored."""
        if self._ended or self._later.ended or not self._burials:
            return []
        burials, self._burials = self._burials, []
        return burials


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
    return (one._replace(peer=None) if one.peer is peer else one for one in some)
