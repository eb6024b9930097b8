"""When an executor is worn out: after so many tasks, so long a life, or so much memory."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shiftboss.config import Settings

log = logging.getLogger("shiftboss.executor")

LOOK_EVERY_S: Final = 2.0  # at age and memory; tasks are counted as they come
JITTER: Final = 0.1  # executors that started together must not all be replaced together
_MIB: Final = 1024 * 1024


class Wear:
    """The limits of one executor; a limit of 0 is none.

    Args:
        chance: a number from 0 to 1, fixed for each limit at the start.
    """

    def __init__(self, settings: Settings, chance: Callable[[], float] = random.random) -> None:
        self._max_tasks = round(_jittered(settings.executor_max_tasks, chance()))
        self._max_age_s = _jittered(settings.executor_max_age_s, chance())
        self._max_memory = settings.executor_max_memory_bytes
        if settings.executor_max_tasks:
            self._max_tasks = max(1, self._max_tasks)

    @property
    def limited(self) -> bool:
        return bool(self._max_tasks or self._max_age_s or self._max_memory)

    def start(self, memory_bytes: int) -> None:
        """What the process takes before its first task. More than the limit: then every successor would be worn out at once."""
        if self._max_memory and memory_bytes > self._max_memory:
            log.warning(
                "executor_max_memory of %d MiB is ignored: the imported code alone takes %d MiB; raise it",
                self._max_memory // _MIB,
                memory_bytes // _MIB,
            )
            self._max_memory = 0

    def out_of_tasks(self, tasks: int) -> bool:
        return bool(self._max_tasks) and tasks >= self._max_tasks

    def reason(self, tasks: int, age_s: float, memory_bytes: int) -> str | None:
        """Why to be replaced, for people; `None`: no reason yet."""
        if self.out_of_tasks(tasks):
            return f"{tasks} tasks"
        if self._max_age_s and age_s >= self._max_age_s:
            return f"{_age(age_s)} old"
        if self._max_memory and memory_bytes > self._max_memory:
            return f"{memory_bytes // _MIB} MiB"
        return None


def _jittered(limit: float, chance: float) -> float:
    return limit * (1 - JITTER + 2 * JITTER * chance)


def _age(age_s: float) -> str:
    if age_s < 120:
        return f"{age_s:.0f} s"
    return f"{age_s / 60:.0f} min" if age_s < 7_200 else f"{age_s / 3_600:.0f} h"


def memory_bytes() -> int:
    """The resident set of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
