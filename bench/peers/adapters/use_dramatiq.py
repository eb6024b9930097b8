"""Dramatiq with Redis as its broker."""

from __future__ import annotations

import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.cli import main, make_argument_parser

from bench import marks
from bench.peers.adapters import harness

dramatiq.set_broker(RedisBroker(url=harness.URL))


@dramatiq.actor(actor_name="mark")
def mark(number: int, sent_ns: int) -> None:
    marks.write(number, sent_ns)


def enqueue(jobs: int) -> None:
    for number in range(jobs):
        mark.send(number, 0)


def work() -> None:
    arguments = ["bench.peers.adapters.use_dramatiq", *harness.OPTIONS["arguments"]]
    sys.exit(main(make_argument_parser().parse_args(arguments)))


if __name__ == "__main__":
    harness.run(
        setup=lambda: None, enqueue=enqueue, work=work, pace=lambda count, every_s: harness.paced(mark.send, count, every_s)
    )
