"""The programs themselves, small: every figure is there, and their own checks (each task ended once) have passed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.service import Service, ServiceFailed
from tests.pg_cluster import PostgresMissing, find_server_programs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def report_of(folder: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", *words, "--output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=570)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.glob("*.json")
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        try:
            find_server_programs()
        except PostgresMissing as missing:
            pytest.skip(str(missing))
    return str(request.param)


def test_quick_bench_has_every_figure(tmp_path: Path, database: str) -> None:
    figures = report_of(tmp_path, "bench", "--quick", "--database", database)["databases"][database]
    sync = figures["drain"]["loads"]["sync"]
    assert sync["tasks"] == 4_000
    assert sync["per_second"]["median"] > 100
    assert sync["cpu_us_per_task"]["claimer"] > 0
    assert figures["drain"]["share_of_raw"]["sync"]["median"] > 0
    assert figures["drain"]["loads"]["sync, no history"]["per_second"]["median"] > 100
    assert figures["enqueue"]["single"]["rate"]["median"] > 0
    assert figures["latency"]["wakeups"][0]["start"]["count"] == 40
    assert figures["idle"]["service_pss_kib"]["median"] > figures["idle"]["bare_pss_kib"]["median"] > 10_000
    statements = figures["idle"]["statements_per_second"]
    assert 0 < statements["median"] < 5 if database == "postgres" else statements is None
    assert figures["idle"]["ready_s"]["median"] > 0
    if database == "postgres":
        assert figures["latency"]["bare"]["count"] == figures["latency"]["bare_taking"]["count"] == 40
        assert figures["latency"]["p50_of_bare_taking"]["median"] > 0
        loaded = [wakeup for wakeup in figures["latency"]["wakeups"] if wakeup["load_per_second"]]
        assert [wakeup["bare_taking"]["count"] for wakeup in loaded] == [40]
        assert sync["wal_bytes_per_task"] > 100
        assert 0 < sync["commits_per_task"] < 1  # a transaction is for many
        assert sync["cpu_us_per_task"]["session of shiftboss claimer"] > 0


def test_growth_has_every_part(tmp_path: Path, database: str) -> None:
    sizes = ["--rows", "5000", "--tasks", "1000", "--runs", "1", "--queues", "20", "--workers", "2"]
    lasting = ["--minutes", "0.05", "--pinned-minutes", "0.05", "--rate", "100", "--stretch", "1.5"]
    grown = report_of(tmp_path, "bench.growth", "--database", database, *sizes, *lasting)["databases"][database]
    workers = {"1 workers", "2 workers", "2 workers, a database each"}
    assert set(grown["scenes"]) == {"5,000 finished tasks", "5,000 due tomorrow", "20 queues"} | workers
    assert {grown["scenes"][name]["drain"]["tasks"] for name in workers} == {5_000}
    one = grown["lasting"]
    assert one["pinned_from_s"] == 3.0
    assert one["sent"] > 0
    assert {sample["at_s"] > 3.0 for sample in one["samples"]} == {True, False}


def test_a_service_that_ends_before_it_is_ready_is_told_from_one_that_hangs(tmp_path: Path) -> None:
    with pytest.raises(ServiceFailed, match=r"ended with \d+ before it was ready\n(.|\n)*missing"):
        Service(f"sqlite:///{tmp_path}/missing/tasks.db", tmp_path).__enter__()


def test_ours_runs_by_the_rules_of_the_comparison(tmp_path: Path, database: str) -> None:
    peers = report_of(tmp_path, "bench.peers", "--only", "none", "--jobs", "500", "--runs", "1", "--pickups", "5")["peers"]
    ours, *others = [peer for peer in peers if peer["store"] == database]
    assert (ours["name"], ours["absent"], ours["pickup"]["count"]) == ("Shiftboss", "", 5)
    assert ours["ours_by_theirs"]["median"] == 1.0
    ran = [(peer["name"], peer["absent"], peer["pickup"]["count"]) for peer in others]
    assert ran == ([("Shiftboss, no history", "", 5)] if database == "postgres" else [])
