"""Deletion requests from Parquet, read so that a small file cannot become a large table.

A few kB of Parquet can decode to gigabytes: a dictionary is repeated by number, a prefix by length. So text stays a
dictionary where the file has one, batches are small, and every cell and the sum of all are bounded while they are read.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tru_core.errors import DataError
from workflows.data.ids import WHITESPACE
from workflows.data.request_columns import ID_COLUMNS, UNCHANGED, check_columns
from workflows.data.request_tables import too_many
from workflows.data.requests import MAX_REQUESTS, DeletionRequest, collect_requests
from workflows.ingest.gates import check_parquet

MAX_TABLE_BYTES = 256 * 2**20
MAX_CELL_BYTES = 2**16
_BATCH_ROWS = 512
_MAGIC = b"PAR1"


def parse_parquet(body: bytes, *, name: str) -> list[DeletionRequest]:
    """Read requests from the bytes of a Parquet file; rows are counted from 1.

    Raises:
        DataError: A column is missing, unknown, there twice or of another type, the table is too large, or the file
            is damaged.
        ConfigError: A field is malformed.
        ConflictError: A request id stands there with different bodies.
        IntegrityError: The file could run code when it is read.
    """
    if not (body.startswith(_MAGIC) and body.endswith(_MAGIC)) or len(body) < 12:
        raise DataError(
            f"{name}: {len(body)} bytes, expected the parquet magic PAR1 at its start and end. It is empty, truncated "
            f"or of another kind. {UNCHANGED} Copy it again, or name it by its kind, such as .csv."
        )
    facts = check_parquet(cast(pafs.FileSystem, _OneFile(body)), name, key=name)
    columns = check_columns(list(facts.columns), name)
    for column in columns:
        _check_type(column, facts.columns[column], name)
    parts: dict[str, list[pa.Array]] = {column: [] for column in columns}
    for batch in _read_parquet(body, name, columns):
        for column in columns:
            parts[column].append(_plain(batch.column(column), column))
    table = {column: pa.chunked_array(arrays).combine_chunks() for column, arrays in parts.items() if arrays}
    if not table:
        return []
    numbers = range(1, len(table["request_id"]) + 1)
    texts = {column: values if column in ID_COLUMNS else _texts(values) for column, values in table.items()}
    return collect_requests(texts, numbers, name=name, unit="row")


class _OneFile:
    """A file system with one file in memory, as far as :func:`check_parquet` asks for one."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def open_input_file(self, path: str) -> pa.NativeFile:
        """The file, whatever the path."""
        return pa.BufferReader(self.body)


def _read_parquet(body: bytes, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read columns batch by batch. DataError where the table, a cell or the sum of all cells is too large."""
    num_rows = num_bytes = 0
    try:
        file = pq.ParquetFile(
            pa.BufferReader(body), read_dictionary=list(columns), page_checksum_verification=True, memory_map=False
        )
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        _check_size(sum(group.total_byte_size for group in groups), name)
        if file.metadata.num_rows > MAX_REQUESTS:
            raise too_many(file.metadata.num_rows, name)
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns), use_threads=False):
            num_rows += batch.num_rows
            if num_rows > MAX_REQUESTS:
                raise too_many(num_rows, name)
            for column in columns:
                num_bytes += _text_bytes(batch.column(column), column, num_rows - batch.num_rows, name)
            _check_size(num_bytes, name)
            yield batch
    except (pa.ArrowMemoryError, pa.ArrowCapacityError):
        raise DataError(f"{name} decodes to more than memory holds. {UNCHANGED} Write it again.") from None
    except (pa.ArrowException, OSError):  # no cause: it could quote the file
        raise DataError(
            f"{name}: a page is damaged, in or after row {num_rows + 1}. {UNCHANGED} Copy the file again."
        ) from None


def _check_size(num_bytes: int, name: str) -> None:
    if num_bytes > MAX_TABLE_BYTES:
        raise DataError(
            f"{name} decodes to {num_bytes} bytes or more, at most {MAX_TABLE_BYTES} are read. {UNCHANGED} Part it."
        )


def _text_bytes(values: pa.Array, column: str, num_before: int, name: str) -> int:
    """The bytes of a column's text, without writing it out. DataError where a cell is too long."""
    if isinstance(values, pa.DictionaryArray):
        lengths = pc.take(_lengths(values.dictionary), values.indices)
    else:
        lengths = _lengths(values)
    longest = pc.max(lengths).as_py() or 0
    if longest > MAX_CELL_BYTES:
        row = num_before + pc.index(lengths, longest).as_py() + 1
        raise DataError(
            f"{name} row {row}, column {column}: expected at most {MAX_CELL_BYTES} bytes in a cell, found {longest}. "
            f"{UNCHANGED} Write the file again with ids only."
        )
    return pc.sum(lengths).as_py() or 0


def _lengths(values: pa.Array) -> pa.Array:
    if not _is_text(values.type):
        return pa.array([0] * len(values), pa.int32())
    return pc.binary_length(values.cast(pa.large_string()) if pa.types.is_string_view(values.type) else values)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_type(column: str, kind: pa.DataType, name: str) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    expected = "string or integer"
    is_right = _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)
    if column in ID_COLUMNS:  # as imports read them
        is_right = is_right or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    elif column == "verified":
        expected, is_right = "boolean or string", is_right or pa.types.is_boolean(kind)
    elif column == "received_time":
        expected, is_right = "timestamp with a zone, or string", is_right or pa.types.is_temporal(kind)
    if not is_right:
        found = str(kind)[:40]
        raise DataError(f"{name}, column {column}: expected type {expected}, found {found}. {UNCHANGED} Cast it.")


def _plain(values: pa.Array, column: str) -> pa.Array:
    """A column without dictionary; text checked to be UTF-8; NaN as the null that it stands for."""
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    if _is_text(values.type):
        values = values.cast(pa.string())
        values.validate(full=True)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return values


def _texts(values: pa.Array) -> list[str]:
    """A column that holds no ids as text, "" where it is null."""
    if pa.types.is_timestamp(values.type) and values.type.tz is not None:
        values = values.cast(pa.timestamp(values.type.unit, "UTC"))
    return ["" if text is None else text.strip(WHITESPACE) for text in values.cast(pa.string()).to_pylist()]
