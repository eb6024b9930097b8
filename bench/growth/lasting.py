"""A service under half of what it can do, for minutes: what grows?"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from bench import proc
from bench.growth.fill import Filler
from bench.latency import pace
from bench.load import Load, run_fresh
from bench.producer import producing
from bench.service import Service, wait_until
from bench.stats import Latency, latency, slope
from bench.target import NewTarget, Target
from shiftboss import Client

_PROBE_EVERY_S: Final = 0.1
_LEAD_S: Final = 2.0
_PATIENCE_S: Final = 120.0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time, at its end. `done_per_second` is that of the stretch, latency from the call of enqueue."""

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


class Lasting(msgspec.Struct, frozen=True, kw_only=True):
    """`pinned_from_s`: since when a snapshot was held. The growths are per minute, over the second half."""

    rate: float
    sent: int
    latest_producer_s: float
    samples: tuple[Sample, ...]
    pinned_from_s: float | None
    pss_kib_per_minute: float
    pending_per_minute: float

    def between(self, pinned: bool) -> list[Sample]:
        """The samples while a snapshot was held, or while none was."""
        return [one for one in self.samples if (self.pinned_from_s is not None and one.at_s > self.pinned_from_s) == pinned]


def measure(new_target: NewTarget, rate: float | None, minutes: float, pinned_minutes: float, stretch_s: float) -> Lasting:
    """`rate`: tasks a second, or half of a drain's for `None`. After `minutes` a snapshot is held for `pinned_minutes`.

    Raises:
        AssertionError: not all that was enqueued came out once.
    """
    rate = rate or run_fresh(new_target, Load(tasks=20_000)).per_second / 2
    seconds = (minutes + pinned_minutes) * 60
    target = new_target()
    try:
        with Service(target.url, target.folder) as service, producing(target.url, rate, seconds + _LEAD_S) as producer:
            wait_until(time.monotonic() + _LEAD_S)
            samples = _samples(target, service, minutes * 60, pinned_minutes * 60, stretch_s)
            said = json.loads(producer.communicate(timeout=_PATIENCE_S)[0])
            probes = sum(one.start.count for one in samples)
            _wait_until_done(target, said["sent"] + probes)
    finally:
        target.close()
    return lasting(rate, said["sent"], said["latest_s"], samples, minutes * 60 if pinned_minutes else None)


def lasting(rate: float, sent: int, latest_s: float, samples: Sequence[Sample], pinned_from_s: float | None) -> Lasting:
    """With its growths. Pure."""
    late = samples[len(samples) // 2 :]
    return Lasting(
        rate=rate,
        sent=sent,
        latest_producer_s=latest_s,
        samples=tuple(samples),
        pinned_from_s=pinned_from_s,
        pss_kib_per_minute=60 * slope([(one.at_s, one.pss_kib) for one in late]),
        pending_per_minute=60 * slope([(one.at_s, one.pending) for one in late]),
    )


def _samples(target: Target, service: Service, free_s: float, pinned_s: float, stretch_s: float) -> list[Sample]:
    """One stretch after the other; the second part with a snapshot held by a session of its own."""
    samples: list[Sample] = []
    began_s = time.monotonic()
    with Client(target.url) as client, Filler(target) as asker, Filler(target) as pinner, contextlib.ExitStack() as stack:
        pinned = False
        while (elapsed_s := time.monotonic() - began_s) < free_s + pinned_s:
            if not pinned and elapsed_s >= free_s:
                stack.enter_context(pinner.pinned())
                pinned = True
            samples.append(_sample(client, asker, service, began_s, stretch_s))
    return samples


def _sample(client: Client, asker: Filler, service: Service, began_s: float, stretch_s: float) -> Sample:
    before, stretch_began_s = int(asker.rows("done")[0][0]), time.monotonic()
    probes = pace(client, _PROBE_EVERY_S, max(1, round(stretch_s / _PROBE_EVERY_S)))
    done, took_s = int(asker.rows("done")[0][0]) - before, time.monotonic() - stretch_began_s
    ((tasks_bytes, index_bytes, history_bytes, dead_rows),) = asker.rows("sizes")
    processes = service.processes()
    return Sample(
        at_s=time.monotonic() - began_s,
        done_per_second=done / took_s,
        start=latency(probes.start_s),
        pending=int(asker.rows("pending")[0][0]),
        tasks_bytes=int(tasks_bytes),
        index_bytes=int(index_bytes),
        history_bytes=int(history_bytes),
        dead_rows=None if dead_rows is None else int(dead_rows),
        pss_kib=sum(proc.pss_by_role(processes).values()),
        descriptors=sum(map(proc.descriptors, processes)),
    )


def _wait_until_done(target: Target, tasks: int) -> None:
    """That exactly so many tasks have left the live table; more would be one that ended twice."""
    deadline_s = time.monotonic() + _PATIENCE_S
    with Filler(target) as asker:
        while (done := int(asker.rows("done")[0][0])) < tasks and time.monotonic() < deadline_s:
            wait_until(time.monotonic() + _PROBE_EVERY_S)
    if done != tasks:
        raise AssertionError(f"{tasks} tasks went in, {done} came out")
