"""Read the feature rows of some items from a .npy matrix or from a table with a list column, and check them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tru_core.errors import DataError
from workflows.ingest.arrays import as_mask, flat_array
from workflows.ingest.blocks import read_ids
from workflows.ingest.gates import NpyFacts, open_raw
from workflows.ingest.layouts import FeatureSource, TableFile
from workflows.ingest.problems import NOTHING_WRITTEN, Problem, find_problem
from workflows.ingest.raw_tables import read_tables
from workflows.storage import ObjectStore

_READ_BYTES = 64 * 2**20


@dataclass(frozen=True)
class LoadedFeatures:
    """The features of an item bucket. Rows of missing items are zero."""

    values: NDArray[np.floating]
    is_missing: NDArray[np.bool_]
    problems: list[Problem]
    num_source_rows: int


def load_matrix(raw: ObjectStore, source: FeatureSource, facts: NpyFacts, wanted: pa.Array) -> LoadedFeatures:
    """Read the rows that belong to some item ids, in ascending order, by their place in the file."""
    positions = wanted.cast(pa.int64()).to_numpy()
    values = np.zeros((len(positions), facts.num_columns), dtype=source.dtype)
    row_bytes = facts.num_columns * np.dtype(facts.dtype).itemsize
    step = max(1, _READ_BYTES // row_bytes)
    filesystem, _ = raw.filesystem()
    done = 0
    with open_raw(filesystem, source.path, key=source.key) as file:
        while done < len(positions):
            start = int(positions[done])
            end = int(np.searchsorted(positions, start + step))  # the wanted rows of one read
            num_rows = int(positions[end - 1]) + 1 - start
            body = file.read_at(num_rows * row_bytes, facts.data_offset + start * row_bytes)
            if len(body) != num_rows * row_bytes:
                raise DataError(f"{source.key}: became shorter while it was read. {NOTHING_WRITTEN} Run again.")
            block = np.frombuffer(body, dtype=facts.dtype).reshape(num_rows, facts.num_columns)
            values[done:end] = block[positions[done:end] - start]
            done = end
    return LoadedFeatures(
        values, np.zeros(len(positions), dtype=bool), _not_finite(values, positions, source), facts.num_rows
    )


def load_lists(
    raw: ObjectStore, source: FeatureSource, table: TableFile, wanted: pa.Array, *, checks_ids: bool
) -> LoadedFeatures:
    """Read the lists of some item ids from a table in any order: its rows of other items are passed over.

    Args:
        checks_ids: Report wrong ids of the table, also of rows that are passed over. True in one of the tasks that
            read the same table, so that they are counted once.
    """
    values = np.zeros((len(wanted), source.num_columns), dtype=source.dtype)
    is_missing = np.ones(len(wanted), dtype=bool)
    problems: list[Problem] = []
    num_source_rows = 0
    filesystem, _ = raw.filesystem()
    for part, rows in read_tables(filesystem, table, columns=[source.id_column, source.column]):
        ids, id_problems = read_ids(part.column(source.id_column), rows, file=table, column=source.id_column)
        problems += id_problems if checks_ids else []
        place = pc.index_in(ids, value_set=wanted)
        is_own = as_mask(place.is_valid())
        lists, is_given, list_problems = _as_matrix(
            part.column(source.column).filter(pa.array(is_own)), source, rows[is_own]
        )
        num_source_rows += len(part) - part.column(source.column).null_count
        own, own_rows = place.drop_null().to_numpy()[is_given], rows[is_own][is_given]
        is_repeat = ~is_missing[own]
        is_repeat[np.setdiff1d(np.arange(len(own)), np.unique(own, return_index=True)[1])] = True
        problems += list_problems
        problems += find_problem(
            is_repeat,
            own_rows,
            file=source.key,
            column=source.id_column,
            expected="each item once",
            found="items that stand there before",
            fix="Keep one row of each.",
        )
        problems += _not_finite(lists, own_rows, source)
        values[own] = lists
        is_missing[own] = False
    return LoadedFeatures(values, is_missing, problems, num_source_rows)


def _as_matrix(
    column: pa.ChunkedArray, source: FeatureSource, rows: NDArray[np.int64]
) -> tuple[np.ndarray, NDArray[np.bool_], list[Problem]]:
    """Lists as a matrix of those rows that have one, which rows these are, and what is wrong with them."""
    array = flat_array(column)
    if pa.types.is_string(array.type):
        trimmed = pc.utf8_trim_whitespace(array)
        array = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
        array = pc.utf8_split_whitespace(array)
    is_given = as_mask(array.is_valid())
    given = array.drop_null()
    widths = pc.list_value_length(given).to_numpy(zero_copy_only=False)
    problems = find_problem(
        widths != source.num_columns,
        rows[is_given],
        file=source.key,
        column=source.column,
        expected=f"{source.num_columns} values",
        found="fewer or more",
        fix=f"Give all {source.modality} features the same length.",
    )
    if problems:
        return np.zeros((len(given), source.num_columns), dtype=source.dtype), is_given, problems
    flat = pc.list_flatten(given)
    if pa.types.is_string(flat.type):
        is_number = pc.match_substring_regex(flat, r"(?i)^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf)$")
        flat = pc.if_else(is_number, flat, "nan").cast(pa.float64()).cast(pa.float32(), safe=False)
    matrix = flat.fill_null(float("nan")).to_numpy(zero_copy_only=False).astype(source.dtype, copy=False)
    return matrix.reshape(len(given), source.num_columns), is_given, []


def _not_finite(values: np.ndarray, rows: NDArray[np.int64], source: FeatureSource) -> list[Problem]:
    return find_problem(
        np.any(~np.isfinite(values), axis=1),
        rows,
        file=source.key,
        column=source.column or source.modality,
        expected="finite numbers",
        found="NaN, infinite or unreadable values",
        is_matrix=source.npy is not None,
        fix=f"Compute the {source.modality} features of these rows again.",
    )
