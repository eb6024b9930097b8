"""What commands print: JSON for programs, tables for people; what comes from tasks is escaped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import typer

from shiftboss.cli.exits import json_text, visible

_GAP: Final = "  "
_WIDEST: Final = 10_000


def print_json(data: object) -> None:
    """One JSON document; indented on a terminal."""
    typer.echo(json_text(data, indented=sys.stdout.isatty()))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """A table for people: framed on a terminal, columns of plain text elsewhere. `empty` is said when there are no rows."""
    cells = [[cell(value) for value in row] for row in rows]
    if not cells:
        typer.echo(empty, err=True)
    elif sys.stdout.isatty():
        _print_framed(columns, cells)
    else:
        _print_plain(columns, cells)


def cell(value: object) -> str:
    """A value as people read it: times in UTC to the second, nothing as `-`, control characters made visible."""
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, bytes | msgspec.Raw):
        return visible(bytes(value).decode(errors="replace"))
    return visible(str(value))


def clip(text: str | None, limit: int) -> str:
    """At most `limit` characters of the first line."""
    line = (text or "").partition("\n")[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"


def counted(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [[column.upper() for column in columns], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo(_GAP.join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _print_framed(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box  # 60 ms that scripts need not pay
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    # A line that is too long is wrapped by the terminal, and an id in it can still be copied in one piece.
    console = Console()
    console.width = max(console.width, console.measure(table, options=console.options.update(width=_WIDEST)).maximum)
    console.print(table)
