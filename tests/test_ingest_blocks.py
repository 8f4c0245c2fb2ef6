"""What values mean: ids, splits, times; what is wrong is counted, with rows and without ids."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tru_core.errors import DataError
from workflows.ingest.blocks import read_block, read_ids
from workflows.ingest.columns import Columns
from workflows.ingest.interactions import IdCounts, Scan, order_ids, rewritten_ids
from workflows.ingest.layouts import TableFile
from workflows.ingest.problems import Problem, find_problem, merge_problems, raise_problems
from workflows.ingest.times import UnitCount, count_units, odd_times, read_times

PARQUET = TableFile("a.parquet", "/a.parquet", {})
TEXT = TableFile("a.csv", "/a.csv", {}, delimiter=",")
NOW_MS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)


def _ids(values: pa.Array, file: TableFile) -> tuple[list[Any], list[Problem]]:
    ids, problems = read_ids(pa.chunked_array([values]), np.arange(len(values)), file=file, column="user_id")
    return ids.to_pylist(), problems


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([0, 7, 2**62]), ["0", "7", str(2**62)]),
        (pa.array([2**64 - 1], type=pa.uint64()), [str(2**64 - 1)]),
        (pa.array([5, 6], type=pa.int8()), ["5", "6"]),
        (pa.array([1.0, 3.0, 2.0**40]), ["1", "3", str(2**40)]),
        (pa.array([1.0, 2.0], type=pa.float32()), ["1", "2"]),
        (pa.array(["a", "b", "1e5", "007", "é"]), ["a", "b", "1e5", "007", "é"]),
        (pa.array([" b ", "1.0", "c    ", '"0017"', '="0018"']), ["b", "1", "c", "0017", "0018"]),
        (pa.array([b"x", b" 7 "], pa.large_binary()), ["x", "7"]),
        (pa.array(["x", "7.0"], pa.string_view()), ["x", "7"]),
        (pa.array([Decimal("17"), Decimal("18")], pa.decimal128(20, 0)), ["17", "18"]),
        (pa.array([Decimal("17.00")], pa.decimal256(60, 2)), ["17"]),
        (pa.array([5, 6, 5]).dictionary_encode(), ["5", "6", "5"]),
        (pa.array([5.0, 6.0]).dictionary_encode(), ["5", "6"]),
        (pa.array(["x"], type=pa.large_string()), ["x"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
    ],
)
def test_ids_of_all_types_are_read_to_the_same_text(values: pa.Array, expected: list[str]) -> None:
    assert _ids(values, PARQUET) == (expected, [])
    assert _ids(values, TEXT) == (expected, [])


def test_ids_of_text_files_are_trimmed_and_whole_floats_are_integers() -> None:
    values = pa.array([" a ", "7", "7.0", "12.", "007", "1e5", "B00X"])
    assert _ids(values, TEXT) == (["a", "7", "7", "12", "007", "1e5", "B00X"], [])


@pytest.mark.parametrize(
    ("values", "file", "found", "rows"),
    [
        (pa.array([1, None, 3, None]), PARQUET, "no id", (2, 4)),
        (pa.array(["a", "", None]), PARQUET, "no id", (2, 3)),
        (pa.array(["a", "  ", None]), TEXT, "no id", (2, 3)),
        (pa.array(["a", "None", '"nan"', "<NA>", "#N/A"]), PARQUET, "no id", (2, 3, 4, 5)),
        (pa.array([1, -2, 3]), PARQUET, "negative ids", (2,)),
        (pa.array([-1.0, 3.0]), PARQUET, "negative ids", (1,)),
        (pa.array(["-5", "5", "-a"]), TEXT, "negative ids", (1,)),
        (pa.array([b"a", b"\xff\xfe"]), PARQUET, "control characters or undecodable bytes", (2,)),
        (pa.array(["a", "b\x1b[2J", "c\x00"]), TEXT, "control characters or undecodable bytes", (2, 3)),
        (pa.array([Decimal("1.5"), Decimal("2.0")]), PARQUET, "fractions", (1,)),
        (
            pa.array([1.0, 1.5, 1e20, float("nan")]),
            PARQUET,
            "fractions, NaN or floats too large to be exact",
            (2, 3, 4),
        ),
        (pa.array([float("inf"), 2.0**53]), PARQUET, "fractions, NaN or floats too large to be exact", (1, 2)),
        (pa.array(["1.5", "2.0"]), TEXT, "fractions", (1,)),
    ],
)
def test_wrong_ids_are_found_with_their_rows(
    values: pa.Array, file: TableFile, found: str, rows: tuple[int, ...]
) -> None:
    _, problems = _ids(values, file)
    assert [(problem.found, problem.rows) for problem in problems] == [(found, rows)]


@pytest.mark.parametrize(
    ("ids", "ordered", "are_integers"),
    [
        (["10", "9", "100", "0"], ["0", "9", "10", "100"], True),
        (["10", "9", "a"], ["10", "9", "a"], False),
        (["010", "9"], ["010", "9"], False),
        (["é", "z", "Z", "ä"], ["Z", "z", "ä", "é"], False),
        ([str(10**30), str(10**29), "5"], ["5", str(10**29), str(10**30)], True),
    ],
)
def test_rows_follow_the_numbers_or_else_the_bytes(ids: list[str], ordered: list[str], are_integers: bool) -> None:
    vocabulary = order_ids(pa.array(ids))
    assert vocabulary.ids.to_pylist() == ordered
    assert vocabulary.are_integers is are_integers


def _block(split: pa.Array, *, file: TableFile = PARQUET) -> tuple[list[int], list[Problem]]:
    table = pa.table({"u": pa.array(["1"] * len(split)), "i": pa.array(["2"] * len(split)), "s": split})
    columns = Columns("u", "i", "s", None)
    block, problems = read_block(table, np.arange(len(split)), file=file, columns=columns, now_ms=NOW_MS)
    return block.split.tolist(), problems


def test_a_split_is_read_from_words_and_numbers() -> None:
    assert _block(pa.array([" Train", "valid", "val", "validation", "TEST"])) == ([0, 1, 1, 1, 2], [])
    assert _block(pa.array([0, 1, 2], type=pa.int8())) == ([0, 1, 2], [])


def test_other_words_and_gaps_in_the_split_are_found() -> None:
    _, problems = _block(pa.array(["train", "dev", None, "3"]))
    assert [(problem.column, problem.rows, problem.num_rows) for problem in problems] == [("s", (2, 3, 4), 3)]


@pytest.mark.parametrize(
    ("ids", "rows"),
    [
        (["17", "12e5", "18", "1E3"], (2, 4)),
        (["17", "17,0", "1,234"], (2, 3)),
        (["12e5", "12e5"], (1, 2)),
        (["17", "18", "0019"], ()),
        (["12e5", "3fa9", "17"], ()),
        (["Anna", "1,234", "12,7"], ()),
        (["12,7", "3,5"], ()),
    ],
)
def test_numbers_that_a_spreadsheet_rewrote_are_refused_among_whole_numbers_only(
    ids: list[str], rows: tuple[int, ...]
) -> None:
    table = pa.table({"u": pa.array(ids), "i": pa.array(["x"] * len(ids))})
    columns = Columns("u", "i", None, None)
    block, problems = read_block(table, np.arange(len(ids)), file=TEXT, columns=columns, now_ms=NOW_MS)
    assert problems == []
    users = IdCounts(pc.unique(block.users), np.zeros(0), np.zeros(0))
    items = IdCounts(pc.unique(block.items), np.zeros(0), np.zeros(0))
    wrong = rewritten_ids(list(block.doubts), columns, Scan(users, items, len(ids)))
    assert [problem.rows for problem in wrong] == ([rows] if rows else [])


def test_ids_of_a_type_that_holds_none_are_refused_by_name() -> None:
    for values, found in ((pa.array([True]), "bool"), (pa.array([b"1234"], pa.binary(4)), "fixed_size_binary")):
        with pytest.raises(DataError, match=rf"a\.parquet, column user_id: expected type integer .*, found {found}"):
            _ids(values, PARQUET)


def _times(values: pa.Array) -> tuple[list[int], list[int] | None, list[tuple[str, tuple[int, ...]]]]:
    times, units, problems = read_times(
        pa.chunked_array([values]), np.arange(len(values)), file=TEXT, column="timestamp", now_ms=NOW_MS
    )
    named = [(problem.found, problem.rows) for problem in problems]
    return times.tolist(), None if units is None else units.tolist(), named


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (pa.array([1_600_000_000]), 0),
        (pa.array([1_600_000_000_000]), 1),
        (pa.array([1_600_000_000_000_000]), 2),
        (pa.array([1_600_000_000_000_000_000]), 3),
        (pa.array([1.6e9]), 0),
        (pa.array(["1600000000"]), 0),
        (pa.array([" 1.6e9 "]), 0),
        (pa.array(["2020-09-13T12:26:40"]), 0),
        (pa.array(["2020-09-13 14:26:40+02:00"]), 0),
    ],
)
def test_times_of_every_unit_become_milliseconds(values: pa.Array, unit: int) -> None:
    assert _times(values) == ([1_600_000_000_000], [unit], [])


def test_times_of_an_arrow_type_say_their_unit_themselves() -> None:
    moment = datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)
    for kind in (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns", tz="Europe/Berlin")):
        assert _times(pa.array([moment], type=kind)) == ([1_600_000_000_000], None, [])
    assert _times(pa.array([moment.date()], type=pa.date32())) == ([1_599_955_200_000], None, [])


def test_times_that_cannot_be_are_found() -> None:
    unread = "none, or one that cannot be read"
    assert _times(pa.array(["1600000000", "yesterday", None, "2020-13-01"]))[2] == [(unread, (2, 3, 4))]
    assert _times(pa.array([1.0, float("nan"), None, float("inf")]))[2] == [(unread, (2, 3, 4))]
    assert _times(pa.array([1.0, -5.0]))[2] == [("earlier times", (2,))]
    assert _times(pa.array([NOW_MS + 3_600_000, NOW_MS + 90_000_000]))[2] == [("times in the future", (2,))]
    assert _times(pa.array([2**62, 1], pa.timestamp("s")))[2] == [("times in the future", (1,))]
    slashed = pa.array(["01/02/2026", "2025-02-01", "1.2.26 10:00", "31-12-2024"])
    assert _times(slashed)[2] == [("days such as 01/02/2026", (1, 3, 4))]


def test_times_of_two_units_are_refused_with_their_ratio_and_rows() -> None:
    counts = _counts(pa.array([1_600_000_000] * 6 + [1_600_000_000_000] * 2), first_row=100)
    with pytest.raises(
        DataError, match=r"a\.csv, column t: .*6 rows in seconds, 2 rows in milliseconds \(ratio 0\.25\)"
    ) as caught:
        raise_problems(odd_times(counts, column="t"))
    assert "those in milliseconds in rows 107, 108 (2 in all)" in str(caught.value)
    assert odd_times(counts[:1], column="t") == []


def _counts(values: pa.Array, *, first_row: int = 0) -> list[UnitCount]:
    rows = np.arange(len(values)) + first_row
    times, units, problems = read_times(
        pa.chunked_array([values]), rows, file=PARQUET, column="t", now_ms=NOW_MS + 400 * 86_400_000
    )
    assert problems == []
    return count_units(times, units, rows, file="a.csv")


DAY_2026_MS = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([20261201, 20240229]), [DAY_2026_MS, 1_709_164_800_000]),
        (pa.array([20261201.0]), [DAY_2026_MS]),
        (pa.array(["20261201", '"20261201"']), [DAY_2026_MS, DAY_2026_MS]),
        (pa.array([Decimal("20261201")]), [DAY_2026_MS]),
        (pa.array([20261201093000]), [DAY_2026_MS + 34_200_000]),
        (pa.array(["202612010930"]), [DAY_2026_MS + 34_200_000]),
        (pa.array([19700101, 20991231 - 790000]), [0, 1_609_372_800_000]),
        (pa.array(["2026-12-01T09:30:00Z", "2026-12-01 10:30+01:00"]), [DAY_2026_MS + 34_200_000] * 2),
    ],
)
def test_dates_that_are_written_as_numbers_are_read_as_dates(values: pa.Array, expected: list[int]) -> None:
    times, _, problems = read_times(
        pa.chunked_array([values]), np.arange(len(values)), file=TEXT, column="t", now_ms=NOW_MS + 400 * 86_400_000
    )
    assert (times.tolist(), problems) == (expected, [])
    assert odd_times(_counts(values), column="t") == []


@pytest.mark.parametrize(
    ("values", "look"),
    [
        (pa.array([19_800, 20_400]), "days since 1970"),
        (pa.array([45_000.5, 45_321.25]), "days as a spreadsheet counts them"),
        (pa.array(["45000", "46000.75"]), "days as a spreadsheet counts them"),
        (pa.array([480_000, 490_000]), "hours since 1970"),
        (pa.array([27_000_000, 28_000_000]), "minutes since 1970"),
        (pa.array([20241301, 20240230]), "dates that do not exist"),
        (pa.array([0, 1, 1]), "flags"),
        (pa.array(range(5_000)), "row numbers"),
        (pa.array([19_800, 20_400], pa.timestamp("s")), "a count in another unit"),
        (pa.array([3, 4], pa.date32()), "row numbers"),
    ],
)
def test_a_column_whose_times_all_lie_in_1970_is_refused_with_what_it_looks_like(values: pa.Array, look: str) -> None:
    with pytest.raises(DataError, match=rf"a\.csv, column t: .*all lie in 1970: they look like .*{look}"):
        raise_problems(odd_times(_counts(values), column="t"))


def test_dates_as_numbers_among_seconds_are_a_mixture() -> None:
    with pytest.raises(DataError, match=r"3 rows in seconds, 1 rows in days as yyyymmdd.*in row 2 \(1 in all\)"):
        raise_problems(odd_times(_counts(pa.array([1_600_000_000, 20240101, 1_600_000_001, 0])), column="t"))
    early = _counts(pa.array([1_600_000_000, 0, 0]))
    assert odd_times(early, column="t") == []
    assert [count.num_early for count in early] == [2]


def test_problems_of_several_blocks_are_one_with_the_first_rows_and_the_sum() -> None:
    def of_rows(start: int, stop: int) -> list[Problem]:
        rows = np.arange(start, stop)
        return find_problem(
            np.ones(len(rows), bool), rows, file="a.csv", column="user_id", expected="x", found="y", fix="Mend it."
        )

    merged = merge_problems([*of_rows(50, 60), *of_rows(3, 5), *of_rows(0, 0)])
    assert [(problem.rows, problem.num_rows) for problem in merged] == [((4, 5, 51, 52, 53), 12)]
    with pytest.raises(DataError) as caught:
        raise_problems(merged)
    assert str(caught.value) == (
        "a.csv, column user_id: expected x, found y in rows 4, 5, 51, 52, 53 (12 in all). Mend it. Nothing was written."
    )
    raise_problems([])
