"""Ourselves, by the same rules as the others."""

from __future__ import annotations

import os
import sys

from bench.handlers import mark
from bench.peers.adapters import harness
from shiftboss import Client
from shiftboss.model import new_task_id
from shiftboss.store.open import open_store


def setup() -> None:
    store = open_store(harness.URL)
    store.migrate()
    store.close()


def enqueue(jobs: int) -> None:
    with Client(harness.URL) as client:
        client.enqueue_many(mark.prepare(number, 0) for number in range(jobs))


def work() -> None:
    environment = {**os.environ, "DATABASE_URL": harness.URL, "METRICS_PORT": "0", **harness.OPTIONS}
    command = [sys.executable, "-m", "shiftboss.cli", "start", "--import", "bench.handlers"]
    os.execve(sys.executable, command, environment)


def pace(count: int, every_s: float) -> None:
    with Client(harness.URL) as client:
        client.get(new_task_id())  # the others have connected, too, before the first call that counts
        harness.paced(lambda number, now: client.enqueue(mark, number, now), count, every_s)


if __name__ == "__main__":
    harness.run(setup=setup, enqueue=enqueue, work=work, pace=pace)
