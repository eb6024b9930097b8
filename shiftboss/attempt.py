"""Running one attempt: the one place that catches whatever a handler raises, and turns it into an `Ended`.

Nothing is stored here, and nothing logged but a broken backoff.
"""

from __future__ import annotations

import logging
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from shiftboss import loop
from shiftboss.clock import unix_s
from shiftboss.context import Attempt, Cancel, EndAttempt, Retry, Snooze, current
from shiftboss.errors import ResultError, TaskDefinitionError
from shiftboss.failure import error_line, traceback_text
from shiftboss.logs.context import attempt_over, bind_task
from shiftboss.model import Claim, Ended, Outcome
from shiftboss.options import seconds
from shiftboss.retry import Exponential

if TYPE_CHECKING:
    from shiftboss.decorator import Task

__all__ = ["Attempt", "run_async", "run_sync"]

_log: Final = logging.getLogger("shiftboss.task")
_SUCCESS: Final = Outcome.SUCCESS  # an enum's attribute costs a tenth of a microsecond


def run_sync(task: Task[..., Any], claim: Claim, attempt: Attempt) -> Ended:
    """Run one attempt of a sync handler to its end, whatever that is."""
    clock = attempt.clock
    started_at, started_s = unix_s(clock), clock.monotonic_s()
    token = current.set(attempt)
    try:
        arguments, results = task.codecs()
        result = arguments.call(task.handler, (attempt,) if task.takes_attempt else (), claim.args)
        if result is not None and isawaitable(result):
            _refuse_awaitable(task, result)
        ended = Ended(task_id=claim.task_id, fence=claim.fence, outcome=_SUCCESS, result=results.encode(result),
                      started_at=started_at, duration_s=clock.monotonic_s() - started_s)  # fmt: skip
    except BaseException as error:  # noqa: BLE001  a handler may raise anything, sys.exit() too; here it is caught
        ended = _ended_by(error, task, claim, attempt, started_at, clock.monotonic_s() - started_s)
    finally:
        current.reset(token)
        if bind_task.half_lines:
            attempt_over(attempt)
    return ended


async def run_async(task: Task[..., Any], claim: Claim, attempt: Attempt) -> Ended:
    """Run one attempt of an async handler to its end.

    To end it from outside: `attempt.stop(outcome)`, then cancel the asyncio task that awaits this; it still returns an `Ended`.
    """
    clock = attempt.clock
    started_at, started_s = unix_s(clock), clock.monotonic_s()
    token = current.set(attempt)
    try:
        arguments, results = task.codecs()
        result = await arguments.call(task.handler, (attempt,) if task.takes_attempt else (), claim.args)
        ended = Ended(task_id=claim.task_id, fence=claim.fence, outcome=_SUCCESS, result=results.encode(result),
                      started_at=started_at, duration_s=clock.monotonic_s() - started_s)  # fmt: skip
    except BaseException as error:  # noqa: BLE001  see run_sync
        # A handler may also await something that was cancelled on its own account; that is a failure like any other.
        if loop.is_cancelled(error) and loop.task_is_cancelled():
            attempt.stop()
        ended = _ended_by(error, task, claim, attempt, started_at, clock.monotonic_s() - started_s)
    finally:
        current.reset(token)
        if bind_task.half_lines:
            attempt_over(attempt)
    return ended


def _refuse_awaitable(task: Task[..., Any], result: object) -> NoReturn:
    if hasattr(result, "close"):
        result.close()  # else Python warns that it was never awaited
    raise TaskDefinitionError(f"{task.type}: a sync handler returned an awaitable; declare it `async def`")


def _ended_by(
    error: BaseException, task: Task[..., Any], claim: Claim, attempt: Attempt, started_at: float, duration_s: float
) -> Ended:
    outcome = _outcome(error, attempt)
    failed = outcome in (Outcome.FAILED, Outcome.TIMEOUT)
    return Ended(
        task_id=claim.task_id,
        fence=claim.fence,
        outcome=outcome,
        error=_reason(error, outcome, claim),
        traceback=traceback_text(error) if failed and not isinstance(error, EndAttempt) else None,
        retry_in_s=_retry_in_s(error, outcome, task, claim),
        started_at=started_at,
        duration_s=duration_s,
    )


def _outcome(error: BaseException, attempt: Attempt) -> Outcome:
    # Asked to end for good, it did: how it unwound does not matter. An interrupted one may still fail on its own account.
    if attempt.stop_outcome in (Outcome.CANCELLED, Outcome.TIMEOUT):
        return attempt.stop_outcome
    if loop.is_cancelled(error) and attempt.stop_outcome is not None:
        return attempt.stop_outcome
    if isinstance(error, Snooze):
        return Outcome.SNOOZED
    return Outcome.CANCELLED if isinstance(error, Cancel) else Outcome.FAILED


def _reason(error: BaseException, outcome: Outcome, claim: Claim) -> str:
    if outcome is Outcome.TIMEOUT:
        limit = "" if claim.timeout_s is None else f" of {claim.timeout_s:g} s"
        return f"timeout{limit} exceeded; ended by {error_line(error)}"
    return error_line(error)


def _retry_in_s(error: BaseException, outcome: Outcome, task: Task[..., Any], claim: Claim) -> float | None:
    if outcome is Outcome.SNOOZED:
        return error.delay_s if isinstance(error, Snooze) else 0.0
    if outcome not in (Outcome.FAILED, Outcome.TIMEOUT) or isinstance(error, ResultError):
        return None  # a result that cannot be stored: the work is done, and doing it again would not help
    if outcome is Outcome.TIMEOUT:
        error = TimeoutError()
    elif isinstance(error, Retry):
        if claim.attempt >= claim.max_attempts:
            return None
        if error.delay_s is not None:
            return error.delay_s
        return _backoff_s(task, claim)
    policy = task.retry_policy
    if claim.attempt >= claim.max_attempts or isinstance(error, policy.no_retry_on) or not isinstance(error, policy.retry_on):
        return None
    return _backoff_s(task, claim)


def _backoff_s(task: Task[..., Any], claim: Claim) -> float:
    try:
        return seconds("backoff", task.retry_policy.backoff(claim.attempt))
    except Exception:  # noqa: BLE001  the user's function; a task must not be lost to it
        _log.exception("backoff of %s failed; its next attempt is timed by the default", task.type)
        return Exponential()(claim.attempt)
