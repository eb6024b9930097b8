"""The load beside a measurement: what it really was is known, and one that was not there is no load."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import latency, tables
from bench.latency import Latencies, Sent
from bench.producer import Produced, TooMuch, produce, produced, producing
from bench.report import Figures, Report
from shiftboss import Client
from shiftboss.store.base import TaskFilter
from shiftboss.store.open import open_store

TOO_MANY = 3_000_000.0
FEW = 200.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(url)
    store.migrate()
    store.close()
    return url


def test_a_producer_tells_what_it_stored_and_in_which_time(url: str) -> None:
    with producing(url, FEW, 0.5) as process:
        one = produced(process, 30)
    store = open_store(url)
    assert len(store.list_tasks(TaskFilter(), 1_000)) == one.sent
    store.close()
    assert 0 < one.sent <= 100, "all of them, but on a machine that is too busy"
    assert 0.4 <= one.seconds < 5
    assert one.per_second == one.sent / one.seconds


def test_a_producer_that_cannot_keep_up_ends_in_time_with_less(url: str) -> None:
    one = produce(url, TOO_MANY, 0.3)
    assert 0.3 <= one.seconds < 6, "one batch of 30,000 may be under way at the end, not all thirty"
    assert one.sent < 0.9 * TOO_MANY * 0.3
    with pytest.raises(AssertionError, match="of the 3,000,000 that were wanted"):
        one.check(TOO_MANY)


def test_nine_tenths_of_the_load_are_enough() -> None:
    Produced(sent=9_000, seconds=1.0, latest_s=0.0).check(10_000)
    with pytest.raises(AssertionError, match="8,999 tasks a second of the 10,000"):
        Produced(sent=8_999, seconds=1.0, latest_s=0.0).check(10_000)


def test_a_producer_that_fails_is_no_load(tmp_path: Path) -> None:
    with (
        producing(f"sqlite:///{tmp_path}/nowhere/tasks.db", FEW, 0.1) as process,
        pytest.raises(AssertionError, match="ended with 1"),
    ):
        produced(process, 30)


def target_at(url: str) -> Any:
    return SimpleNamespace(url=url)


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What is measured while the load runs, at once: no service takes what is enqueued here."""
    sent = Sent([0.002], [0.001])
    monkeypatch.setattr(latency, "pace", lambda *_: sent)
    return sent


def test_latency_beside_a_load_that_was_not_there_is_no_figure(url: str, probed: Sent) -> None:
    with Client(url) as client, pytest.raises(AssertionError, match="not measured under that load"):
        latency._loaded(client, target_at(url), 0.03, 3, TOO_MANY)


def test_a_load_that_the_machine_does_not_manage_is_lowered_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def run(_client: object, _target: object, _every_s: float, _count: int, load_per_second: float) -> Sent:
        asked.append(load_per_second)
        if load_per_second > manages:
            raise TooMuch
        return Sent([0.002], [0.001], Produced(sent=int(load_per_second), seconds=1.0, latest_s=0.0))

    monkeypatch.setattr(latency, "_loaded", run)
    nobody: Any = None
    loaded, manages = latency._Loaded(1_000.0, 3), 1_000.0
    loaded.add(nobody, nobody)
    manages = 700.0  # a slow minute
    for _ in range(2):
        loaded.add(nobody, nobody)
    assert asked == pytest.approx([1_000, 1_000, 800, 640, 640])
    assert len(loaded.runs) == 2, "the first was under another load"
    wakeup = latency._wakeup(0.03, loaded.per_second, loaded.runs, 1_000.0)
    assert tables._load(wakeup) == " under 640 (640–640) a second of 640 (1,000 could not be had)"
    manages = 100.0
    with pytest.raises(TooMuch):
        loaded.add(nobody, nobody)


def test_latency_is_shown_with_the_load_that_there_was(url: str, probed: Sent) -> None:
    with Client(url) as client:
        loaded = latency._loaded(client, target_at(url), 0.03, 3, FEW)
    assert (loaded.start_s, loaded.commit_s) == (probed.start_s, probed.commit_s)
    given = [Sent([0.002], [0.001], Produced(sent=sent, seconds=2.0, latest_s=0.0), [0.004]) for sent in (380, 390, 400)]
    wakeups = (latency._wakeup(0.5, 0.0, [probed]), latency._wakeup(0.03, FEW, given), latency._wakeup(0.03, FEW, [loaded]))
    measured = wakeups[-1].loaded_per_second
    assert measured is not None
    assert 0.9 * FEW <= measured.median <= FEW
    figures = Figures(latency=Latencies(wakeups=wakeups, bare=None, p50_of_bare=None, p99_of_bare=None))
    (table,) = tables.tables(
        Report(started_at=datetime(2026, 1, 31, tzinfo=UTC), machine={}, quick=False, databases={"sqlite": figures})
    )
    first, _, second, _, third, *_ = table.columns[0].cells
    assert first == "sqlite, one every 500 ms: enqueue to start"
    assert second == "sqlite, one every 30 ms under 195 (190–200) a second of 200: enqueue to start"
    assert third == "sqlite, one every 30 ms under 195 (190–200) a second of 200: bare INSERT and NOTIFY to DELETE and commit"
    assert list(table.columns[1].cells)[4] == "4.00"
