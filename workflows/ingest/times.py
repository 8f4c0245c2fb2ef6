"""Timestamps: numbers of any unit since 1970, dates written as numbers, ISO 8601 text or Arrow times, as Unix ms.

======================================  ========================================================================
written                                 read as
======================================  ========================================================================
``1600000000``, ``1600000000000``       seconds, milliseconds, microseconds or nanoseconds since 1970, by their size
``20261201``, ``202612010930``,         the day, minute or second, in UTC; as number, float or text
``20261201093000``
``2026-12-01``, ``2026-12-01T09:30Z``   ISO 8601; UTC where no zone is given
``01/02/2026``                          refused: February or January?
before 1970, after tomorrow             refused
several of these units in one column    refused
all in 1970                             refused: days, hours or row numbers. A spreadsheet's days (45000.5) are named
======================================  ========================================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workflows.ingest.arrays import as_mask, as_numbers, flat_array
from workflows.ingest.columns import type_family
from workflows.ingest.layouts import TableFile
from workflows.ingest.problems import MAX_ROWS_NAMED, Problem, find_problem

TIME_UNITS = (
    *("seconds", "milliseconds", "microseconds", "nanoseconds"),
    *("days as yyyymmdd", "minutes as yyyymmddhhmm", "seconds as yyyymmddhhmmss"),
)
_DAYS, _MINUTES, _MOMENTS = 4, 5, 6
_DAY_MS = 86_400_000
_YEAR_1971_MS = 365 * _DAY_MS
YEAR_1990_MS = 7305 * _DAY_MS
_UNIT_LIMITS = (1e11, 1e14, 1e17)  # a smaller number than the first means seconds, and so on: the years 1973 to 5138
_TO_MS = (1e3, 1.0, 1e-3, 1e-6)
_ARROW_TO_MS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_CALENDAR = {_DAYS: (1e6, 8), _MINUTES: (1e2, 12), _MOMENTS: (1.0, 14)}  # to yyyymmddhhmmss, and the number of digits
_SLASHED = r"^[0-9]{1,2}[./-][0-9]{1,2}[./-]([0-9]{2}|[0-9]{4})([ T,].*)?$"
_LOOKS = (  # of times that all lie in 1970: numbers from, to, and what they may be
    (0, 2, "flags"),
    (8_000, 30_000, "days since 1970"),
    (30_000, 80_000, "days as a spreadsheet counts them, since 1900"),
    (190_000, 800_000, "hours since 1970"),
    (11_000_000, 31_536_000, "minutes since 1970, or dates that do not exist"),
)


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
    is_slashed = np.zeros(len(array), dtype=bool)
    if type_family(array.type) == "time":
        is_unread = as_mask(array.is_null())
        times = _arrow_times(array)
    else:
        is_text = np.zeros(len(array), dtype=bool)
        if type_family(array.type) == "string":
            numbers, is_text, is_slashed = _parse_times(array)
        else:
            numbers = as_numbers(array, np.float64)
        is_unread = ~np.isfinite(numbers) & ~is_slashed
        times, units = _from_numbers(np.where(np.isfinite(numbers), numbers, 0), is_text)
    checks = (
        (is_slashed, "times whose order of day and month is known (2026-02-01)", "days such as 01/02/2026"),
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
    return np.rint(np.clip(times, -1, 1e18)).astype(np.int64), units, problems


def _arrow_times(array: pa.Array) -> NDArray[np.float64]:
    if pa.types.is_date32(array.type):
        return as_numbers(array.cast(pa.int32()), np.int64) * float(_DAY_MS)
    factor = _ARROW_TO_MS[array.type.unit] if pa.types.is_timestamp(array.type) else 1.0
    return as_numbers(array.cast(pa.int64()), np.int64) * factor


def _from_numbers(numbers: NDArray[np.float64], is_text: NDArray[np.bool_]) -> tuple[NDArray, NDArray[np.int8]]:
    """Unix milliseconds and units of numbers; those that ISO 8601 text gave are seconds whatever their size."""
    units = np.searchsorted(_UNIT_LIMITS, numbers, side="right").astype(np.int8)
    units[is_text] = 0
    times = numbers * np.take(_TO_MS, units)
    for unit, (scale, num_digits) in _CALENDAR.items():
        low, high = 1970 * 10.0 ** (num_digits - 4), 2100 * 10.0 ** (num_digits - 4)
        place = np.flatnonzero((numbers >= low) & (numbers < high) & (numbers == np.floor(numbers)) & ~is_text)
        moments, is_date = _calendar_ms((numbers[place] * scale).astype(np.int64))
        times[place[is_date]], units[place[is_date]] = moments[is_date], unit
    return times, units


def _calendar_ms(stamps: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Unix milliseconds of numbers written as yyyymmddhhmmss in UTC, and which of them are dates at all."""
    days, clock = np.divmod(stamps, 1_000_000)
    year, month, day = days // 10_000, days // 100 % 100, days % 100
    hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
    is_date = (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(is_date, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    length = (months + 1).astype("datetime64[D]").astype(np.int64) - first
    is_date &= day <= length
    seconds = (first + day - 1) * 86_400 + hour * 3600 + minute * 60 + second
    return seconds.astype(np.float64) * 1e3, is_date


def _parse_times(texts: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Numbers as they are, ISO 8601 as Unix seconds (UTC where no zone is given), NaN for what is neither.

    Returns:
        The numbers, which of them were ISO 8601, and which rows hold a day whose order is unknown.
    """
    trimmed = pc.utf8_trim(texts.cast(pa.string()), characters=" \t\"'")
    is_number = pc.match_substring_regex(trimmed, r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$").fill_null(
        False
    )
    numbers = as_numbers(pc.if_else(is_number, trimmed, None).cast(pa.float64()), np.float64).copy()
    is_text = ~as_mask(is_number)
    for row in np.flatnonzero(is_text):
        numbers[row] = _iso_seconds(trimmed[int(row)].as_py())
    return numbers, is_text, as_mask(pc.match_substring_regex(trimmed, _SLASHED))


def _iso_seconds(text: str | None) -> float:
    try:
        time = datetime.fromisoformat(text or "")
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return float("nan")


@dataclass(frozen=True)
class UnitCount:
    """How many timestamps of a block look like one unit, the first rows of them (from 1), and their bounds in ms.

    ``unit``: an index into ``TIME_UNITS``; -1 where the type of the column says it.
    """

    file: str
    unit: int
    num_rows: int
    rows: tuple[int, ...]
    first_ms: int
    last_ms: int
    num_early: int  # before 1990


def count_units(
    times: NDArray[np.int64], units: NDArray[np.int8] | None, rows: NDArray[np.int64], *, file: str
) -> list[UnitCount]:
    """Count the units that the timestamps of a block seem to have."""
    counts = []
    units = np.full(len(times), -1, dtype=np.int8) if units is None else units
    for unit in np.unique(units):
        own, own_times = rows[units == unit], times[units == unit]
        named = tuple(int(row) + 1 for row in np.sort(own)[:MAX_ROWS_NAMED])
        num_early = int(np.count_nonzero(own_times < YEAR_1990_MS))
        counts.append(
            UnitCount(file, int(unit), len(own), named, int(own_times.min()), int(own_times.max()), num_early)
        )
    return counts


def dates_read(counts: Sequence[UnitCount]) -> dict[str, int]:
    """How many times were written as the digits of a date, for the import's report: by their form."""
    forms = {unit: TIME_UNITS[unit].rpartition(" ")[2] for unit in _CALENDAR}
    rows = {unit: sum(count.num_rows for count in counts if count.unit == unit) for unit in forms}
    return {f"times_read_as_{forms[unit]}": num_rows for unit, num_rows in rows.items() if num_rows}


def odd_times(counts: Sequence[UnitCount], *, column: str) -> list[Problem]:
    """What is wrong with the times of a data set as a whole: they are of several units, or all lie in 1970."""
    totals = {unit: sum(count.num_rows for count in counts if count.unit == unit) for unit in range(len(TIME_UNITS))}
    found = [unit for unit in totals if totals[unit]]
    if len(found) > 1:
        return _mixed_units(counts, totals, found, column=column)
    if counts and max(count.last_ms for count in counts) < _YEAR_1971_MS:
        return _all_in_1970(counts, column=column)
    return []


def _mixed_units(
    counts: Sequence[UnitCount], totals: dict[int, int], found: Sequence[int], *, column: str
) -> list[Problem]:
    rare = min(found, key=lambda unit: totals[unit])
    shares = ", ".join(f"{totals[unit]} rows in {TIME_UNITS[unit]}" for unit in found)
    ratio = totals[rare] / sum(totals.values())
    return [
        Problem(
            file=count.file,
            column=column,
            expected="times of one unit",
            found=f"{shares} (ratio {ratio:.4g}), those in {TIME_UNITS[rare]}",
            fix="Convert them to one unit.",
            rows=count.rows,
            num_rows=count.num_rows,
        )
        for count in counts
        if count.unit == rare
    ]


def _all_in_1970(counts: Sequence[UnitCount], *, column: str) -> list[Problem]:
    low, high = min(count.first_ms for count in counts) / 1e3, max(count.last_ms for count in counts) / 1e3
    is_number = all(count.unit == 0 for count in counts)
    looks = [name for start, end, name in _LOOKS if is_number and start <= low and high < end]
    look = looks[0] if looks else "row numbers, or a count in another unit"
    return [
        Problem(
            file=count.file,
            column=column,
            expected="times of the interactions",
            found=f"times that all lie in 1970: they look like {look},",
            fix="Convert them to seconds since 1970 or to ISO 8601, or name another column under `columns`.",
            rows=count.rows,
            num_rows=count.num_rows,
        )
        for count in counts
    ]
