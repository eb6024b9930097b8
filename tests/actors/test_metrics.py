"""What a scrape shows: names, kinds, labels and buckets as documented, histograms cumulative."""

from __future__ import annotations

from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from shiftboss.actors.health import Health
from shiftboss.actors.metrics import METRICS, Sample, exposition
from shiftboss.model import Outcome, TaskState
from shiftboss.store.base import CounterDelta, Counts
from shiftboss.store.counting import Applied, labels, outcome_counters

TYPE = "mail:send"
NAMES = {
    "tasks_enqueued_total": ("counter", {"type"}),
    "tasks_completed_total": ("counter", {"type", "status"}),
    "task_retries_total": ("counter", {"type", "attempt"}),
    "tasks_dead_letter_total": ("counter", {"type"}),
    "tasks_pending": ("gauge", {"type"}),
    "tasks_running": ("gauge", {"type"}),
    "worker_pool_active": ("gauge", set()),
    "worker_pool_capacity": ("gauge", set()),
    "worker_ready": ("gauge", set()),
    "worker_healthy": ("gauge", set()),
    "database_reachable": ("gauge", set()),
    "actor_up": ("gauge", {"actor"}),
    "workers_total": ("gauge", set()),
    "leader_status": ("gauge", {"worker_id"}),
    "task_duration_seconds": ("histogram", {"type"}),
    "task_claim_duration_seconds": ("histogram", set()),
}
DURATION_BOUNDS = ["0.1", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "300.0", "600.0", "+Inf"]
COUNTS = Counts(pending={TYPE: 4}, running={TYPE: 2}, enqueued={TYPE: 90}, workers=3, leader="worker-1")


WELL = Health(broken="", quiet="", database=True, actors={"heartbeat": True, "claimer": True})


class Shown:
    """One scrape, parsed as Prometheus does: sample name and labels -> value."""

    def __init__(self, **fields: object) -> None:
        given = {"worker_id": "worker-1", "health": WELL, "active": 2, "capacity": 10, "counters": (), "counts": COUNTS} | fields
        self.text = exposition(Sample(**given)).decode()  # type: ignore[arg-type]
        self.kinds: dict[str, str] = {}
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(self.text):
            self.kinds[family.name + ("_total" if family.type == "counter" else "")] = family.type
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.values, f"{key} is shown twice"
                self.values[key] = sample.value

    def get(self, name: str, **label_values: str) -> float | None:
        return self.values.get((name, frozenset(label_values.items())))

    def labels_of(self, name: str) -> set[str]:
        return {label for shown, pairs in self.values if shown.startswith(name) for label, _value in pairs} - {"le"}


def deltas(*applied: Applied) -> list[CounterDelta]:
    return outcome_counters(applied)


EVERYTHING = [
    *deltas(
        Applied(TYPE, 1, Outcome.SUCCESS, TaskState.COMPLETED, 0.05),
        Applied(TYPE, 1, Outcome.SUCCESS, TaskState.COMPLETED, 0.7),
        Applied(TYPE, 2, Outcome.FAILED, TaskState.PENDING, 0.7),
        Applied(TYPE, 5, Outcome.CRASHED, TaskState.DEAD_LETTER, 9_999.0),
    ),
    CounterDelta(name="task_claim_duration_seconds_bucket", labels=labels(le="0.005"), value=7.0),
    CounterDelta(name="task_claim_duration_seconds_bucket", labels=labels(le="0.5"), value=1.0),
    CounterDelta(name="task_claim_duration_seconds_sum", labels=labels(), value=0.4),
]


def test_a_leader_shows_exactly_the_documented_metrics() -> None:
    shown = Shown(counters=EVERYTHING)
    assert shown.kinds == {name: kind for name, (kind, _labels) in NAMES.items()}
    for name, (_kind, label_names) in NAMES.items():
        assert shown.labels_of(name) == label_names, name


def test_the_documented_list_is_the_one_in_the_code() -> None:
    assert {spec.name: (spec.kind, set(spec.labels)) for spec in METRICS} == NAMES
    assert all(spec.help.endswith(".") for spec in METRICS)


def test_counters_show_what_was_counted() -> None:
    shown = Shown(counters=EVERYTHING)
    assert shown.get("tasks_completed_total", type=TYPE, status="success") == 2
    assert shown.get("tasks_completed_total", type=TYPE, status="failed") == 2
    assert shown.get("task_retries_total", type=TYPE, attempt="2") == 1
    assert shown.get("tasks_dead_letter_total", type=TYPE) == 1
    assert shown.get("tasks_enqueued_total", type=TYPE) == 90


def test_gauges_show_the_worker_and_the_database() -> None:
    shown = Shown()
    assert shown.get("worker_pool_active") == 2
    assert shown.get("worker_pool_capacity") == 10
    assert shown.get("workers_total") == 3
    assert (shown.get("tasks_pending", type=TYPE), shown.get("tasks_running", type=TYPE)) == (4, 2)
    assert shown.get("leader_status", worker_id="worker-1") == 1


def test_durations_are_a_cumulative_histogram_with_the_documented_bounds() -> None:
    shown = Shown(counters=EVERYTHING)
    counted = [shown.get("task_duration_seconds_bucket", type=TYPE, le=bound) for bound in DURATION_BOUNDS]
    assert counted == [1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert shown.get("task_duration_seconds_count", type=TYPE) == 4
    assert shown.get("task_duration_seconds_sum", type=TYPE) == 0.05 + 0.7 + 0.7 + 9_999.0
    bounds = [dict(pairs)["le"] for name, pairs in shown.values if name == "task_duration_seconds_bucket"]
    assert bounds == DURATION_BOUNDS


def test_a_duration_on_a_bound_counts_below_it() -> None:
    shown = Shown(counters=deltas(Applied(TYPE, 1, Outcome.SUCCESS, TaskState.COMPLETED, 0.5)))
    assert shown.get("task_duration_seconds_bucket", type=TYPE, le="0.1") == 0
    assert shown.get("task_duration_seconds_bucket", type=TYPE, le="0.5") == 1


def test_claims_are_a_cumulative_histogram_without_labels() -> None:
    shown = Shown(counters=EVERYTHING)
    assert shown.get("task_claim_duration_seconds_bucket", le="0.0025") == 0
    assert shown.get("task_claim_duration_seconds_bucket", le="0.005") == 7
    assert shown.get("task_claim_duration_seconds_bucket", le="0.5") == 8
    assert shown.get("task_claim_duration_seconds_bucket", le="+Inf") == 8
    assert (shown.get("task_claim_duration_seconds_count"), shown.get("task_claim_duration_seconds_sum")) == (8, 0.4)


def test_figures_of_the_whole_database_are_shown_by_the_leader_only() -> None:
    shown = Shown(counters=EVERYTHING, worker_id="worker-2")
    assert shown.get("leader_status", worker_id="worker-2") == 0
    hidden = {"tasks_enqueued_total", "tasks_pending", "tasks_running", "workers_total"}
    assert set(shown.kinds) == set(NAMES) - hidden


def test_without_a_database_the_worker_still_shows_its_own() -> None:
    shown = Shown(counts=None)
    assert shown.get("worker_pool_capacity") == 10
    assert "leader_status" not in shown.kinds


def test_a_type_may_have_any_name() -> None:
    name = 'we"ird\\ty\npe{}æ'
    shown = Shown(counters=deltas(Applied(name, 1, Outcome.SUCCESS, TaskState.COMPLETED, 0.1)), counts=None)
    assert shown.get("tasks_completed_total", type=name, status="success") == 1


def test_health_is_shown_as_ones_and_zeros() -> None:
    gauges = ("worker_ready", "worker_healthy", "database_reachable")
    assert [Shown().get(name) for name in gauges] == [1, 1, 1]
    assert [Shown(health=replace(WELL, quiet="draining")).get(name) for name in gauges] == [0, 1, 1]
    assert [Shown(health=replace(WELL, broken="why", database=False)).get(name) for name in gauges] == [0, 0, 0]
    shown = Shown(health=replace(WELL, actors={"heartbeat": True, "claimer": False}))
    assert [shown.get("actor_up", actor=actor) for actor in ("heartbeat", "claimer")] == [1, 0]


def test_made_up_types_do_not_make_ever_more_series() -> None:
    flood = {f"made-up:{number}": 1 for number in range(100_000)} | {TYPE: 7}
    shown = Shown(counts=Counts(pending=flood, running={}, enqueued=flood, workers=1, leader="worker-1"))
    for name in ("tasks_pending", "tasks_enqueued_total"):
        series = [pairs for found, pairs in shown.values if found == name]
        assert len(series) == 1_001
        assert shown.get(name, type=TYPE) == 7, "the largest stay"
        assert sum(value for (found, _pairs), value in shown.values.items() if found == name) == 100_007, "and none is lost"
