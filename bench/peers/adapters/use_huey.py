"""Huey on SQLite."""

from __future__ import annotations

from huey import SqliteHuey

from bench import marks
from bench.peers.adapters import harness

huey = SqliteHuey("bench", filename=harness.URL.removeprefix("sqlite:///"), fsync=harness.OPTIONS.get("fsync"), results=False)


@huey.task()
def mark(number: int, sent_ns: int) -> None:
    marks.write(number, sent_ns)


def enqueue(jobs: int) -> None:
    for number in range(jobs):
        mark(number, 0)


def work() -> None:
    huey.create_consumer(**harness.OPTIONS["consumer"]).run()


if __name__ == "__main__":
    # The storage makes its tables when it is opened.
    harness.run(setup=lambda: None, enqueue=enqueue, work=work, pace=lambda count, every_s: harness.paced(mark, count, every_s))
