"""Every command and every file that the documentation shows is run, and answers as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Reader

RUN = [ROOT / "README.md", ROOT / "docs/tutorial.md", *sorted((ROOT / "docs/howto").glob("*.md"))]
ALL = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_what_the_page_shows_works(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    variables = {}
    if "<!-- needs: postgresql -->" in page.read_text(encoding="utf-8"):
        variables["DATABASE_URL"] = str(request.getfixturevalue("pg_database"))
    Reader(page, tmp_path, variables).follow()


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_of_the_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    broken = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not broken


def test_a_wrong_answer_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one; echo two\none\nthree\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:1: expected"):
        Reader(page, tmp_path, {}).follow()
    page.write_text("```console\n$ echo one; echo two\n…\ntwo\n```\n")
    Reader(page, tmp_path, {}).follow()
