"""When to run a failed task again: pure functions from the number of the attempt to a delay."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import msgspec

# 2**64 seconds is past every cap; beyond it the float would overflow at attempt 1024.
_MAX_EXPONENT = 64


class Backoff(Protocol):
    """Attempt number (from 1) -> seconds until the next one."""

    def __call__(self, attempt: int, /) -> float: ...


class Exponential(msgspec.Struct, frozen=True):
    """`base_s * factor**(attempt-1)` up to `max_s`, with full jitter: uniform between 0 and that.

    Full jitter spreads a burst of failures best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """

    base_s: float = 1.0
    factor: float = 2.0
    max_s: float = 3600.0
    jitter: bool = True

    def __call__(self, attempt: int, /) -> float:
        ceiling = min(self.max_s, self.base_s * self.factor ** min(max(attempt, 1) - 1, _MAX_EXPONENT))
        return random.uniform(0.0, ceiling) if self.jitter else ceiling


class Constant(msgspec.Struct, frozen=True):
    """Always the same delay."""

    delay_s: float

    def __call__(self, attempt: int, /) -> float:  # noqa: ARG002  the protocol passes it
        return self.delay_s


class RetryPolicy(msgspec.Struct, frozen=True):
    """Which errors are tried again, how often, and when.

    Attributes:
        max_attempts: runs in all, the first one included; at least 1.
        backoff: attempt number -> seconds.
        retry_on: only these exception types are retried.
        no_retry_on: never these, even when `retry_on` has them.
    """

    max_attempts: int = 5
    backoff: Callable[[int], float] = Exponential()
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    no_retry_on: tuple[type[BaseException], ...] = ()

    def delay_s(self, error: BaseException, attempt: int, max_attempts: int) -> float | None:
        """Seconds until the next attempt, or `None` when there is to be none.

        `max_attempts` is the task's own, which may differ from the handler's.
        """
        if attempt >= max_attempts or isinstance(error, self.no_retry_on) or not isinstance(error, self.retry_on):
            return None
        return max(0.0, float(self.backoff(attempt)))
