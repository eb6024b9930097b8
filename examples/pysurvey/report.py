"""The last task's work: from thousands of results in the store to one page."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from examples.pysurvey.measure import Measures
from shiftboss.model import TaskState
from shiftboss.store.base import Store, TaskFilter
from shiftboss.store.open import open_store

_PAGE: Final = 500
_TOP: Final = 5
FILE_TYPES: Final = ("survey:file", "survey:file_async")


@dataclass(frozen=True, slots=True)
class Summary:
    """All files in figures; sizes in bytes."""

    files: int
    size: int
    compressed: int
    lines: int
    functions: int
    classes: int
    encodings: dict[str, int]
    largest: list[Measures]
    longest_functions: list[Measures]
    most_nested: list[Measures]


def write_report(database_url: str, folder: str, on_page: Callable[[int], None]) -> Summary:
    """Read every result, write `report.json` and `report.md` into `folder`.

    Args:
        on_page: told after each page how many results were read.

    Raises:
        StoreError: the database refused.
        OSError: the folder cannot be written.
    """
    store = open_store(database_url)
    try:
        summary = summarise(_results(store, on_page))
    finally:
        store.close()
    Path(folder, "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2))
    Path(folder, "report.md").write_text(as_markdown(summary), encoding="utf-8")
    return summary


def _results(store: Store, on_page: Callable[[int], None]) -> Iterator[Measures]:
    done = 0
    for type_ in FILE_TYPES:
        which, before = TaskFilter(type=type_, status=TaskState.COMPLETED), None
        while page := store.list_tasks(which, _PAGE, before):
            before = page[-1].id
            done += len(page)
            on_page(done)
            for task in page:
                if task.result is not None:
                    yield msgspec.json.decode(task.result, type=Measures)


def summarise(results: Iterator[Measures]) -> Summary:
    """Add up; keeps all results in memory, a few hundred bytes each."""
    files = list(results)
    return Summary(
        files=len(files),
        size=sum(file.size for file in files),
        compressed=sum(file.compressed for file in files),
        lines=sum(file.lines for file in files),
        functions=sum(file.functions for file in files),
        classes=sum(file.classes for file in files),
        encodings=dict(Counter(file.encoding for file in files).most_common()),
        largest=heapq.nlargest(_TOP, files, key=lambda file: file.size),
        longest_functions=heapq.nlargest(_TOP, files, key=lambda file: file.longest_lines),
        most_nested=heapq.nlargest(_TOP, files, key=lambda file: file.nesting),
    )


def as_markdown(summary: Summary) -> str:
    """The page for people."""
    encodings = ", ".join(f"{name} {count:,}" for name, count in summary.encodings.items())
    return "\n".join(
        [
            "# Survey of Python source",
            "",
            f"{summary.files:,} files, {summary.lines:,} lines, {summary.size:,} bytes ({summary.compressed:,} compressed),",
            f"{summary.functions:,} functions, {summary.classes:,} classes. Encodings: {encodings or 'none'}.",
            "",
            *_ranking("Largest files", [(file.path, f"{file.size:,} bytes") for file in summary.largest]),
            *_ranking(
                "Longest functions",
                [(file.path, f"`{file.longest}`, {file.longest_lines:,} lines") for file in summary.longest_functions],
            ),
            *_ranking("Deepest nesting", [(file.path, f"{file.nesting} levels") for file in summary.most_nested]),
        ]
    )


def _ranking(title: str, rows: list[tuple[str, str]]) -> list[str]:
    return [f"## {title}", "", *(f"- {what}: `{path}`" for path, what in rows), ""]
