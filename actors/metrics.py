"""What /metrics says: each metric's name, kind, labels and help, and how it is built from what the database counts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from shiftboss.actors.health import Health
from shiftboss.store.base import CounterDelta, Counts
from shiftboss.store.counting import CLAIM_BUCKETS_S, DURATION_BUCKETS_S


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `cluster`: of the whole database, so only the leader's worker shows it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    cluster: bool = False


METRICS: Final = (
    MetricSpec("tasks_enqueued_total", "counter", ("type",), "Tasks ever enqueued in this database.", cluster=True),
    MetricSpec("tasks_completed_total", "counter", ("type", "status"), "Attempts that ended here, by success or failed."),
    MetricSpec("task_retries_total", "counter", ("type", "attempt"), "Failed attempts that will be tried again, by attempt."),
    MetricSpec("tasks_dead_letter_total", "counter", ("type",), "Tasks that became dead letters here."),
    MetricSpec("tasks_pending", "gauge", ("type",), "Tasks that wait, due or not.", cluster=True),
    MetricSpec("tasks_running", "gauge", ("type",), "Tasks that run now.", cluster=True),
    MetricSpec("worker_pool_active", "gauge", (), "Slots of this worker that run an attempt."),
    MetricSpec("worker_pool_capacity", "gauge", (), "Slots of this worker."),
    MetricSpec("worker_ready", "gauge", (), "1 while this worker takes tasks, else 0; like /readyz."),
    MetricSpec("worker_healthy", "gauge", (), "1 while this worker does its work or was asked to pause, else 0; like /health."),
    MetricSpec("database_reachable", "gauge", (), "1 while heartbeat and claimer reach the database, else 0."),
    MetricSpec("actor_up", "gauge", ("actor",), "1 while heartbeat and claimer do their work, each; else 0."),
    MetricSpec("workers_total", "gauge", (), "Workers with a fresh heartbeat.", cluster=True),
    MetricSpec("leader_status", "gauge", ("worker_id",), "1 for the worker that leads, else 0."),
    MetricSpec("task_duration_seconds", "histogram", ("type",), "How long attempts ran that ended here."),
    MetricSpec("task_claim_duration_seconds", "histogram", (), "How long a transaction that claims takes."),
)
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
MAX_TYPES: Final = 1_000
OTHER_TYPES: Final = "(others)"
_SPECS: Final = {spec.name: spec for spec in METRICS}
_BUCKETS: Final = {"task_duration_seconds": DURATION_BUCKETS_S, "task_claim_duration_seconds": CLAIM_BUCKETS_S}


@dataclass(frozen=True, slots=True)
class Sample:
    """All that one scrape shows."""

    worker_id: str
    health: Health
    active: int
    capacity: int
    counters: Sequence[CounterDelta]
    counts: Counts | None  # None: the database could not be read yet


def exposition(sample: Sample) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(_SampleCollector(sample))
    return generate_latest(registry)


class _SampleCollector(Collector):
    """Turns a sample into metric families."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def collect(self) -> Iterable[Metric]:
        sample = self._sample
        yield from _counters(sample)
        yield from _health(sample.health)
        yield _gauge("worker_pool_active", {(): sample.active})
        yield _gauge("worker_pool_capacity", {(): sample.capacity})
        yield from (_histogram(sample.counters, name) for name in _BUCKETS)
        if sample.counts is None:
            return
        leads = sample.counts.leader == sample.worker_id
        yield _gauge("leader_status", {(sample.worker_id,): int(leads)})
        if leads:
            yield _counter("tasks_enqueued_total", _by_type(sample.counts.enqueued))
            yield _gauge("tasks_pending", _by_type(sample.counts.pending))
            yield _gauge("tasks_running", _by_type(sample.counts.running))
            yield _gauge("workers_total", {(): sample.counts.workers})


def _by_type(counted: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    """Whoever may enqueue may make up types: beyond `MAX_TYPES` the rarer ones are one."""
    if len(counted) <= MAX_TYPES:
        return {(type_,): n for type_, n in counted.items()}
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    shown: dict[tuple[str, ...], float] = {(type_,): n for type_, n in ranked[:MAX_TYPES]}
    shown[OTHER_TYPES,] = shown.get((OTHER_TYPES,), 0.0) + sum(n for _type, n in ranked[MAX_TYPES:])
    return shown


def _health(health: Health) -> Iterable[Metric]:
    yield _gauge("worker_ready", {(): int(not health.unready)})
    yield _gauge("worker_healthy", {(): int(not health.broken)})
    yield _gauge("database_reachable", {(): int(health.database)})
    yield _gauge("actor_up", {(actor,): int(up) for actor, up in health.actors.items()})


def _counters(sample: Sample) -> Iterable[Metric]:
    values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for counter in sample.counters:
        spec = _SPECS.get(counter.name)
        if spec is not None and spec.kind == "counter":
            labels = json.loads(counter.labels)
            values[spec.name][tuple(labels[name] for name in spec.labels)] = counter.value
    local = [spec.name for spec in METRICS if spec.kind == "counter" and not spec.cluster]
    return [_counter(name, values[name]) for name in local]


def _counter(name: str, values: dict[tuple[str, ...], float]) -> Metric:
    spec = _SPECS[name]
    family = CounterMetricFamily(name, spec.help, labels=spec.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _gauge(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    spec = _SPECS[name]
    family = GaugeMetricFamily(name, spec.help, labels=spec.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _histogram(counters: Sequence[CounterDelta], name: str) -> Metric:
    """Stored buckets count each value once; Prometheus wants them cumulative."""
    spec = _SPECS[name]
    family = HistogramMetricFamily(name, spec.help, labels=spec.labels)
    buckets: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    sums: dict[tuple[str, ...], float] = {}
    for counter in counters:
        if counter.name not in (f"{name}_bucket", f"{name}_sum"):
            continue
        labels = json.loads(counter.labels)
        key = tuple(labels[label] for label in spec.labels)
        if counter.name == f"{name}_bucket":
            buckets[key][labels["le"]] = counter.value
        else:
            sums[key] = counter.value
    for key, counted in sorted(buckets.items()):
        family.add_metric(key, _cumulative(counted, _BUCKETS[name]), sums.get(key, 0.0))
    return family


def _cumulative(counted: dict[str, float], bounds: Sequence[float]) -> list[tuple[str, float]]:
    total, result = 0.0, []
    for bound in (*map(str, bounds), "+Inf"):
        total += counted.get(bound, 0.0)
        result.append((bound, total))
    return result
