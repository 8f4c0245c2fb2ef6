"""What values mean: ids, splits, times; what is wrong is counted, with rows and without ids."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tru_core.errors import DataError
from workflows.ingest.blocks import read_block, read_ids
from workflows.ingest.columns import Columns
from workflows.ingest.interactions import order_ids
from workflows.ingest.layouts import TableFile
from workflows.ingest.problems import Problem, find_problem, merge_problems, raise_problems
from workflows.ingest.times import count_units, read_times, refuse_mixed_units

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
        (pa.array(["a", " b ", "1.0", "007", "é"]), ["a", " b ", "1.0", "007", "é"]),
        (pa.array(["x"], type=pa.large_string()), ["x"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
    ],
)
def test_ids_of_typed_columns_are_taken_as_they_are(values: pa.Array, expected: list[str]) -> None:
    assert _ids(values, PARQUET) == (expected, [])


def test_ids_of_text_files_are_trimmed_and_whole_floats_are_integers() -> None:
    values = pa.array([" a ", "7", "7.0", "12.", "007", "1e5", "B00X"])
    assert _ids(values, TEXT) == (["a", "7", "7", "12", "007", "1e5", "B00X"], [])


@pytest.mark.parametrize(
    ("values", "file", "found", "rows"),
    [
        (pa.array([1, None, 3, None]), PARQUET, "no id", (1, 3)),
        (pa.array(["a", "", None]), PARQUET, "no id", (1, 2)),
        (pa.array(["a", "  ", None]), TEXT, "no id", (1, 2)),
        (pa.array([1, -2, 3]), PARQUET, "negative ids", (1,)),
        (pa.array([-1.0, 3.0]), PARQUET, "negative ids", (0,)),
        (pa.array(["-5", "5", "-a"]), TEXT, "negative ids", (0,)),
        (
            pa.array([1.0, 1.5, 1e20, float("nan")]),
            PARQUET,
            "fractions, NaN or floats too large to be exact",
            (1, 2, 3),
        ),
        (pa.array([float("inf"), 2.0**53]), PARQUET, "fractions, NaN or floats too large to be exact", (0, 1)),
        (pa.array(["1.5", "2.0"]), TEXT, "fractions", (0,)),
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
    assert [(problem.column, problem.rows, problem.num_rows) for problem in problems] == [("s", (1, 2, 3), 3)]


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
    assert _times(pa.array(["1600000000", "yesterday", None, "2020-13-01"]))[2] == [(unread, (1, 2, 3))]
    assert _times(pa.array([1.0, float("nan"), None, float("inf")]))[2] == [(unread, (1, 2, 3))]
    assert _times(pa.array([1.0, -5.0]))[2] == [("earlier times", (1,))]
    assert _times(pa.array([NOW_MS + 3_600_000, NOW_MS + 90_000_000]))[2] == [("times in the future", (1,))]


def test_times_of_two_units_are_refused_with_their_ratio_and_rows() -> None:
    values = pa.array([1_600_000_000] * 6 + [1_600_000_000_000] * 2)
    _, units, _ = read_times(pa.chunked_array([values]), np.arange(8) + 100, file=TEXT, column="t", now_ms=NOW_MS)
    counts = count_units(np.asarray(units), np.arange(8) + 100, file="a.csv")
    with pytest.raises(
        DataError, match=r"a\.csv, column t: .*6 rows in seconds, 2 rows in milliseconds \(ratio 0\.25\)"
    ) as caught:
        refuse_mixed_units(counts, column="t")
    assert "Milliseconds are in rows 106, 107 (2 in all)" in str(caught.value)
    refuse_mixed_units(counts[:1], column="t")


def test_problems_of_several_blocks_are_one_with_the_first_rows_and_the_sum() -> None:
    def of_rows(start: int, stop: int) -> list[Problem]:
        rows = np.arange(start, stop)
        return find_problem(
            np.ones(len(rows), bool), rows, file="a.csv", column="user_id", expected="x", found="y", fix="Mend it."
        )

    merged = merge_problems([*of_rows(50, 60), *of_rows(3, 5), *of_rows(0, 0)])
    assert [(problem.rows, problem.num_rows) for problem in merged] == [((3, 4, 50, 51, 52), 12)]
    with pytest.raises(DataError) as caught:
        raise_problems(merged)
    assert str(caught.value) == (
        "a.csv, column user_id: expected x, found y in rows 3, 4, 50, 51, 52 (12 in all). Mend it. Nothing was written."
    )
    raise_problems([])
