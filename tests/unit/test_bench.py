"""The bench's arithmetic: a wrong percentile or CPU share would be believed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from bench import proc
from bench.__main__ import main
from bench.stats import latency, percentile, spread
from bench.target import unix_s


def test_percentile_is_a_measured_value_at_its_nearest_rank() -> None:
    hundred = list(range(100, 0, -1))
    assert [percentile(hundred, share) for share in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0


def test_latency_is_told_in_milliseconds() -> None:
    one = latency([0.001] * 98 + [0.004, 0.250])
    assert (one.p50_ms, one.p99_ms, one.max_ms, one.count) == (1.0, 4.0, 250.0, 100)


def test_spread_keeps_every_run_in_its_order() -> None:
    one = spread([30.0, 10.0, 20.0])
    assert (one.median, one.low, one.high, one.runs) == (20.0, 10.0, 30.0, (30.0, 10.0, 20.0))


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
        assert proc.cpu_by_role({child.pid: "one", 2**30: "gone"}) == {"one": proc.cpu_s(child.pid), "gone": 0.0}
        child.communicate(b"\n")


def test_unknown_section_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "drain,speed"])
    assert ended.value.code == 2
    assert "unknown: speed; known: enqueue, raw, drain, latency, idle" in capsys.readouterr().err
