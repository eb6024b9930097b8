"""What must hold after a round, whatever happened in it: questions to the database, the ledger and the logs.

Each check returns sentences about what is wrong; none is good news. The names are those of docs/explanation/reliability.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.ledger import Key, Ledger
from tests.chaos.logs import LogLine
from tests.chaos.rows import AttemptRow, Rows, TaskRow

ENDED: Final = frozenset({"completed", "cancelled", "dead_letter"})
CHARGED: Final = frozenset({"failed", "timeout", "crashed", "lost", "cancelled"})
MAX_REFUNDS: Final = 100
SHOWN: Final = 20  # examples of one kind of violation
_APPLIED: Final = frozenset(
    f"task.{name}"
    for name in ("failed", "timeout", "crashed", "interrupted", "cancelled", "snoozed", "dead_letter", "already_applied")
)
# What a handler may raise anywhere while another in its process takes all the memory.
_NO_MEMORY: Final = (
    "MemoryError",
    "SystemError: error return without exception",
    "RuntimeError: can't start new thread",
    "RuntimeError: can't allocate lock",
)
# What the words of the ledger may have become; also any of them may have been overtaken by a cancel or a timeout.
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "failed": frozenset({"failed", "retry"}),
    "snoozed": frozenset({"snoozed"}),
}


@dataclass(slots=True)
class Evidence:
    """All that a round has left behind, with the indexes that the checks need.

    Attributes:
        verdicts: (event, task id, fence, outcome) of every line of the logs that tells one.
        terms: (term, worker id) of every election that was logged.
    """

    rows: Rows
    ledger: Ledger
    verdicts: list[tuple[str, str, int, str]]
    terms: list[tuple[int, str]]
    tasks: dict[str, TaskRow] = field(default_factory=dict)
    attempts: dict[str, list[AttemptRow]] = field(default_factory=lambda: defaultdict(list))
    by_fence: dict[Key, AttemptRow] = field(default_factory=dict)
    last_start: dict[str, int] = field(default_factory=dict)  # the largest fence that was started

    def __post_init__(self) -> None:
        self.tasks = {row.id: row for row in self.rows.tasks}
        for attempt in self.rows.attempts:
            self.attempts[attempt.task_id].append(attempt)
            self.by_fence[attempt.task_id, attempt.fence] = attempt
        for task_id, fence in self.ledger.starts:
            self.last_start[task_id] = max(fence, self.last_start.get(task_id, 0))

    def of_status(self, status: str) -> Iterator[TaskRow]:
        return (row for row in self.rows.tasks if row.status == status)


def i1_none_lost(e: Evidence) -> Iterator[str]:
    """Every acknowledged task is there, once, and has ended."""
    for task_id in e.ledger.acknowledged:
        if task_id not in e.tasks:
            yield f"{task_id} was acknowledged and is nowhere"
    for task_id, times in Counter(row.id for row in e.rows.tasks).items():
        if times > 1:
            yield f"{task_id} stands {times} times in tasks and task_history"


def i2_none_from_nowhere(e: Evidence) -> Iterator[str]:
    """Nobody enqueued what nobody tried to enqueue, and what was refused is not there."""
    for task_id in e.tasks:
        if task_id not in e.ledger.tried:
            yield f"{task_id} is there and nobody has enqueued it"
        elif task_id in e.ledger.refused:
            yield f"{task_id} is there, and its producer was told that its unique key was taken"


def i3_once(e: Evidence) -> Iterator[str]:
    """One outcome for one claim; a task is completed by one claim only."""
    for task_id, fence in (key for key, _n in Counter((a.task_id, a.fence) for a in e.rows.attempts).items() if _n > 1):
        yield f"{task_id} fence {fence} has two outcomes"
    for row in e.of_status("completed"):
        if (row.id, row.fence) in e.by_fence:
            yield f"{row.id} is completed by fence {row.fence}, which has ended as {e.by_fence[row.id, row.fence].outcome}, too"


def i4_fenced(e: Evidence) -> Iterator[str]:
    """What a task became, its last claim has made of it, and that claim's own words say so."""
    for row in e.of_status("completed"):
        last = e.last_start.get(row.id, 0)
        if row.fence != last:
            yield f"{row.id} is completed by fence {row.fence}, and the last one started is {last}"
        if row.result != row.fence:
            yield f"{row.id} is completed by fence {row.fence} with the result of fence {row.result}: a stale outcome was taken"
        if not any(word == "ok" for _at, word in e.ledger.ends.get((row.id, row.fence), ())):
            yield f"{row.id} is completed by fence {row.fence}, which has not reached its end"
    for attempt in e.rows.attempts:
        yield from _own_words(e, attempt)


def _own_words(e: Evidence, attempt: AttemptRow) -> Iterator[str]:
    where = f"{attempt.task_id} fence {attempt.fence}"
    _before, said, told = (attempt.error or "").partition("on purpose fence=")
    if said and int(told.split()[0].rstrip(")")) != attempt.fence:
        yield f"{where} has an outcome that another claim has told: {attempt.error}"
    if attempt.outcome == "failed" and (attempt.error or "").startswith(_NO_MEMORY) and _hogged(e, attempt):
        return  # a neighbour had taken it all: the attempt has failed where it was just about to write
    words = _WORDS.get(attempt.outcome)
    ends = e.ledger.ends.get((attempt.task_id, attempt.fence), ())
    if words is not None and not any(word in words for _at, word in ends):
        yield f"{where} is stored as {attempt.outcome} ({attempt.error}), and its own words are {[word for _at, word in ends]}"


def _hogged(e: Evidence, attempt: AttemptRow) -> bool:
    return e.ledger.hogged(attempt.worker_id, attempt.started_s, attempt.started_s + attempt.duration_s)


def i5_truthful(e: Evidence) -> Iterator[str]:
    """What a worker was told of an outcome is so."""
    for event, task_id, fence, outcome in e.verdicts:
        row, attempt = e.tasks.get(task_id), e.by_fence.get((task_id, fence))
        if event == "task.fenced":
            if outcome == "success" and row is not None and row.status == "completed" and row.fence == fence:
                yield f"{task_id} fence {fence} was told that its success is dropped, and the task is completed by it"
            if attempt is not None and attempt.outcome == outcome:
                yield f"{task_id} fence {fence} was told that {outcome} is dropped, and stands there as {attempt.outcome}"
        elif event == "task.already_applied" and outcome == "success":
            if row is None or row.status != "completed" or row.fence != fence:
                yield f"{task_id} fence {fence} was told that it had completed the task, which is {row and row.status}"
        elif attempt is None or attempt.outcome != outcome:
            yield f"{task_id} fence {fence} was told that {outcome} is stored, and it is {attempt and attempt.outcome}"


def i6_attempts(e: Evidence) -> Iterator[str]:
    """Attempts are within bounds, and equal to what was charged."""
    for row in e.rows.tasks:
        if not 0 <= row.attempts <= (row.max_attempts or row.attempts) or not 0 <= row.refunds <= MAX_REFUNDS:
            yield f"{row.id} has {row.attempts} of {row.max_attempts} attempts and {row.refunds} refunds"
        if row.id in e.ledger.retried:
            continue  # an operator has set its count back
        told = e.attempts.get(row.id, [])
        charged = sum(attempt.outcome in CHARGED for attempt in told) + (row.status == "completed")
        if row.attempts != charged and len(told) < MAX_REFUNDS:
            outcomes = [(attempt.fence, attempt.outcome) for attempt in told]
            yield f"{row.id} is {row.status} with {row.attempts} attempts, and {charged} were charged: {outcomes}"


def i7_one_start_per_fence(e: Evidence) -> Iterator[str]:
    """A claim is run once."""
    for (task_id, fence), starts in e.ledger.starts.items():
        if len(starts) > 1:
            yield f"{task_id} fence {fence} was started {len(starts)} times, by {[start.worker for start in starts]}"
    for (task_id, fence), ends in e.ledger.ends.items():
        if len(ends) > 1:
            yield f"{task_id} fence {fence} has ended {len(ends)} times"


def i8_monotone(e: Evidence) -> Iterator[str]:
    """A fence never falls, whoever retries."""
    for task_id, fence in e.last_start.items():
        row = e.tasks.get(task_id)
        if row is not None and row.fence < fence:
            yield f"{task_id} stands at fence {row.fence}, and fence {fence} was started"
    for attempt in e.rows.attempts:
        row = e.tasks.get(attempt.task_id)
        if row is not None and row.fence < attempt.fence:
            yield f"{attempt.task_id} stands at fence {row.fence}, and fence {attempt.fence} has ended"


def i9_leader(e: Evidence) -> Iterator[str]:
    """A term has one holder, and numbers are never used again."""
    holders: dict[int, set[str]] = defaultdict(set)
    for term, worker_id in e.terms:
        holders[term].add(worker_id)
    for term, workers in holders.items():
        if len(workers) > 1:
            yield f"term {term} was won by {sorted(workers)}"
    if holders and e.rows.leader is not None and e.rows.leader[1] < max(holders):
        yield f"the leader's row is at term {e.rows.leader[1]}, and term {max(holders)} was won"


def i10_live(e: Evidence) -> Iterator[str]:
    """Nothing waits or hangs when everything has drained."""
    for row in e.rows.tasks:
        if row.status not in ENDED:
            yield f"{row.id} ({row.type}) is {row.status} at the end, fence {row.fence}, worker {row.worker_id}"


def i11_leftovers(e: Evidence) -> Iterator[str]:
    """A worker that has stopped leaves no row. (Processes, descriptors and transactions are looked at by the world.)"""
    for worker in e.rows.workers:
        yield f"the row of worker {worker} is still there"


def counted(e: Evidence) -> Iterator[str]:
    """What has left `tasks`, by type, is what stands in the history: the figure that metrics are made of."""
    gone = Counter(row.type for row in e.rows.tasks if not row.hot)
    retried = {e.tasks[one].type for one in e.ledger.retried if one in e.tasks}  # a cancelled one that came back left twice
    for type_ in sorted(set(gone) | set(e.rows.departures)):
        if gone[type_] != e.rows.departures.get(type_, 0) and type_ not in retried:
            yield f"{gone[type_]} tasks of {type_} have ended, and {e.rows.departures.get(type_, 0)} are counted"


CHECKS: Final[Mapping[str, Callable[[Evidence], Iterator[str]]]] = {
    "I1 none lost": i1_none_lost,
    "I2 none from nowhere": i2_none_from_nowhere,
    "I3 once": i3_once,
    "I4 fenced": i4_fenced,
    "I5 truthful": i5_truthful,
    "I6 attempts": i6_attempts,
    "I7 one start per claim": i7_one_start_per_fence,
    "I8 monotone": i8_monotone,
    "I9 leader": i9_leader,
    "I10 live": i10_live,
    "I11 no leftovers": i11_leftovers,
    "departures counted": counted,
}


def check(evidence: Evidence) -> dict[str, list[str]]:
    """Every check: its name -> what is wrong."""
    return {name: list(question(evidence)) for name, question in CHECKS.items()}


def exercised(e: Evidence) -> Counter[str]:
    """How often each (outcome, where it led) was seen, and each verdict that was logged."""
    pairs: Counter[str] = Counter()
    for attempt in e.rows.attempts:
        row = e.tasks.get(attempt.task_id)
        after = row.status if row is not None and row.fence == attempt.fence else "pending"
        pairs[f"{attempt.outcome} -> {after}"] += 1
    for row in e.rows.tasks:
        if row.status == "completed":
            pairs["success -> completed"] += 1
        elif row.status == "cancelled" and (row.id, row.fence) not in e.by_fence:
            pairs["pending -> cancelled"] += 1
        if row.id in e.ledger.retried:
            pairs["retried"] += 1
    pairs["zombie ends beside its successor"] = sum(1 for _ in _zombies(e))
    for name in ("fenced", "already_applied"):
        pairs[name] = sum(event == f"task.{name}" for event, *_rest in e.verdicts)
    return pairs


def _zombies(e: Evidence) -> Iterator[Key]:
    """Claims that reached their end while a later one of the same task ran: where a missing guard would show."""
    later: dict[str, list[tuple[float, float]]] = defaultdict(list)  # of tasks with several claims: (start, end)
    for (task_id, fence), starts in e.ledger.starts.items():
        if e.last_start[task_id] > 1:
            ends = e.ledger.ends.get((task_id, fence))
            later[task_id].append((starts[0].at_s, ends[0][0] if ends else float("inf")))
    for (task_id, fence), ends in e.ledger.ends.items():
        end_s, own_s = ends[0][0], e.ledger.starts[task_id, fence][0].at_s
        if any(own_s < start_s < end_s < over_s for start_s, over_s in later[task_id]):
            yield task_id, fence


def verdicts_of(lines: Iterable[LogLine]) -> tuple[list[tuple[str, str, int, str]], list[tuple[int, str]]]:
    """(verdicts, terms) that a log tells of; see `Evidence`."""
    verdicts, terms = [], []
    for line in lines:
        event, fields = line.get("event"), line.get("fields") or {}
        if event == "task.fenced" or (event in _APPLIED and "fence" in fields):
            if "task_id" not in fields:
                raise ValueError(f"a verdict that names no task: {line}")
            verdicts.append((str(event), str(fields["task_id"]), int(fields["fence"]), str(fields.get("outcome", ""))))
        elif event == "leader.elected":
            terms.append((int(fields["term"]), str(fields["worker_id"])))
    return verdicts, terms
