"""The bench's arithmetic: a wrong percentile or CPU share would be believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import proc
from bench.__main__ import main
from bench.meter import Cost
from bench.producer import due_tasks
from bench.stats import latency, middle, of_buckets, percentile, ratio, slope, spread
from bench.target import logged_statements, unix_s


def test_percentile_is_a_measured_value_at_its_nearest_rank() -> None:
    hundred = list(range(100, 0, -1))
    assert [percentile(hundred, share) for share in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0


def test_a_percentile_of_counted_values_lies_within_its_bucket() -> None:
    bounds = (0.001, 0.0025, 0.005)
    assert of_buckets({"0.0025": 100}, bounds, 50) == pytest.approx(0.00175)
    assert of_buckets({"0.001": 98, "0.005": 2}, bounds, 99) == pytest.approx(0.00375)  # not from the empty bucket below
    assert of_buckets({"0.001": 1, "+Inf": 99}, bounds, 99) == 0.005


def test_latency_is_told_in_milliseconds() -> None:
    one = latency([0.001] * 98 + [0.004, 0.250])
    assert (one.p50_ms, one.p99_ms, one.max_ms, one.count) == (1.0, 4.0, 250.0, 100)


def test_spread_keeps_every_run_in_its_order() -> None:
    one = spread([30.0, 10.0, 20.0])
    assert (one.median, one.low, one.high, one.runs) == (20.0, 10.0, 30.0, (30.0, 10.0, 20.0))


def test_ratio_compares_the_runs_that_stood_next_to_each_other() -> None:
    one = ratio([10.0, 30.0, 40.0], [10.0, 10.0, 80.0])  # the machine was slow in the last round, for the first of the two
    assert one.runs == (1.0, 3.0, 0.5)
    assert (one.median, one.low, one.high) == (1.0, 0.5, 3.0)
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_middle_is_where_the_median_stands() -> None:
    for values in ([5.0], [2.0, 1.0], [30.0, 10.0, 20.0], [4.0, 2.0, 8.0, 6.0]):
        assert values[middle(values)] == spread(values).median


def test_slope_is_the_growth_per_unit() -> None:
    assert slope([(0, 5), (10, 25), (20, 45)]) == pytest.approx(2.0)
    assert slope([(0, 7), (1, 7), (2, 7)]) == 0.0
    assert slope([(3, 1), (3, 9)]) == slope([]) == 0.0


def test_both_databases_tell_the_same_moment() -> None:
    moment = datetime(2026, 1, 31, 8, 0, 0, 250_000, tzinfo=UTC)
    assert unix_s("2026-01-31 08:00:00.250000") == unix_s(moment) == moment.timestamp()


def test_role_is_the_word_after_the_module_of_actors() -> None:
    assert proc.role_of(["python", "-m", "shiftboss.actors.process", "executor", "5", ""]) == "executor"
    assert proc.role_of(["python", "-m", "shiftboss.actors.process"]) == "other"
    assert proc.role_of(["python", "-m", "shiftboss.service"]) == "other"


def test_cpu_time_and_memory_of_a_process_are_its_own() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 0.28 <= proc.cpu_s(child.pid) < 0.6
        assert child.pid in proc.children(os.getpid())
        assert 1_000 < proc.pss_kib(child.pid) < 200_000
        assert proc.cpu_by_role({child.pid: "one", 2**30: "gone"}) == {
            "one": pytest.approx(proc.cpu_s(child.pid), abs=0.01),
            "gone": 0.0,
        }
        child.communicate(b"\n")


def test_a_session_that_used_less_than_a_tick_has_used_something() -> None:
    """Twenty-five sessions of 8 ms each would be nothing at all by the ticks of 10 ms."""
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel does not count by the nanosecond")
    burn = """
import time
print(flush=True); input()
started = time.process_time()
while time.process_time() - started < 0.004: pass
print(flush=True); input()
"""
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before_s = proc.cpu_s(child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        assert 0.003 < proc.cpu_s(child.pid) - before_s < 0.009
        child.communicate(b"\n")


def test_unknown_section_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "drain,speed"])
    assert ended.value.code == 2
    assert "unknown: speed; known: enqueue, drain, busy, features, latency, idle, peers" in capsys.readouterr().err


def test_producer_sends_what_is_due_however_unevenly_it_is_called() -> None:
    sent = 0
    for elapsed_s in (0.05, 0.1, 0.35, 0.36, 1.0):
        sent += due_tasks(33.3, elapsed_s, sent)
        assert sent == int(33.3 * elapsed_s)
    assert due_tasks(33.3, 0.5, sent) == 0  # never takes back what was sent


def test_tree_has_children_of_children_and_nobody_else() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = proc.tree(child.pid)
        assert found[0] == child.pid
        assert len(found) == 2
        assert proc.children(child.pid) == found[1:]
        assert proc.descriptors(child.pid) >= 3
        child.communicate(b"\n")


def test_only_what_the_server_does_counts_as_the_servers() -> None:
    cpu_s = {"claimer": 1.0, "executor": 2.0, "session of shiftboss claimer": 4.0, "server": 8.0, "postmaster": 16.0}
    cost = Cost(seconds=1.0, others_cores=0.0, cpu_s=cpu_s)
    assert (cost.service_cpu_s, cost.server_cpu_s) == (3.0, 28.0)


def test_statements_of_an_idle_service_are_those_in_the_log_but_not_the_benchs_own() -> None:
    log = (
        "2026-11-22 23:44:58.123 UTC [11] LOG:  statement: BEGIN\n"
        "2026-11-22 23:44:58.124 UTC [11] LOG:  execute _pg3_2: SELECT 1\n\tFROM tasks\n"
        "2026-11-22 23:44:58.124 UTC [11] DETAIL:  parameters: $1 = NULL\n"
        "2026-11-22 23:44:58.125 UTC [12] LOG:  execute <unnamed>: SELECT 2\n"
        "2026-11-22 23:44:58.126 UTC [13] LOG:  checkpoint starting: time\n"
        "2026-11-22 23:44:58.127 UTC [99] LOG:  statement: SELECT 3\n"
    )
    assert (logged_statements(log, but_of=99), logged_statements(log, but_of=11)) == (3, 2)


def test_a_bench_that_fails_keeps_what_it_has_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        (part,) = tmp_path.glob("*.json")  # a machine that goes down now leaves it
        assert b'"single"' in part.read_bytes()
        raise RuntimeError("no more memory")

    monkeypatch.setattr("bench.__main__.idle.measure", fail)
    with pytest.raises(RuntimeError, match="no more memory"):
        main(["--quick", "--only", "enqueue,idle", "--database", "sqlite", "--tasks", "50", "--output", str(tmp_path)])
    (file,) = tmp_path.glob("*.json")
    figures = json.loads(file.read_text(encoding="utf-8"))["databases"]["sqlite"]
    assert figures["enqueue"]["single"]["ours"]["count"] > 0
    assert figures["idle"] is None
