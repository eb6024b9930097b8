"""The arithmetic of growth, and that a store is filled with rows that the service itself could have written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from bench.growth import __main__ as program
from bench.growth.fill import Filler
from bench.growth.lasting import Lasting, Sample, by, lasting, measure, part
from bench.growth.scenes import Scene, by_kind
from bench.load import Drain
from bench.producer import Produced
from bench.stats import latency, spread
from bench.target import TARGETS, Target, store_of
from bench.tuning import bare_inserts, chosen
from shiftboss.model import TypeInfo
from shiftboss.store.base import ClaimAsk, Exchange, LaneAsk, TaskFilter
from shiftboss.store.postgres.sqltext import named_queries
from tests.pg_cluster import PostgresMissing

ROWS = 500
SENT = Produced(sent=100, seconds=12.5, latest_s=0.0)


def sample(
    at_s: float, pss_kib: int = 1, pending: int = 0, start_s: float = 0.001, claims: dict[str, int] | None = None
) -> Sample:
    return Sample(
        at_s=at_s,
        done_per_second=10.0,
        start=latency([start_s]),
        pending=pending,
        tasks_bytes=1,
        index_bytes=1,
        history_bytes=1,
        dead_rows=None,
        pss_kib=pss_kib,
        descriptors=5,
        claims=claims or {},
    )


def drained() -> Drain:
    one = spread([1.0])
    return Drain(
        tasks=1,
        per_second=one,
        ideal_per_second=0.0,
        enqueued_per_second=one,
        others_cores=one,
        cpu_us=one,
        server_cpu_us=one,
        cpu_us_per_task={},
        wal_bytes_per_task=None,
        commits_per_task=None,
        pss_kib={},
    )


def test_growth_is_that_of_the_second_half_so_a_start_is_no_leak() -> None:
    warm_up = [sample(0, 1_000), sample(60, 50_000), sample(120, 90_000)]
    steady = [sample(180, 90_100, 7), sample(240, 90_200, 9), sample(300, 90_300, 11), sample(360, 90_400, 13)]
    one = lasting(10.0, SENT, warm_up + steady, None)
    assert one.pss_kib_per_minute == pytest.approx(100.0)
    assert one.pending_per_minute == pytest.approx(2.0)
    assert (one.sent, one.sent_per_second) == (100, 8.0)
    assert "10 tasks a second (8 sent)" in str(program.lasting_table("postgres", one).title)


def test_samples_while_a_snapshot_was_held_are_kept_apart() -> None:
    samples = (sample(60, 1), sample(120, 1), sample(180, 1))
    one = lasting(10.0, SENT, samples, 120.0)
    assert ([s.at_s for s in one.between(pinned=False)], [s.at_s for s in one.between(pinned=True)]) == ([60, 120], [180])
    free: Lasting = lasting(10.0, SENT, samples, None)
    assert (len(free.between(pinned=False)), free.between(pinned=True)) == (3, [])


def test_a_held_snapshot_is_seen_beside_the_time_before_it() -> None:
    before = [sample(60, 1, 10, 0.002, {"0.0025": 99, "0.005": 1}), sample(120, 1, 20, 0.004, {"0.0025": 100})]
    held = [sample(180, 1, 40, 0.006, {"0.005": 100}), sample(240, 1, 90, 0.009, {"0.01": 100})]
    first, second = part(before), part(held)
    assert (first.p99_ms, first.worst_p99_ms, first.most_pending, first.pending_per_minute) == (2.0, 4.0, 20, 10.0)
    assert (second.p99_ms, second.worst_p99_ms, second.most_pending, second.pending_per_minute) == (6.0, 9.0, 90, 50.0)
    assert (first.claim_p99_ms, second.claim_p99_ms) == (pytest.approx(1 + 1.5 * 198 / 199), pytest.approx(5 + 5 * 98 / 100))
    ratios = by(second, first)
    assert ratios[1:3] == (3.0, 2.25)
    assert ratios[4] == pytest.approx((second.claim_p99_ms or 0) / (first.claim_p99_ms or 1))
    assert by(second, part([sample(60)]))[3:] == (None, None)  # of a result from before claims were counted
    one = lasting(10.0, None, before + held, 120.0)
    load, parts = program.tables(
        program.GrowthReport(
            started_at=datetime.now(UTC), machine={}, options={}, databases={"postgres": program.Grown(lasting=one)}
        )
    )
    assert str(load.title).endswith("broken off")
    assert list(parts.columns[2].cells) == ["2.0", "6.0", "3.00"]


@pytest.mark.long("postgres")
def test_a_lasting_load_that_is_broken_off_keeps_what_it_has_measured(target: Target) -> None:
    kept: list[Lasting] = []

    def keep(one: Lasting) -> None:
        kept.append(one)
        # The service stores its counters once a second, a stretch may end before it has done so.
        if len(one.samples) >= 2 and any(sample.claims for sample in one.samples):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(lambda: target, 50.0, 1.0, 0.0, 0.5, keep)
    assert [(len(one.samples), one.sent) for one in kept] == [(number, None) for number in range(1, len(kept) + 1)]


def test_only_waits_for_rows_and_transactions_count_against_claimers() -> None:
    waits = {"works": 90, "IO: WALSync": 7, "Lock: extend": 2, "LWLock: WALWrite": 1}
    assert Scene(drain=drained(), by_plain=spread([1.0]), waits=waits).waits_for_locks == 0
    seen = Counter({("works", "claim"): 90, ("Lock: extend", "claim"): 2, ("Lock: tuple", "end"): 3, ("works", "end"): 5})
    assert by_kind(seen) == ({"works": 95, "Lock: extend": 2, "Lock: tuple": 3}, {"claim": 0, "end": 3, "other": 0})
    waits |= {"Lock: transactionid": 3, "Lock: tuple": 1}
    assert Scene(drain=drained(), by_plain=spread([1.0]), waits=waits).waits_for_locks == 4


@pytest.mark.parametrize("target", ["postgres"], indirect=True)
@pytest.mark.parametrize(
    ("name", "kind"), [("claim", "claim"), ("complete_tasks", "end"), ("end_attempts", "end"), ("lanes", "other")]
)
def test_a_claimers_session_is_seen_with_its_statement(target: Target, name: str, kind: str) -> None:
    begins = named_queries()[name].split("AS (")[0]
    slow = (
        f"{begins}AS (SELECT 1 AS queue, 1 AS priority, pg_sleep(60)) SELECT 1 FROM {begins.split()[-1]} WHERE pg_sleep IS NULL"
    )
    with psycopg.connect(f"{target.url}&application_name=shiftboss%20claimer", autocommit=True) as busy, Filler(target) as asker:
        busy.pgconn.send_query(slow.encode())
        deadline_s = time.monotonic() + 10
        while not (seen := asker.rows("waits", who="shiftboss claimer%")) and time.monotonic() < deadline_s:
            pass
        busy.cancel()
        while busy.pgconn.get_result() is not None:
            pass
        assert [(which, number) for _what, which, number in seen] == [(kind, 1)]


@pytest.fixture(params=list(TARGETS))
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with ExitStack() as stack:
        try:
            new_target = stack.enter_context(TARGETS[request.param]())
        except PostgresMissing as missing:
            pytest.skip(str(missing))
        one = new_target()
        stack.callback(one.close)
        yield one


def test_finished_rows_are_there_for_the_store_to_read(target: Target) -> None:
    with Filler(target) as filler:
        filler.finished(ROWS)
    with store_of(target) as store:
        found = store.list_tasks(TaskFilter(type="mail:send"), ROWS + 1)
        assert len(found) == ROWS
        assert len({one.id for one in found}) == ROWS
        assert all(one.id[14] == "7" for one in found)  # a UUID of version 7, as the library makes them
        assert {(one.status, one.attempts) for one in found} == {("completed", 1)}
        assert [one.id for one in found] == [one.id for one in sorted(found, key=lambda one: one.enqueued_at, reverse=True)]


def test_future_rows_wait_in_the_lane_and_are_not_claimed(target: Target) -> None:
    with Filler(target) as filler:
        filler.future(ROWS)
        assert filler.rows("pending") == [(0,)]  # none is due
        assert filler.rows("done") == [(0,)]
        ((tasks_bytes, *_others),) = filler.rows("sizes")
        assert tasks_bytes > 0
    with store_of(target) as store:
        assert [(lane.queue, lane.priority) for lane in store.lanes(None)] == [("default", 0)]
        lane = LaneAsk(queue="default", priority=0, limit=10, since=None)
        ask = ClaimAsk(lanes=[lane], limit=10, running=10, types=[TypeInfo(type="bench:noop")])
        assert list(store.exchange(Exchange(worker_id="w", ended=[], claim=ask)).claims) == []


def test_a_pinned_snapshot_lasts_as_long_as_its_block(target: Target) -> None:
    with Filler(target) as pinner, Filler(target) as other:
        with pinner.pinned():
            other.future(3)
            ((before,),) = pinner.rows("pin_sees")
        ((after,),) = pinner.rows("pin_sees")
    assert (before, after) == (0, 3)


def test_settings_of_a_server_are_not_asked_of_sqlite() -> None:
    assert "synchronous_commit = off" in chosen(None, "postgres")
    assert not [name for name, change in chosen(None, "sqlite").items() if change.server]
    assert list(chosen("executors", "sqlite")) == ["executors = 1", "executors = 4"]


def test_bare_inserts_are_timed_for_each_way_of_forcing_them_to_the_disk(tmp_path: Path) -> None:
    assert {how: one.count for how, one in bare_inserts(tmp_path, 5).items()} == {"FULL": 5, "NORMAL": 5, "OFF": 5}
