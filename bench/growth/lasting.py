"""A service under half of what it can do, for minutes: what grows?"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from bench import proc
from bench.growth.fill import Filler
from bench.latency import pace
from bench.load import Load, run_fresh
from bench.producer import Produced, check_runs, produced, producing
from bench.service import Service, wait_until
from bench.stats import Latency, latency, of_buckets, percentile, slope
from bench.target import NewTarget, Target
from shiftboss import Client
from shiftboss.store.counting import CLAIM_BUCKETS_S

_PROBE_EVERY_S: Final = 0.1
_LEAD_S: Final = 2.0
_PATIENCE_S: Final = 120.0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time, at its end. `done_per_second` is that of the stretch, latency from the call of enqueue.

    `claims`: how many claims of the stretch took how long, by the upper bound of the service's own histogram in seconds.
    `looked_s`: how long the bench's own looks at the database took at its end.
    """

    at_s: float
    done_per_second: float
    start: Latency
    pending: int
    tasks_bytes: int
    index_bytes: int
    history_bytes: int
    dead_rows: int | None
    pss_kib: int
    descriptors: int
    claims: dict[str, int] = {}
    looked_s: float = 0.0


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The stretches of a part of the time in few numbers. `p99_ms`: that of the middle stretch, pick-up from the call of
    enqueue. Of claims `None` when none was counted."""

    p50_ms: float
    p99_ms: float
    worst_p99_ms: float
    claim_p50_ms: float | None
    claim_p99_ms: float | None
    most_pending: int
    pending_per_minute: float


class Lasting(msgspec.Struct, frozen=True, kw_only=True):
    """`pinned_from_s`: since when a snapshot was held. The growths are per minute, over the second half. What only the end
    tells, how many were sent in all and a second and how late the latest batch was, is `None` in a run that was broken off."""

    rate: float
    sent: int | None
    latest_producer_s: float | None
    sent_per_second: float | None = None
    samples: tuple[Sample, ...]
    pinned_from_s: float | None
    pss_kib_per_minute: float
    pending_per_minute: float

    def between(self, pinned: bool) -> list[Sample]:
        """The samples while a snapshot was held, or while none was."""
        return [one for one in self.samples if (self.pinned_from_s is not None and one.at_s > self.pinned_from_s) == pinned]


Keep = Callable[[Lasting], object]


def measure(
    new_target: NewTarget, rate: float | None, minutes: float, pinned_minutes: float, stretch_s: float, keep: Keep
) -> None:
    """`rate`: tasks a second, or half of a drain's for `None`. After `minutes` a snapshot is held for `pinned_minutes`.

    `keep` gets what there is after every stretch, and all of it at the end: an hour that is broken off has not been in vain.

    Raises:
        AssertionError: not all that was enqueued came out once, or the producer failed.
    """
    rate = rate or run_fresh(new_target, Load(tasks=20_000)).per_second / 2
    seconds = (minutes + pinned_minutes) * 60
    pinned_from_s = minutes * 60 if pinned_minutes else None
    samples: list[Sample] = []
    target = new_target()
    try:
        with Service(target.url, target.folder) as service, producing(target.url, rate, seconds + _LEAD_S) as producer:
            wait_until(time.monotonic() + _LEAD_S)
            for sample in _sampled(target, service, minutes * 60, pinned_minutes * 60, stretch_s):
                samples.append(sample)
                keep(lasting(rate, None, samples, pinned_from_s))
                check_runs(producer)
            load = produced(producer, _PATIENCE_S)
            probes = sum(one.start.count for one in samples)
            _wait_until_done(target, load.sent + probes)
    finally:
        target.close()
    keep(lasting(rate, load, samples, pinned_from_s))


def lasting(rate: float, load: Produced | None, samples: Sequence[Sample], pinned_from_s: float | None) -> Lasting:
    """With its growths. Pure."""
    late = samples[len(samples) // 2 :]
    return Lasting(
        rate=rate,
        sent=load.sent if load else None,
        latest_producer_s=load.latest_s if load else None,
        sent_per_second=load.per_second if load else None,
        samples=tuple(samples),
        pinned_from_s=pinned_from_s,
        pss_kib_per_minute=60 * slope([(one.at_s, one.pss_kib) for one in late]),
        pending_per_minute=60 * slope([(one.at_s, one.pending) for one in late]),
    )


def part(samples: Sequence[Sample]) -> Part:
    """At least one stretch in few numbers. Pure."""
    claims: Counter[str] = Counter()
    for sample in samples:
        claims.update(sample.claims)
    p99s_ms = [one.start.p99_ms for one in samples]
    return Part(
        p50_ms=percentile([one.start.p50_ms for one in samples], 50),
        p99_ms=percentile(p99s_ms, 50),
        worst_p99_ms=max(p99s_ms),
        claim_p50_ms=of_buckets(claims, CLAIM_BUCKETS_S, 50) * 1e3 if claims else None,
        claim_p99_ms=of_buckets(claims, CLAIM_BUCKETS_S, 99) * 1e3 if claims else None,
        most_pending=max(one.pending for one in samples),
        pending_per_minute=60 * slope([(one.at_s, one.pending) for one in samples]),
    )


def by(second: Part, first: Part) -> tuple[float | None, ...]:
    """The times of one part by those of another, in the order of the fields; `None` where there is nothing to divide by."""
    names = ("p50_ms", "p99_ms", "worst_p99_ms", "claim_p50_ms", "claim_p99_ms")
    pairs = ((getattr(second, name), getattr(first, name)) for name in names)
    return tuple(one / other if one is not None and other else None for one, other in pairs)


def _sampled(target: Target, service: Service, free_s: float, pinned_s: float, stretch_s: float) -> Iterable[Sample]:
    """One stretch after the other; the second part with a snapshot held by a session of its own."""
    began_s = time.monotonic()
    with Client(target.url) as client, Filler(target) as asker, Filler(target) as pinner, contextlib.ExitStack() as stack:
        pinned = False
        while (elapsed_s := time.monotonic() - began_s) < free_s + pinned_s:
            if not pinned and elapsed_s >= free_s:
                stack.enter_context(pinner.pinned())
                pinned = True
            yield _sample(client, asker, service, began_s, stretch_s)


def _sample(client: Client, asker: Filler, service: Service, began_s: float, stretch_s: float) -> Sample:
    before, claims_before, stretch_began_s = int(asker.rows("done")[0][0]), _claims(asker), time.monotonic()
    probes = pace(client, _PROBE_EVERY_S, max(1, round(stretch_s / _PROBE_EVERY_S)))
    looks_began_s = time.monotonic()
    done, took_s = int(asker.rows("done")[0][0]) - before, time.monotonic() - stretch_began_s
    claims = _claims(asker) - claims_before
    ((tasks_bytes, index_bytes, history_bytes, dead_rows),) = asker.rows("sizes")
    pending = int(asker.rows("pending")[0][0])
    looked_s = time.monotonic() - looks_began_s
    processes = service.processes()
    return Sample(
        at_s=time.monotonic() - began_s,
        done_per_second=done / took_s,
        start=latency(probes.start_s),
        pending=pending,
        tasks_bytes=int(tasks_bytes),
        index_bytes=int(index_bytes),
        history_bytes=int(history_bytes),
        dead_rows=None if dead_rows is None else int(dead_rows),
        pss_kib=sum(proc.pss_by_role(processes).values()),
        descriptors=sum(map(proc.descriptors, processes)),
        claims=dict(claims),
        looked_s=looked_s,
    )


def _claims(asker: Filler) -> Counter[str]:
    """How many claims took how long since the service began: its own counters, which are stored once a second."""
    return Counter({json.loads(labels)["le"]: int(count) for labels, count in asker.rows("claims")})


def _wait_until_done(target: Target, tasks: int) -> None:
    """That exactly so many tasks have left the live table; more would be one that ended twice."""
    deadline_s = time.monotonic() + _PATIENCE_S
    with Filler(target) as asker:
        while (done := int(asker.rows("done")[0][0])) < tasks and time.monotonic() < deadline_s:
            wait_until(time.monotonic() + _PROBE_EVERY_S)
    if done != tasks:
        raise AssertionError(f"{tasks} tasks went in, {done} came out")
