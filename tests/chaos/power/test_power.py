"""The power fails while the store works: nothing acknowledged is lost. And the same with less than FULL, which must lose."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.power.check import Verdicts, complete
from tests.chaos.power.disk import SECTOR, Disk, Sync, Write
from tests.chaos.power.run import Tally, run
from tests.chaos.power.work import record


def told(tally: Tally, seed: int) -> str:
    bad = [f"cut {cut.seed} after {cut.at} operations: {cut.verdict}: {cut.text[:300]}" for cut in tally.bad]
    return f"seed {seed}, {tally.incomplete} incomplete records, {dict(tally.verdicts)}\n" + "\n".join(bad)


def test_a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() -> None:
    seed = random.randrange(1 << 30)
    tally = run(seed, 500, 1, "FULL")
    assert tally.good, told(tally, seed)
    assert tally.cuts == 500
    # A record in which nothing delicate happens shows nothing: the log was checkpointed, removed, and made anew.
    assert tally.syncs > 100
    assert {"enqueue", "exchange", "restart", "read_for_a_while"} <= set(tally.steps)


@pytest.mark.parametrize(
    ("level", "expected"), [("NORMAL", {Verdicts.LOST}), ("OFF", {Verdicts.LOST, Verdicts.CORRUPT})], ids=["NORMAL", "OFF"]
)
def test_less_than_full_is_seen_to_lose_work(level: str, expected: set[Verdicts]) -> None:
    tally = run(1, 200, 1, level)
    assert expected <= set(tally.verdicts), told(tally, 1)


def test_a_write_that_was_not_seen_makes_the_record_worthless(tmp_path: Path) -> None:
    recording = record(tmp_path, {}, "seed", 15)
    assert complete(recording)
    last = max(number for number, one in enumerate(recording.operations) if isinstance(one, Write) and one.data)
    recording.operations.pop(last)
    assert not complete(recording)


def test_what_was_synced_survives_and_the_rest_may_be_anything() -> None:
    disk = Disk({})
    for operation in (Write("a", 0, b"1" * 3 * SECTOR), Sync("a", 1, True), Write("a", 0, b"2" * 2 * SECTOR)):
        disk.apply(operation)
    assert disk.as_written() == {"a": b"2" * 2 * SECTOR + b"1" * SECTOR}
    seen = {tuple(image["a"][at] for at in (0, SECTOR, 2 * SECTOR)) for image in (disk.cut(random.Random(n)) for n in range(200))}
    one, two = ord("1"), ord("2")
    assert seen == {(one, one, one), (two, one, one), (one, two, one), (two, two, one)}


def test_a_sync_covers_what_was_written_before_it_began() -> None:
    disk = Disk({"a": b"old"})
    for operation in (Write("a", 0, b"new"), Sync("a", 0, False)):
        disk.apply(operation)
    assert {disk.cut(random.Random(n))["a"] for n in range(50)} >= {b"old", b"new"}


def test_a_new_file_has_no_name_before_its_folder_is_synced() -> None:
    disk = Disk({})
    disk.apply(Write("a", 0, b"x"))
    disk.apply(Sync("a", 1, False))
    assert {len(disk.cut(random.Random(n))) for n in range(50)} == {0, 1}
    disk.apply(Sync("a", 2, True))
    assert all(disk.cut(random.Random(n)) == {"a": b"x"} for n in range(50))
