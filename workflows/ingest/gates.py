"""Look at a raw file's header before any library opens it: is it whole, and could it run code?"""

import io
import os
from dataclasses import dataclass
from tokenize import TokenError

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from tru_core.errors import AccessError, DataError, IntegrityError, MissingObjectError
from workflows.data.parquet_footer import open_parquet
from workflows.ingest.problems import NOTHING_WRITTEN

FORBIDDEN_SWITCHES = ("RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA", "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR")
MAX_NPY_HEADER_BYTES = 10_000
MAX_FEATURE_COLUMNS = 1_000_000
TEXT_HEAD_BYTES = 2**20
_PARQUET_MAGIC = b"PAR1"


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


@dataclass(frozen=True)
class TextFacts:
    """What the first line of a delimited text file says."""

    delimiter: str
    header: tuple[str, ...]
    num_header_lines: int  # up to and with the header, blank lines before it included
    first_cells: tuple[tuple[str, ...], ...]  # some complete lines below the header


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
    except (ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{key}: {size_bytes} bytes, expected the header of a .npy file, found none that can be read. "
            f"{NOTHING_WRITTEN} Copy the file again, or write it by numpy.save."
        ) from error
    if dtype.hasobject:
        raise IntegrityError(
            f"{key}: holds Python objects (dtype {dtype}), which only a pickle can restore, and a pickle can run code. "
            f"It was not opened. {NOTHING_WRITTEN} Save the matrix as float32."
        )
    if len(shape) != 2 or dtype.kind != "f" or dtype.itemsize > 8 or is_column_order:
        order = ", column by column" if is_column_order else ""
        raise DataError(
            f"{key}: expected a matrix (rows x columns) of float16, float32 or float64, row by row, found shape "
            f"{shape} of {dtype}{order}. {NOTHING_WRITTEN} "
            f"Save it as numpy.ascontiguousarray(features, dtype='float32')."
        )
    num_rows, num_columns = shape
    if not 1 <= num_columns <= MAX_FEATURE_COLUMNS:
        raise DataError(f"{key}: expected 1 to {MAX_FEATURE_COLUMNS} columns, found {num_columns}. {NOTHING_WRITTEN}")
    data_offset = head.tell()
    expected_bytes = data_offset + num_rows * num_columns * dtype.itemsize
    if size_bytes != expected_bytes:
        is_short = "is truncated" if size_bytes < expected_bytes else "has bytes behind its end"
        raise DataError(
            f"{key}: {is_short}: its header says {num_rows} x {num_columns} of {dtype}, that is {expected_bytes} "
            f"bytes, found {size_bytes}. {NOTHING_WRITTEN} Copy the file again."
        )
    return NpyFacts(num_rows=num_rows, num_columns=num_columns, dtype=dtype.str, data_offset=data_offset)


def check_text(filesystem: pafs.FileSystem, path: str, *, key: str) -> TextFacts:
    """Read the header of a CSV, TSV or atomic file. A byte order mark, CRLF, blank lines and spaces are fine.

    Raises:
        DataError: The file is empty, binary, not UTF-8, or names a column twice.
    """
    with open_raw(filesystem, path, key=key) as file:
        size_bytes = file.size()
        head = file.read_at(min(size_bytes, TEXT_HEAD_BYTES), 0)
    if b"\0" in head or head.startswith(_PARQUET_MAGIC):
        raise DataError(
            f"{key}: {size_bytes} bytes, expected text, found binary data. {NOTHING_WRITTEN} Name the file by its "
            f"kind, such as .parquet."
        )
    lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if len(head) < size_bytes:
        lines = lines[:-1]  # its end was not read
    number = next((number for number, line in enumerate(lines) if line.strip()), None)
    if number is None:
        raise DataError(
            f"{key}: {size_bytes} bytes, expected a header line, found none. {NOTHING_WRITTEN} Copy it again."
        )
    try:
        text = [line.decode() for line in lines[number:]]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{key}: expected UTF-8 text, found other bytes. {NOTHING_WRITTEN} Convert the file."
        ) from error
    delimiter = next((mark for mark in "\t,;" if mark in text[0]), ",")
    header = tuple(name.strip().strip('"') for name in text[0].split(delimiter))
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{key}: column {repeated[0]!r} stands there twice. {NOTHING_WRITTEN} Rename one.")
    cells = tuple(tuple(line.rstrip("\r").split(delimiter)) for line in text[1:1000] if line.strip())
    return TextFacts(delimiter=delimiter, header=header, num_header_lines=number + 1, first_cells=cells)


def open_raw(filesystem: pafs.FileSystem, path: str, *, key: str) -> pa.NativeFile:
    """Open a raw file for reading at any place. MissingObjectError or AccessError if that fails."""
    try:
        return filesystem.open_input_file(path)
    except FileNotFoundError as error:
        raise MissingObjectError(f"{key}: does not exist in the source. {NOTHING_WRITTEN} Check the path.") from error
    except OSError as error:
        raise AccessError(
            f"{key}: cannot be opened. {NOTHING_WRITTEN} Check the permissions and the endpoint."
        ) from error
