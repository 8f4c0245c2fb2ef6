"""What the values of a block of raw interactions mean: ids as strings, the split as a number, times in milliseconds.

Every function here returns what is wrong as problems, not as exceptions, so that the caller can count the bad
rows of all blocks.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workflows.ingest.arrays import as_mask, as_numbers, flat_array
from workflows.ingest.columns import Columns, type_family
from workflows.ingest.layouts import TableFile
from workflows.ingest.problems import Problem, find_problem
from workflows.ingest.times import read_times

MAX_EXACT_FLOAT = 2**53
_PART_WORDS = {"train": 0, "valid": 1, "validation": 1, "val": 1, "test": 2, "0": 0, "1": 1, "2": 2}


@dataclass(frozen=True)
class Block:
    """The interactions of one block: ids as strings, split as 0, 1, 2 or -1, Unix time in milliseconds.

    ``units`` marks the unit that each timestamp seems to have (an index into ``TIME_UNITS``).
    """

    users: pa.Array
    items: pa.Array
    split: NDArray[np.int8]
    timestamp: NDArray[np.int64] | None
    units: NDArray[np.int8] | None
    rows: NDArray[np.int64]


def read_block(
    table: pa.Table, rows: NDArray[np.int64], *, file: TableFile, columns: Columns, now_ms: int
) -> tuple[Block, list[Problem]]:
    """Turn raw columns into ids, split and timestamp, and find what is wrong with them.

    Args:
        rows: The number of each row in its file.
        now_ms: The present in Unix milliseconds: later timestamps are wrong (a day's grace).

    Returns:
        The block, only to be used if there is no problem, and the problems.
    """
    users, user_problems = read_ids(table.column(columns.user), rows, file=file, column=columns.user)
    items, item_problems = read_ids(table.column(columns.item), rows, file=file, column=columns.item)
    problems = user_problems + item_problems
    split = np.full(len(rows), -1 if file.part is None else file.part, dtype=np.int8)
    if columns.split is not None and file.part is None:
        split, found = _read_split(table.column(columns.split), rows, file=file, column=columns.split)
        problems += found
    timestamp, units = None, None
    if columns.timestamp is not None:
        seen = read_times(table.column(columns.timestamp), rows, file=file, column=columns.timestamp, now_ms=now_ms)
        timestamp, units, found = seen
        problems += found
    return Block(users, items, split, timestamp, units, rows), problems


def read_ids(
    values: pa.ChunkedArray, rows: NDArray[np.int64], *, file: TableFile, column: str
) -> tuple[pa.Array, list[Problem]]:
    """Turn a column of ids into strings: integers in decimal, floats if they are exact integers, text byte by byte.

    Text of text files is trimmed, and ``7.0`` there means 7 (a column that once had a gap is written so).
    """
    array = flat_array(values)
    family = type_family(array.type)
    checks: list[tuple[NDArray[np.bool_], str, str]] = []
    if family == "float":
        numbers = as_numbers(array, np.float64)
        is_null = as_mask(array.is_null())
        is_exact = (numbers == np.floor(numbers)) & (np.abs(numbers) < MAX_EXACT_FLOAT)
        checks.append(
            (~is_exact & ~is_null, "exact integers or text", "fractions, NaN or floats too large to be exact")
        )
        ids = pa.array(np.where(is_exact, numbers, 0).astype(np.int64)).cast(pa.string())
        is_negative = is_exact & (numbers < 0)
    elif family == "integer":
        is_null = as_mask(array.is_null())
        is_negative = (
            as_mask(pc.less(array, 0)) if pa.types.is_signed_integer(array.type) else np.zeros(len(array), bool)
        )
        ids = array.cast(pa.string())
    else:
        ids = array.cast(pa.string())
        if file.is_text:
            ids = pc.utf8_trim_whitespace(ids)
            is_decimal = pc.match_substring_regex(ids, r"^[+-]?[0-9]+\.[0-9]*$")
            is_exact = pc.match_substring_regex(ids, r"^[+-]?[0-9]+\.0*$")
            is_bad = as_mask(pc.and_not(is_decimal, is_exact))
            checks.append((is_bad, "exact integers or text", "fractions"))
            ids = pc.if_else(is_exact, pc.replace_substring_regex(ids, r"\.0*$", ""), ids)
        is_null = as_mask(pc.or_(ids.is_null(), pc.equal(ids, "").fill_null(False)))
        is_negative = as_mask(pc.match_substring_regex(ids, r"^-[0-9]+$"))
    checks += [(is_null, "an id in every row", "no id"), (is_negative, "ids from 0 on", "negative ids")]
    fix = "Correct these rows, or leave them out."
    problems = [
        problem
        for is_bad, expected, found in checks
        for problem in find_problem(is_bad, rows, file=file.key, column=column, expected=expected, found=found, fix=fix)
    ]
    return ids, problems


def _read_split(
    values: pa.ChunkedArray, rows: NDArray[np.int64], *, file: TableFile, column: str
) -> tuple[NDArray[np.int8], list[Problem]]:
    words = pc.utf8_lower(pc.utf8_trim_whitespace(flat_array(values).cast(pa.string())))
    position = pc.index_in(words, value_set=pa.array(list(_PART_WORDS)))
    is_bad = as_mask(position.is_null())
    parts = np.array(list(_PART_WORDS.values()), dtype=np.int8)[as_numbers(position, np.int64)]
    problems = find_problem(
        is_bad,
        rows,
        file=file.key,
        column=column,
        expected="train, valid or test (or 0, 1, 2)",
        found="other values or none",
        fix="Correct these rows, or leave them out.",
    )
    return parts, problems
