"""Celery with Redis as its broker, results ignored."""

from __future__ import annotations

from celery import Celery

from bench import marks
from bench.peers.adapters import harness

app = Celery("bench", broker=harness.URL)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=harness.OPTIONS.get("prefetch", 4),
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
)


@app.task(name="mark")
def mark(number: int, sent_ns: int) -> None:
    marks.write(number, sent_ns)


def enqueue(jobs: int) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(jobs):
            mark.apply_async((number, 0), producer=producer)


def work() -> None:
    app.worker_main(["worker", "--loglevel=WARNING", "--without-gossip", "--without-mingle", *harness.OPTIONS["arguments"]])


if __name__ == "__main__":
    harness.run(
        setup=lambda: None,
        enqueue=enqueue,
        work=work,
        pace=lambda count, every_s: harness.paced(mark.delay, count, every_s),
    )
