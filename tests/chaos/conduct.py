"""Carries out a schedule: each fault in a thread of its own, from its start to its stop."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from typing import Final

import msgspec

from tests.chaos.injectors.base import Injector, NoTarget
from tests.chaos.schedule import Fault, Schedule
from tests.chaos.world import World

THREADS: Final = 160  # most of them wait for their target
ENDS_WITHIN_S: Final = 180.0
WAIT_FOR_TARGET_S: Final = 45.0
LOOK_AGAIN_S: Final = (0.1, 3.0)  # at random: those who wait for one service must not all hit it at once
LOOK_OFTEN_AFTER_S: Final = 15.0  # who has waited long looks more often, or others are always there before it
# When so many have no target, the world is behind: on a slow machine faults come as fast as it can take them.
MOST_WAITING: Final = 24


class Result(StrEnum):
    """What became of a fault."""

    DONE = "done"
    SKIPPED = "skipped"  # there was nothing to act on
    BROKEN = "broken"  # the harness itself failed, or found something wrong while it acted


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, as it went. Seconds of the round; `late_s`: how much later than planned it began."""

    fault: Fault
    result: Result
    began_s: float
    ended_s: float
    late_s: float
    text: str = ""


class Conductor:
    """Runs the faults of one schedule on one world."""

    def __init__(self, world: World, injectors: Iterable[Injector]) -> None:
        self._world = world
        self._injectors = {injector.kind: injector for injector in injectors}
        self._enough = threading.Event()
        self._counting = threading.Lock()
        self._waiting = 0

    def run(self, schedule: Schedule) -> list[Report]:
        """Until the last fault has ended; stops early, but not in the middle of a fault, when one is broken."""
        began_s, behind_s = time.monotonic(), 0.0
        futures: list[Future[Report]] = []
        with ThreadPoolExecutor(THREADS, thread_name_prefix="fault") as pool:
            for fault in schedule.faults:
                if self._enough.wait(max(0.0, began_s + behind_s + fault.at_s - time.monotonic())):
                    break
                behind_s += self._let_it_catch_up()
                futures.append(pool.submit(self._one, fault, began_s))
            return [future.result(ENDS_WITHIN_S) for future in futures]

    def _let_it_catch_up(self) -> float:
        """Until fewer faults wait for their target; seconds."""
        began_s = time.monotonic()
        while self._waiting >= MOST_WAITING and not self._enough.wait(LOOK_AGAIN_S[0]):
            pass
        return time.monotonic() - began_s

    def _count_waiting(self, step: int) -> None:
        with self._counting:
            self._waiting += step

    def _one(self, fault: Fault, round_began_s: float) -> Report:
        began_s = time.monotonic()
        result, text = self._act(fault)
        if result is Result.BROKEN:
            self._enough.set()
        ended_s = time.monotonic()
        return Report(
            fault=fault,
            result=result,
            text=text,
            began_s=began_s - round_began_s,
            ended_s=ended_s - round_began_s,
            late_s=began_s - round_began_s - fault.at_s,
        )

    def _start(self, injector: Injector, fault: Fault) -> None:
        """Its target may be about to come back: a service that starts takes seconds on a busy machine."""
        try:
            return injector.start(self._world, fault)
        except NoTarget:
            self._count_waiting(1)
        try:
            self._try_again(injector, fault)
        finally:
            self._count_waiting(-1)

    def _try_again(self, injector: Injector, fault: Fault) -> None:
        rng, began_s = random.Random(fault.number), time.monotonic()
        while True:
            with contextlib.suppress(NoTarget):
                injector.stop(self._world, fault)
            threading.Event().wait(_look_again_s(rng, time.monotonic() - began_s))
            try:
                return injector.start(self._world, fault)
            except NoTarget:
                if time.monotonic() - began_s > WAIT_FOR_TARGET_S:
                    raise

    def _act(self, fault: Fault) -> tuple[Result, str]:
        injector = self._injectors[fault.kind]
        result, text = Result.DONE, ""
        try:
            self._start(injector, fault)
            if fault.for_s:
                threading.Event().wait(fault.for_s)
        except NoTarget as why:
            result, text = Result.SKIPPED, str(why)
        except Exception:  # noqa: BLE001  an injector's own failure fails the run, with its traceback
            result, text = Result.BROKEN, traceback.format_exc()
        try:
            injector.stop(self._world, fault)
        except NoTarget:
            pass
        except Exception:  # noqa: BLE001  see above
            result, text = Result.BROKEN, text + traceback.format_exc()
        return result, text


def _look_again_s(rng: random.Random, waited_s: float) -> float:
    least_s, most_s = LOOK_AGAIN_S
    return rng.uniform(least_s, max(2 * least_s, most_s * (1 - waited_s / LOOK_OFTEN_AFTER_S)))
