"""What a failed attempt leaves for people: short, on one line, and nothing that a terminal would obey."""

from __future__ import annotations

import pytest

from shiftboss.failure import error_line, traceback_text
from shiftboss.model import MAX_ERROR_CHARS, MAX_TRACEBACK_CHARS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\nlines\tand a tab", "ValueError: two lines and a tab"),
        ("\x1b[2J\x07", "ValueError: \\x1b[2J\\x07"),
        ("\x9b31m\x7f", "ValueError: \\x9b31m\\x7f"),
        ("abc\u202egnp.exe", "ValueError: abc\\u202egnp.exe"),
        ("half \ud800, \0", "ValueError: half \\ud800, \\x00"),
        ("naïve — 漢字 🙂", "ValueError: naïve — 漢字 🙂"),
    ],
)
def test_an_error_is_one_line_without_control_characters(text: str, expected: str) -> None:
    assert error_line(ValueError(text)) == expected


@pytest.mark.parametrize("text", ["x" * 50_000_000, "\x1b" * 1_000_000], ids=["long", "longer when escaped"])
def test_whatever_its_size_it_is_cut(text: str) -> None:
    assert len(error_line(ValueError(text))) == MAX_ERROR_CHARS
    assert len(traceback_text(ValueError(text))) == MAX_TRACEBACK_CHARS


def test_a_traceback_keeps_its_lines_and_nothing_else_that_moves_a_cursor() -> None:
    text = traceback_text(ValueError("first\nsecond \x1b[31m\r"))
    assert text.splitlines() == ["ValueError: first", "second \\x1b[31m\\r"]
