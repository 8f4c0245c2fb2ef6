"""Look at a raw file's header before any library opens it: is it whole, and could it run code?"""

import io
import os
from dataclasses import dataclass
from tokenize import TokenError

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from tru_core.errors import DataError, IntegrityError
from workflows.data.parquet_footer import open_parquet
from workflows.ingest.opening import open_raw
from workflows.ingest.problems import NOTHING_WRITTEN
from workflows.ingest.text_files import check_text

__all__ = [
    "FORBIDDEN_SWITCHES",
    "NpyFacts",
    "ParquetFacts",
    "check_npy",
    "check_parquet",
    "check_text",
    "check_width",
    "open_raw",
    "refuse_pickle_switches",
]

FORBIDDEN_SWITCHES = ("RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR")
MAX_NPY_HEADER_BYTES = 10_000
MAX_FEATURE_COLUMNS = 1_000_000


@dataclass(frozen=True)
class ParquetFacts:
    """What the footer of a parquet file says."""

    columns: dict[str, pa.DataType]
    row_group_rows: tuple[int, ...]


@dataclass(frozen=True)
class NpyFacts:
    """What the header of a .npy file says: a matrix of floats, row after row from ``data_offset`` on."""

    num_rows: int
    num_columns: int
    dtype: str  # with byte order, as numpy writes it
    data_offset: int


def refuse_pickle_switches() -> None:
    """Raise IntegrityError if the environment lets Ray Data unpickle what it reads."""
    found = [name for name in FORBIDDEN_SWITCHES if os.environ.get(name)]
    if found:
        raise IntegrityError(
            f"the environment sets {', '.join(found)}: files could then run code when they are read. "
            f"{NOTHING_WRITTEN} Unset it, here and on every node of the cluster, and run again."
        )


def check_parquet(filesystem: pafs.FileSystem, path: str, *, key: str) -> ParquetFacts:
    """Check a parquet file by its footer alone.

    Raises:
        DataError: The file is empty, truncated, no parquet, or too large to read safely.
        IntegrityError: The file uses an extension type.
    """
    with open_raw(filesystem, path, key=key) as file:
        parquet = open_parquet(file, name=key, unchanged=NOTHING_WRITTEN)
        groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
        columns = {field.name: field.type for field in parquet.schema_arrow}
        return ParquetFacts(columns=columns, row_group_rows=tuple(group.num_rows for group in groups))


def check_npy(filesystem: pafs.FileSystem, path: str, *, key: str) -> NpyFacts:
    """Check a .npy file by its header and size. Never unpickles.

    Raises:
        DataError: The file is truncated, no .npy, or no matrix of floats in row order.
        IntegrityError: It holds Python objects.
    """
    with open_raw(filesystem, path, key=key) as file:
        size_bytes = file.size()
        head = io.BytesIO(file.read_at(min(size_bytes, MAX_NPY_HEADER_BYTES + 64), 0))
    try:
        version = np.lib.format.read_magic(head)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, is_column_order, dtype = read_header(head, max_header_size=MAX_NPY_HEADER_BYTES)
        if not all(0 <= number < 2**63 for number in shape):
            raise ValueError("no numbers of rows and columns")
    except (ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError, OverflowError):
        raise DataError(
            f"{key}: {size_bytes} bytes, expected the header of a .npy file, found none that can be read. "
            f"{NOTHING_WRITTEN} Copy the file again, or write it by numpy.save."
        ) from None
    if dtype.hasobject:
        raise IntegrityError(
            f"{key}: holds Python objects, which only a pickle can restore, and a pickle can run code. "
            f"It was not opened. {NOTHING_WRITTEN} Save the matrix as float32."
        )
    if len(shape) != 2 or dtype.kind != "f" or dtype.itemsize > 8 or is_column_order:
        order = ", column by column" if is_column_order else ""
        numbers = f"shape {shape}" if len(shape) < 5 else f"{len(shape)} dimensions"
        kind = "a structured type" if dtype.names else dtype
        raise DataError(
            f"{key}: expected a matrix (rows x columns) of float16, float32 or float64, row by row, found "
            f"{numbers} of {kind}{order}. {NOTHING_WRITTEN} "
            f"Save it as numpy.ascontiguousarray(features, dtype='float32')."
        )
    num_rows, num_columns = shape
    check_width(num_columns, key)
    data_offset = head.tell()
    expected_bytes = data_offset + num_rows * num_columns * dtype.itemsize
    if size_bytes != expected_bytes:
        is_short = "is truncated" if size_bytes < expected_bytes else "has bytes behind its end"
        raise DataError(
            f"{key}: {is_short}: its header says {num_rows} x {num_columns} of {dtype}, that is {expected_bytes} "
            f"bytes, found {size_bytes}. {NOTHING_WRITTEN} Copy the file again."
        )
    return NpyFacts(num_rows=num_rows, num_columns=num_columns, dtype=dtype.str, data_offset=data_offset)


def check_width(num_columns: int, where: str) -> int:
    """The number of values of a feature, if it can be one. DataError if not."""
    if not 1 <= num_columns <= MAX_FEATURE_COLUMNS:
        raise DataError(f"{where}: expected 1 to {MAX_FEATURE_COLUMNS} columns, found {num_columns}. {NOTHING_WRITTEN}")
    return num_columns
