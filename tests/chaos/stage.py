"""A small play for faults that come once: a few workers, a producer, the ledger, and the same questions at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from shiftboss.clock import Clock
from tests.acceptance.worker import Worker, until
from tests.chaos import invariants, ledger, logs, rows
from tests.chaos.invariants import Evidence
from tests.chaos.producer import Producer
from tests.chaos.world import SETTINGS

ENDS_WITHIN_S: Final = 60.0
takes_long = pytest.mark.slow


class Stage:
    """Workers on one database. `direct_url`: how the questions at the end reach it. `clock`: the producer's."""

    def __init__(self, folder: Path, url: str, direct_url: str, *, tasks: int, clock: Clock | None = None, seed: int = 1) -> None:
        self.folder, self.url, self.direct_url = folder, url, direct_url
        self.ledger = folder / "ledger"
        self.ledger.mkdir()
        self.workers: list[Worker] = []
        self.producer = Producer(url, self.ledger, tasks, seed, clock=clock)
        self._exits = contextlib.ExitStack()

    def close(self) -> None:
        self._exits.close()

    def worker(self, **settings: Any) -> Worker:
        """One more, ready."""
        given = {**SETTINGS, "worker_timeout_s": 3.0, "leader_term_s": 3.0, "ping_timeout_s": 30.0, **settings}
        worker = Worker(self.url, self.folder, f"worker-{len(self.workers) + 1}", **given)
        self._exits.enter_context(worker)
        self.workers.append(worker)
        return worker.ready()

    def ends(self) -> int:
        """Attempts that have ended, by the ledger."""
        return sum(len(some) for some in ledger.read(self.ledger).ends.values())

    def flows(self, within_s: float, what: str = "attempts end") -> None:
        """Until something more has ended."""
        before = self.ends()
        until(what, lambda: self.ends() > before, within_s)

    def drained(self, within_s: float = ENDS_WITHIN_S) -> None:
        self.producer.join(within_s)
        until("all tasks have ended", lambda: not rows.unfinished(self.direct_url), within_s)

    def violations(self) -> dict[str, list[str]]:
        """After the workers have stopped."""
        told = [invariants.verdicts_of(logs.read(worker.log_file)) for worker in self.workers]
        evidence = Evidence(
            rows=rows.read(self.direct_url),
            ledger=ledger.read(self.ledger),
            verdicts=[one for verdicts, _terms in told for one in verdicts],
            terms=[one for _verdicts, terms in told for one in terms],
        )
        return {name: found for name, found in invariants.check(evidence).items() if found}

    def over(self) -> None:
        """Everything drains, everybody stops, and nothing is wrong."""
        self.drained()
        for worker in self.workers:
            if worker.process.poll() is None:
                assert worker.stop() == 0
        assert not self.violations()

    def actors_lost(self) -> list[dict[str, Any]]:
        """What the supervisors had to say of actors that did not live on."""
        return [
            line
            for worker in self.workers
            for event in ("actor.crashed", "actor.boot_failed", "actor.hung")
            for line in worker.lines(event)
        ]


@contextlib.contextmanager
def stage(folder: Path, url: str, direct_url: str | None = None, *, tasks: int, clock: Clock | None = None) -> Iterator[Stage]:
    made = Stage(folder, url, direct_url or url, tasks=tasks, clock=clock)
    try:
        yield made
    finally:
        made.close()
