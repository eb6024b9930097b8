"""Moments as SQLite keeps them: text that sorts, in UTC whatever zone they come in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from shiftboss.store.sqlite.times import from_text, to_text, unix_to_text


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 31, 8, 0, 0, 7, tzinfo=UTC), "2026-01-31 08:00:00.000007"),
        (datetime(2026, 1, 31, 8, tzinfo=UTC), "2026-01-31 08:00:00.000000"),
        (datetime(2026, 1, 31, 8, tzinfo=ZoneInfo("UTC")), "2026-01-31 08:00:00.000000"),
        (datetime(2026, 1, 31, 1, tzinfo=timezone(timedelta(hours=2))), "2026-01-30 23:00:00.000000"),
        (datetime(2026, 10, 25, 2, 30, fold=0, tzinfo=ZoneInfo("Europe/Oslo")), "2026-10-25 00:30:00.000000"),
        (datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Oslo")), "2026-10-25 01:30:00.000000"),
        (datetime.min.replace(tzinfo=UTC), "0001-01-01 00:00:00.000000"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31 23:59:59.999999"),
    ],
)
def test_a_moment_is_kept_in_utc_to_the_microsecond(moment: datetime, text: str) -> None:
    assert to_text(moment) == text
    assert from_text(text) == moment.astimezone(UTC)


def test_both_ways_to_text_agree() -> None:
    moment = datetime(2026, 7, 1, 12, 34, 56, 123456, tzinfo=UTC)
    assert unix_to_text(moment.timestamp()) == to_text(moment)
