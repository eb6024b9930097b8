"""Figures get from a result's file into the page's place for them, and nothing else of the page changes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from test_growth import drained

from bench import pages
from bench.growth.__main__ import Grown, GrowthReport
from bench.growth.scenes import Scene
from bench.peers import compare
from bench.peers.compare import Run
from bench.peers.known import OURS, PEERS
from bench.report import Report, write_json
from bench.stats import spread
from bench.tables import new_table

AT = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
MACHINE = {"cores": "2", "cpu": "AMD EPYC"}


def test_table_of_the_terminal_becomes_one_of_a_page() -> None:
    table = new_table("Rates", "a second", "ratio")
    table.add_row("sqlite | sync", "23,000", "0.90")
    assert pages.markdown(table).splitlines() == [
        "**Rates**",
        "",
        "|  | a second | ratio |",
        "| --- | ---: | ---: |",
        "| sqlite \\| sync | 23,000 | 0.90 |",
    ]


def test_only_the_text_between_the_marks_is_replaced() -> None:
    page = "# Performance\n\n<!-- growth -->\nold\n<!-- end of growth -->\n\nWhy so.\n"
    new = pages.placed(page, "growth", "new")
    assert new == "# Performance\n\n<!-- growth -->\n\nnew\n\n<!-- end of growth -->\n\nWhy so.\n"
    assert pages.placed(new, "growth", "new") == new
    assert pages.placed(page, "bench", "new") == page
    assert pages.placed("<!-- bench --> with no end", "bench", "new") == "<!-- bench --> with no end"


def test_results_of_each_kind_are_read_by_their_names(tmp_path: Path) -> None:
    run = Run(enqueue_s=1.0, ran_s=1.0, seconds=2.0, worker_cpu_s=0.1, server_cpu_s=0.1)
    peers = compare.compared([OURS[0], PEERS[0]], 1000, {0: [run], 1: []}, {}, {1: "no network"})
    report = Report(started_at=AT, machine=MACHINE, quick=False, databases={}, peers=peers)
    text = pages.text_of(write_json(report, AT, tmp_path, "peers"))
    assert text.startswith("Taken on 31 January 2026: cores 2, cpu AMD EPYC.")
    assert "| Shiftboss here, postgres | 5,000 | 2,500 (2,500–2,500) |" in text
    assert "absent: no network" in text
    scene = Scene(drain=drained(), by_plain=spread([0.9, 1.0, 1.1]))
    grown = GrowthReport(started_at=AT, machine=MACHINE, options={}, databases={"sqlite": Grown(scenes={"1,000 queues": scene})})
    assert "| sqlite, 1,000 queues | 1 (1–1) | 1.00 (0.90–1.10) |" in pages.text_of(write_json(grown, AT, tmp_path, "growth"))


def test_result_that_no_page_knows_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind speed is not known; known: bench, peers, growth, tuning"):
        pages.text_of(tmp_path / "20260131T080000Z-speed.json")


def test_results_are_written_into_the_pages_or_said_to_have_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- growth -->\n<!-- end of growth -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(pages, "PAGES", (page,))
    scene = Scene(drain=drained(), by_plain=spread([1.0]))
    grown = GrowthReport(started_at=AT, machine=MACHINE, options={}, databases={"sqlite": Grown(scenes={"8 workers": scene})})
    result = write_json(grown, AT, tmp_path, "growth")
    assert pages.main([str(result)]) == 0
    assert "| sqlite, 8 workers |" in page.read_text(encoding="utf-8")
    report = Report(started_at=AT, machine=MACHINE, quick=False, databases={})
    assert pages.main([str(write_json(report, AT, tmp_path))]) == 1
    assert "no page has a place for it" in capsys.readouterr().out


def test_every_kind_of_result_has_its_place_in_the_docs() -> None:
    every = "".join(page.read_text(encoding="utf-8") for page in pages.PAGES)
    for kind in pages.KINDS:
        assert every.count(f"<!-- {kind} -->") == every.count(f"<!-- end of {kind} -->") == 1, kind
