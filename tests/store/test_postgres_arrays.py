"""Arrays in binary form: what the server reads is what was meant, and nothing else is taken for an id."""

from __future__ import annotations

from contextlib import closing

import pytest

from shiftboss.model import new_task_id
from shiftboss.store.postgres.arrays import BinaryArray, float_array, int_array, uuid_array
from shiftboss.store.postgres.store import open_postgres

UUID = "0190a0a0-1234-7abc-8def-0123456789ab"


def read_back(dsn: str, array: BinaryArray, cast: str) -> list[object]:
    with closing(open_postgres(dsn)) as store, store._link.connected() as connection:
        row = connection.execute(f"SELECT CAST(%s AS {cast})", (array,)).fetchone()
    assert row is not None
    return list(row[0])


def test_ids_arrive_as_they_are(pg_database: str) -> None:
    ids = [new_task_id() for _ in range(1_000)]
    array = uuid_array(ids)
    assert array is not None
    assert [str(one) for one in read_back(pg_database, array, "uuid[]")] == ids


@pytest.mark.parametrize("numbers", [[], [0], [-1, 2**63 - 1, -(2**63)]])
def test_whole_numbers_arrive_as_they_are(pg_database: str, numbers: list[int]) -> None:
    assert read_back(pg_database, int_array(numbers), "bigint[]") == numbers


@pytest.mark.parametrize("numbers", [[], [0.1], [1_790_000_000.123456, None, 5e-324, -0.0], [None]])
def test_numbers_and_nulls_arrive_as_they_are(pg_database: str, numbers: list[float | None]) -> None:
    assert read_back(pg_database, float_array(numbers), "double precision[]") == numbers


@pytest.mark.parametrize(
    "ids",
    [
        [""],
        ["x" * 36],
        [UUID[:-1]],
        [UUID + "0"],
        [UUID.replace("-", "")],
        [UUID, "no id"],
        [UUID[:-1], UUID + "0"],  # together as long as two
        [UUID[:-1] + " "],
        [UUID[:-2] + "-0"],
        [UUID[:-1] + ","],
        ["{" + UUID[1:-1] + "}"],
        ['"' + UUID[1:-1] + '"'],
        [f"{UUID},{UUID}"],
    ],
)
def test_what_is_no_id_is_not_taken_for_one(ids: list[str]) -> None:
    assert uuid_array(ids) is None
