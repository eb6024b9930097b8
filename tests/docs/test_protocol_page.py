"""The explanation's table of states is the code's."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

from shiftboss.model import MAX_REFUNDS, TASK_TRANSITIONS, Verdict
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/explanation/protocol.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]


def states(cell: str) -> list[str | None]:
    return [None if state == "(none)" else state for state in cell.split(", ")]


def test_states_of_the_page_are_the_table_in_the_code() -> None:
    shown: dict[tuple[str | None, str], set[str | None]] = defaultdict(set)
    for origins, event, targets, _effect in rows("States"):
        for origin, target in product(states(origins), states(targets)):
            shown[origin, event].add(target)
    assert shown == {key: set(targets) for key, targets in TASK_TRANSITIONS.items()}


def test_verdicts_of_the_page_are_those_of_the_code() -> None:
    assert [row[0] for row in rows("Verdicts")] == [verdict.value for verdict in Verdict]


def test_limit_of_refunds_is_the_one_in_the_code() -> None:
    assert f'"Up to a limit" is {MAX_REFUNDS} for each task' in PAGE
