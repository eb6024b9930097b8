"""`python -m bench.pages RESULT.json …`: write the figures of results into the pages that show them.

Each kind of result has its place between two marks, `<!-- bench -->` and `<!-- end of bench -->` say, and what stands there is
replaced. A page with no such place is left as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.table import Table

from bench import tables, tuning
from bench.growth import __main__ as growth_program
from bench.report import Report

_ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = (_ROOT / "docs/explanation/performance.md", _ROOT / "docs/operations/PERFORMANCE_TUNING.md")
KINDS: Final = ("bench", "peers", "growth", "tuning")


def kind_of(path: Path) -> str:
    """What a result's name says that it is: `20260131T080000Z-growth.json`."""
    kind = path.stem.partition("-")[2] or "bench"
    if kind not in KINDS:
        raise ValueError(f"{path.name}: a result of kind {kind} is not known; known: {', '.join(KINDS)}")
    return kind


def text_of(path: Path) -> str:
    """A result as Markdown: when and on what it was taken, and its tables."""
    kind, content = kind_of(path), path.read_bytes()
    match kind:
        case "growth":
            grown = msgspec.json.decode(content, type=growth_program.GrowthReport)
            return _text(grown.started_at, grown.machine, growth_program.tables(grown))
        case "tuning":
            tuned = msgspec.json.decode(content, type=tuning.TuningReport)
            return _text(tuned.started_at, tuned.machine, tuning.tables(tuned))
        case _:
            report = msgspec.json.decode(content, type=Report)
            return _text(report.started_at, report.machine, tables.tables(report))


def markdown(table: Table) -> str:
    """A table of the terminal as one of a page."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    rows = [[_cell(column[place]) for column in columns] for place in range(table.row_count + 1)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"| {' | '.join('---:' if column.justify == 'right' else '---' for column in table.columns)} |"
    return "\n".join((f"**{table.title}**", "", lines[0], rule, *lines[1:]))


def placed(page: str, kind: str, text: str) -> str:
    """The page with this text in its place; the page as it was when it has none."""
    begin, end = f"<!-- {kind} -->", f"<!-- end of {kind} -->"
    before, found, rest = page.partition(begin)
    _old, ended, after = rest.partition(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}" if found and ended else page


def _text(started_at: datetime, machine: dict[str, str], made: Iterable[Table]) -> str:
    return "\n\n".join((f"Taken on {started_at:%d %B %Y}: {tables.machine_line(machine)}.", *map(markdown, made)))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    """Exit 0 when every result found its place, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    homeless = False
    for path in parser.parse_args(arguments).results:
        text, found = text_of(path), False
        for page in PAGES:
            old = page.read_text(encoding="utf-8")
            new = placed(old, kind_of(path), text)
            page.write_text(new, encoding="utf-8")
            found = found or f"<!-- {kind_of(path)} -->" in old
        print(f"{path.name}: {'written' if found else 'no page has a place for it'}")
        homeless = homeless or not found
    return 1 if homeless else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
