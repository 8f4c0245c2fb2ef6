"""Deletion requests from Parquet. Rows are counted from 1."""

import pyarrow as pa
import pyarrow.compute as pc

from tru_core.errors import DataError
from workflows.data.bounded_parquet import read_bounded
from workflows.data.ids import WHITESPACE
from workflows.data.parquet_footer import open_parquet
from workflows.data.request_columns import ID_COLUMNS, UNCHANGED, check_columns
from workflows.data.requests import MAX_REQUESTS, DeletionRequest, collect_requests

MAX_TABLE_BYTES = 256 * 2**20


def parse_parquet(body: bytes, *, name: str) -> list[DeletionRequest]:
    """Read requests from the bytes of a Parquet file, sorted by request id.

    Text may be stored as a dictionary, and ids as whole numbers, floats or decimals, as imports read them.

    Raises:
        DataError: A column is missing, unknown, there twice or of another type, the table is too large, or the file
            is damaged.
        ConfigError: A field is malformed.
        ConflictError: A request id stands there with different bodies.
        IntegrityError: The file could run code when it is read.
    """
    schema = open_parquet(pa.BufferReader(body), name=name, unchanged=UNCHANGED).schema_arrow
    columns = check_columns(schema.names, name)
    for column in columns:
        _check_type(column, schema.field(column).type, name)
    parts: dict[str, list[pa.Array]] = {column: [] for column in columns}
    for batch in read_bounded(
        body, columns=columns, name=name, max_rows=MAX_REQUESTS, max_bytes=MAX_TABLE_BYTES, unchanged=UNCHANGED
    ):
        for column in columns:
            parts[column].append(_plain(batch.column(column)))
    if not parts[columns[0]]:
        return []
    table = {column: pa.chunked_array(arrays).combine_chunks() for column, arrays in parts.items()}
    texts = {column: values if column in ID_COLUMNS else _texts(values) for column, values in table.items()}
    return collect_requests(texts, range(1, len(texts["request_id"]) + 1), name=name, unit="row")


def _check_type(column: str, kind: pa.DataType, name: str) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    expected = "string or integer"
    is_right = _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)
    if column in ID_COLUMNS:
        is_right = is_right or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    elif column == "verified":
        expected, is_right = "boolean or string", is_right or pa.types.is_boolean(kind)
    elif column == "received_time":
        is_time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
        expected, is_right = "timestamp with a zone, or string", is_right or is_time
    if not is_right:
        found = "lists or structures" if pa.types.is_nested(kind) else str(kind)
        raise DataError(f"{name}, column {column}: expected type {expected}, found {found}. {UNCHANGED} Cast it.")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _plain(values: pa.Array) -> pa.Array:
    """Text as strings, and NaN as the null that it stands for."""
    if _is_text(values.type):
        return values.cast(pa.string())
    if pa.types.is_floating(values.type):
        return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return values


def _texts(values: pa.Array) -> list[str]:
    """A column that holds no ids as text, "" where it is null."""
    if pa.types.is_timestamp(values.type) and values.type.tz is not None:
        values = values.cast(pa.timestamp(values.type.unit, "UTC"))
    return ["" if text is None else text.strip(WHITESPACE) for text in values.cast(pa.string()).to_pylist()]
