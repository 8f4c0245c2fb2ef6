"""What the values of a block of raw interactions mean: ids as strings, the split as a number, times in milliseconds.

Every function here returns what is wrong as problems, not as exceptions, so that the caller can count the bad
rows of all blocks.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workflows.data.ids import WHITESPACE
from workflows.data.ids import read_ids as read_id_values
from workflows.ingest.arrays import as_mask, as_numbers, flat_array
from workflows.ingest.columns import ID_TYPES, Columns, type_family, wrong_type
from workflows.ingest.layouts import TableFile
from workflows.ingest.problems import Problem, find_problem
from workflows.ingest.times import read_times

_PART_WORDS = {"train": 0, "valid": 1, "validation": 1, "val": 1, "test": 2, "0": 0, "1": 1, "2": 2}


@dataclass(frozen=True)
class Block:
    """The interactions of one block: ids as strings, split as 0, 1, 2 or -1, Unix time in milliseconds.

    ``units`` marks the unit that each timestamp seems to have (an index into ``TIME_UNITS``). ``doubts``: ids that are
    wrong if all other ids of their column are whole numbers.
    """

    users: pa.Array
    items: pa.Array
    split: NDArray[np.int8]
    timestamp: NDArray[np.int64] | None
    units: NDArray[np.int8] | None
    rows: NDArray[np.int64]
    doubts: tuple[Problem, ...] = ()


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
    sides = [_read_side(table.column(name), rows, file=file, column=name) for name in (columns.user, columns.item)]
    (users, user_problems, user_doubts), (items, item_problems, item_doubts) = sides
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
    return Block(users, items, split, timestamp, units, rows, (*user_doubts, *item_doubts)), problems


def read_ids(
    values: pa.ChunkedArray, rows: NDArray[np.int64], *, file: TableFile, column: str
) -> tuple[pa.Array, list[Problem]]:
    """Read a column of ids, by the rules of :mod:`workflows.data.ids`, and name what is wrong by its rows.

    Raises:
        DataError: The column has a type that holds no ids.
    """
    ids, problems, _ = _read_side(values, rows, file=file, column=column)
    return ids, problems


def _read_side(
    values: pa.ChunkedArray, rows: NDArray[np.int64], *, file: TableFile, column: str
) -> tuple[pa.Array, list[Problem], list[Problem]]:
    """The ids, what is wrong, and what would be wrong if all other ids are whole numbers."""
    array = flat_array(values)
    if type_family(array.type) not in ID_TYPES:
        raise wrong_type(file.key, column, kind=array.type, allowed=ID_TYPES)
    reading = read_id_values(_plain_ids(array))
    problems = [
        problem
        for fault in reading.faults
        for problem in find_problem(
            fault.is_bad,
            rows,
            file=file.key,
            column=column,
            expected=fault.expected,
            found=fault.found,
            fix="Correct these rows, or leave them out.",
        )
    ]
    doubts = find_problem(
        reading.is_exponent,
        rows,
        file=file.key,
        column=column,
        expected="whole numbers, as all other ids are",
        found="numbers with an exponent or a comma, such as a spreadsheet shows for others,",
        fix="Format the column as whole numbers, and write the file again.",
    )
    return reading.ids, problems, doubts


def _plain_ids(array: pa.Array) -> pa.Array:
    """Bytes as text: where they are no UTF-8, with a mark in their place that is refused as an id."""
    if array.type == pa.string_view():
        return array.cast(pa.string())
    if array.type not in (pa.binary(), pa.large_binary()):
        return array
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        texts = [None if value is None else value.decode(errors="replace") for value in array.to_pylist()]
        return pa.array(texts, pa.string())


def _read_split(
    values: pa.ChunkedArray, rows: NDArray[np.int64], *, file: TableFile, column: str
) -> tuple[NDArray[np.int8], list[Problem]]:
    words = pc.utf8_lower(pc.utf8_trim(flat_array(values).cast(pa.string()), characters=f"{WHITESPACE}\"'"))
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
