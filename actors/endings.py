"""How attempts end that no executor can report any more, and what is logged of an ending: pure but for the log."""

from __future__ import annotations

import logging
import time
from typing import Final

from shiftboss.actors.outbox import Waiting
from shiftboss.actors.peers import Holding
from shiftboss.actors.table import Cell
from shiftboss.control import PeerDied
from shiftboss.events import Event, emit
from shiftboss.model import Claim, Ended, Outcome, TaskState, TypeInfo, Verdict
from shiftboss.retry import Exponential

MAX_NAMED: Final = 20  # tasks that one line of log names

_EVENTS: Final = {
    Outcome.FAILED: (Event.TASK_FAILED, logging.WARNING),
    Outcome.TIMEOUT: (Event.TASK_TIMEOUT, logging.WARNING),
    Outcome.CRASHED: (Event.TASK_CRASHED, logging.WARNING),
    Outcome.INTERRUPTED: (Event.TASK_INTERRUPTED, logging.WARNING),
    Outcome.CANCELLED: (Event.TASK_CANCELLED, logging.INFO),
    Outcome.SNOOZED: (Event.TASK_SNOOZED, logging.DEBUG),
    Outcome.LOST: (Event.TASK_CRASHED, logging.WARNING),
}


def died_text(death: PeerDied) -> str:
    """For people: who died, how, when, and how much memory it had."""
    how = f"killed by {death.signal}" if death.signal else f"ended with exit code {death.exit_code}"
    return f"{death.peer} {how} after {death.uptime_s:.1f} s, peak memory {death.peak_rss_kib / 1024:.0f} MiB"


def cause(death: PeerDied, cancel_reason: str | None, timeout_s: float | None) -> tuple[Outcome, str]:
    """How an attempt ended whose process is gone: by its own doing, or because of a neighbour or a stop."""
    match cancel_reason:
        case "timeout":
            return Outcome.TIMEOUT, f"timeout: still running after {timeout_s or 0:g} s; its process was replaced"
        case "cancel":
            return Outcome.CANCELLED, "cancelled: it did not stop when asked; its process was replaced"
    if death.reason is not None or cancel_reason == "fenced":
        return Outcome.INTERRUPTED, f"interrupted: {death.reason or 'worker fenced'}"
    return Outcome.CRASHED, f"crashed: {died_text(death)}"


def ended_for(claim: Claim, info: TypeInfo | None, outcome: Outcome, error: str, ran_s: float) -> Ended:
    """The outcome of an attempt that cannot speak for itself; tried again as its type's backoff says."""
    info = info or TypeInfo(type=claim.type)
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


def ended_by_death(death: PeerDied, holding: Holding, info: TypeInfo | None, started_ns: int) -> Ended:
    """The outcome of an attempt that was running when its executor died."""
    ran_s = max(0.0, (time.monotonic_ns() - started_ns) / 1e9)
    outcome, error = cause(death, holding.cancel_reason, holding.claim.timeout_s)
    return ended_for(holding.claim, info, outcome, error, ran_s)


def ended_of_stranger(death: PeerDied, cell: Cell) -> Ended:
    """The same for an executor that died while there was no claimer: its table is all that is known.

    What it shows may be stored long since; the fence tells, so saying it again is harmless.
    """
    return Ended(
        task_id=cell.task_id,
        fence=cell.fence,
        outcome=Outcome.INTERRUPTED if death.reason is not None else Outcome.CRASHED,
        error=died_text(death),
        retry_in_s=Exponential()(1),
    )


def log_lost(log: logging.Logger, death: PeerDied, task_ids: list[str]) -> None:
    """What was running when an executor died; what becomes of each task is logged when it is stored."""
    if task_ids:
        emit(
            log,
            logging.WARNING,
            Event.ATTEMPTS_LOST,
            f"{len(task_ids)} attempts were running: {died_text(death)}",
            actor=death.peer,
            incarnation=death.incarnation,
            signal=death.signal,
            exit_code=death.exit_code,
            peak_rss_kib=death.peak_rss_kib,
            uptime_s=round(death.uptime_s, 1),
            task_ids=task_ids[:MAX_NAMED],
        )


def log_ending(log: logging.Logger, waiting: Waiting, verdict: Verdict, state: TaskState | None) -> None:
    """Log what a person may ask for later. Success is not logged: it is counted."""
    ended, claim = waiting.ended, waiting.claim
    if verdict is not Verdict.APPLIED and claim is None:  # all of a dead stranger's table is told, also what was stored long ago
        return
    if verdict is Verdict.APPLIED and ended.outcome is Outcome.SUCCESS:
        return
    fields: dict[str, object] = {"task_id": ended.task_id, "fence": ended.fence}
    if claim is not None:
        fields |= {"type": claim.type, "queue": claim.queue, "attempt": claim.attempt}
    if verdict is Verdict.FENCED:
        told = "task is no longer ours: outcome dropped"
        emit(log, logging.WARNING, Event.TASK_FENCED, told, outcome=ended.outcome.value, **fields)
        return
    if verdict is Verdict.ALREADY_APPLIED:
        told = "outcome was stored before, and nobody had heard so"
        emit(log, logging.INFO, Event.TASK_ALREADY_APPLIED, told, outcome=ended.outcome.value, **fields)
        return
    event, level = _EVENTS[ended.outcome]
    if state is TaskState.DEAD_LETTER:
        event, level = Event.TASK_DEAD_LETTER, logging.ERROR
    retry_in_s = ended.retry_in_s if state is TaskState.PENDING else None
    emit(log, level, event, "", ended.traceback, outcome=ended.outcome.value, error=ended.error, retry_in_s=retry_in_s, **fields)
