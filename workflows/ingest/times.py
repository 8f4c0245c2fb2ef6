"""Timestamps: numbers of any unit since 1970, ISO 8601 text or Arrow times, as Unix milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tru_core.errors import DataError
from workflows.ingest.arrays import as_mask, as_numbers, flat_array
from workflows.ingest.columns import type_family
from workflows.ingest.layouts import TableFile
from workflows.ingest.problems import MAX_ROWS_NAMED, NOTHING_WRITTEN, Problem, describe_rows, find_problem

TIME_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_DAY_MS = 86_400_000
_UNIT_LIMITS = (1e11, 1e14, 1e17)  # a smaller number than the first means seconds, and so on: the years 1973 to 5138
_TO_MS = (1e3, 1.0, 1e-3, 1e-6)


def read_times(
    values: pa.ChunkedArray, rows: NDArray[np.int64], *, file: TableFile, column: str, now_ms: int
) -> tuple[NDArray[np.int64], NDArray[np.int8] | None, list[Problem]]:
    """Read a column of times.

    Args:
        rows: The number of each row in its file.
        now_ms: The present: times more than a day later are wrong.

    Returns:
        Unix milliseconds, the unit that each number seems to have (an index into ``TIME_UNITS``; None for a column
        whose type says it), and what is wrong.
    """
    array = flat_array(values)
    units: NDArray[np.int8] | None = None
    if type_family(array.type) == "time":
        is_unread = as_mask(array.is_null())
        times = as_numbers(array.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()), np.int64).astype(np.float64)
    else:
        numbers = _parse_times(array) if type_family(array.type) == "string" else as_numbers(array, np.float64)
        is_unread = ~np.isfinite(numbers)
        units = np.searchsorted(_UNIT_LIMITS, np.where(is_unread, 0, numbers), side="right").astype(np.int8)
        times = np.where(is_unread, 0, numbers) * np.take(_TO_MS, units)
    checks = (
        (is_unread, "a time in every row (a number since 1970, or ISO 8601)", "none, or one that cannot be read"),
        (times < 0, "times from 1970 on", "earlier times"),
        (times > now_ms + _DAY_MS, "times in the past", "times in the future"),
    )
    problems = [
        problem
        for is_bad, expected, found in checks
        for problem in find_problem(
            is_bad, rows, file=file.key, column=column, expected=expected, found=found, fix="Correct these rows."
        )
    ]
    return np.rint(times).astype(np.int64), units, problems


def _parse_times(texts: pa.Array) -> NDArray[np.float64]:
    """Numbers as they are, ISO 8601 as Unix seconds (UTC where no zone is given), NaN for what is neither."""
    trimmed = pc.utf8_trim_whitespace(texts.cast(pa.string()))
    is_number = pc.match_substring_regex(trimmed, r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$").fill_null(
        False
    )
    numbers = as_numbers(pc.if_else(is_number, trimmed, None).cast(pa.float64()), np.float64).copy()
    is_text = np.flatnonzero(~as_mask(is_number))
    for row in is_text:
        numbers[row] = _iso_seconds(trimmed[int(row)].as_py())
    return numbers


def _iso_seconds(text: str | None) -> float:
    try:
        time = datetime.fromisoformat(text or "")
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return float("nan")


@dataclass(frozen=True)
class UnitCount:
    """How many timestamps of a column look like one unit, and the first rows of them."""

    file: str
    unit: int
    num_rows: int
    rows: tuple[int, ...]


def count_units(units: NDArray[np.int8], rows: NDArray[np.int64], *, file: str) -> list[UnitCount]:
    """Count the units that the timestamps of a block seem to have."""
    counts = []
    for unit in np.unique(units):
        own = rows[units == unit]
        counts.append(UnitCount(file, int(unit), len(own), tuple(int(row) for row in np.sort(own)[:MAX_ROWS_NAMED])))
    return counts


def refuse_mixed_units(counts: Sequence[UnitCount], *, column: str | None) -> None:
    """Raise DataError if the timestamps of the data set are of more than one unit."""
    totals = {unit: sum(count.num_rows for count in counts if count.unit == unit) for unit in range(len(TIME_UNITS))}
    found = [unit for unit in totals if totals[unit]]
    if len(found) < 2:
        return
    rare = min(found, key=lambda unit: totals[unit])
    of_rare = sorted((count for count in counts if count.unit == rare), key=lambda count: (count.file, count.rows))
    here = replace(of_rare[0], num_rows=sum(count.num_rows for count in of_rare if count.file == of_rare[0].file))
    shares = ", ".join(f"{totals[unit]} rows in {TIME_UNITS[unit]}" for unit in found)
    raise DataError(
        f"{here.file}, column {column}: expected times of one unit, found {shares} (ratio "
        f"{totals[rare] / sum(totals.values()):.4g}). {TIME_UNITS[rare].capitalize()} are in "
        f"{describe_rows(here.rows, here.num_rows)}. {NOTHING_WRITTEN} Convert them to one unit."
    )
