"""How long what was broken took to work again, measured from the logs, the ledger and the marks of one round.

Under overlapping faults these are what a person would see in such a storm. For figures to be held against limits run the kinds
in question alone and slowly: `--only kill:executor,kill:claimer,kill:supervisor,pg:restart --rate 0.2`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from tests.chaos.invariants import Evidence
from tests.chaos.ledger import Ledger, nearest
from tests.chaos.logs import LogLine
from tests.chaos.schedule import Facts
from tests.chaos.world import SETTINGS, Mark

Times: TypeAlias = dict[str, list[float]]
ACTOR, ORPHAN, CLAIMS, TAKEOVER, STOP, GONE = (
    "an actor is back",
    "an orphan runs elsewhere",
    "claims after the database is back",
    "leader takeover",
    "stop",
    "children gone after their supervisor",
)


def limits(facts: Facts) -> Mapping[str, float]:
    """What each may take, p99, in seconds."""
    return {
        ACTOR: 1.0,
        ORPHAN: facts.lease_s + 2.0,
        CLAIMS: 2.0,
        TAKEOVER: facts.term_s + 1.0,
        STOP: SETTINGS["shutdown_timeout_s"] + SETTINGS["cancel_grace_s"] + 1.0,
        GONE: 1.0,
    }


def measure(marks: Sequence[Mark], evidence: Evidence, logs: Iterable[Sequence[LogLine]]) -> Times:
    """Every recovery that there was, by its name."""
    ledger = evidence.ledger
    lines = [list(log) for log in logs]
    found: Times = defaultdict(list)
    for log in lines:
        found[ACTOR] += _actors_back(log, marks)
    found[TAKEOVER] += _takeovers(marks, [line for log in lines for line in log])
    found[ORPHAN] += _orphans(marks, evidence)
    found[CLAIMS] += _claims(marks, ledger)
    found[STOP] += [float(mark.note) for mark in marks if mark.name == "stopped"]
    found[GONE] += [float(mark.note) for mark in marks if mark.name == "descendants gone"]
    return {name: times for name, times in found.items() if times}


def p99(times: Sequence[float]) -> float:
    """The 99th of a hundred, or the worst of fewer."""
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.99))]


_DOWN: Final = frozenset({"actor.crashed", "actor.boot_failed"})


def _actors_back(log: Sequence[LogLine], marks: Sequence[Mark]) -> Iterator[float]:
    """From the last end of an actor to its being ready; a killed supervisor leaves some open."""
    down: dict[str, float] = {}
    for line in log:
        event, actor = line.get("event"), str((line.get("fields") or {}).get("actor"))
        if event in _DOWN:
            down[actor] = _wall_s(line, marks)
        elif event == "actor.ready" and actor in down:
            yield _wall_s(line, marks) - down.pop(actor)


def _wall_s(line: LogLine, marks: Sequence[Mark]) -> float:
    """When it was written, by our own clock: its writer's may have been moved."""
    return nearest(datetime.fromisoformat(str(line["ts"])).timestamp(), marks[0].wall_s)


def _takeovers(marks: Sequence[Mark], lines: Sequence[LogLine]) -> Iterator[float]:
    """From the death of a service whose worker led to the next election."""
    elections = sorted(
        (_wall_s(line, marks), str(line["fields"]["worker_id"])) for line in lines if line.get("event") == "leader.elected"
    )
    for mark in marks:
        if mark.name != "service killed":
            continue
        before = [worker for at_s, worker in elections if at_s <= mark.wall_s]
        after = [at_s for at_s, _worker in elections if at_s > mark.wall_s]
        if before and after and f"-{mark.note}-" in before[-1]:
            yield after[0] - mark.wall_s


def _orphans(marks: Sequence[Mark], evidence: Evidence) -> Iterator[float]:
    """From the death of a service to the next start of each task that it was running, and that was found to be lost.

    A service that was once declared dead may have lost tasks before, which have run elsewhere since.
    """
    killed = {mark.note: mark.at_s for mark in marks if mark.name == "service killed"}
    starts: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for (task_id, fence), some in evidence.ledger.starts.items():
        starts[task_id].append((fence, some[0].at_s))
    for (task_id, fence), some in evidence.ledger.starts.items():
        attempt, pid = evidence.by_fence.get((task_id, fence)), _pid(some[0].worker)
        if attempt is None or attempt.outcome != "lost" or pid not in killed or task_id in evidence.ledger.retried:
            continue
        later = [at_s for other, at_s in starts[task_id] if other > fence]
        if later and min(later) > killed[pid]:
            yield min(later) - killed[pid]


def _pid(worker_id: str) -> str:
    """Of the supervisor: a worker's id is host, pid and a random part."""
    return worker_id.rsplit("-", 2)[-2] if worker_id.count("-") >= 2 else ""


def _claims(marks: Sequence[Mark], ledger: Ledger) -> Iterator[float]:
    moments = sorted(some[0].at_s for some in ledger.starts.values())
    for mark in marks:
        if mark.name == "database up":
            following = next((at_s for at_s in moments if at_s >= mark.at_s), None)
            if following is not None:
                yield following - mark.at_s
