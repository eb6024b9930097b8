"""The database's own limit for our statements: claim and finish in a bare loop, without processes, links or handlers."""

from __future__ import annotations

import time
from typing import Final

from bench.handlers import noop
from bench.target import NewTarget, store_of
from shiftboss import Client
from shiftboss.model import NULL, Claim, Ended, Outcome, TypeInfo
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk, Store

BATCHES: Final = (200, 1000)
_WORKER: Final = "bench-raw"


def limit(new_target: NewTarget, tasks: int, batch: int) -> float:
    """Tasks a second, each transaction finishing and claiming a batch, on a fresh database."""
    target = new_target()
    try:
        with Client(target.url) as client:
            client.enqueue_many(noop.prepare() for _ in range(tasks))
        with store_of(target) as store:
            began_s = time.perf_counter()
            done = _drain(store, batch)
            seconds = time.perf_counter() - began_s
    finally:
        target.close()
    if done != tasks:
        raise AssertionError(f"{tasks} tasks went in, {done} came out")
    return tasks / seconds


def _drain(store: Store, batch: int) -> int:
    done, claims = 0, _exchange(store, [], batch)
    while claims:
        done += len(claims)
        claims = _exchange(store, claims, batch)
    return done


def _exchange(store: Store, claims: list[Claim], batch: int) -> list[Claim]:
    lane = LaneAsk(queue="default", priority=0, limit=batch, since=claims[-1].due_at - 1.0 if claims else None)
    ask = ClaimAsk(lanes=[lane], limit=batch, running=batch, types=[TypeInfo(type=noop.type)])
    now_s = time.time()
    ended = [
        Ended(task_id=c.task_id, fence=c.fence, outcome=Outcome.SUCCESS, result=NULL, started_at=now_s, duration_s=0.0)
        for c in sorted(claims, key=lambda claim: claim.task_id)
    ]
    return list(store.exchange(Exchange(worker_id=_WORKER, ended=ended, claim=ask)).claims)
