"""Requests as rows of a table, and back. Digests are 32 bytes there, 64 hexadecimal digits elsewhere."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tru_core.errors import IntegrityError
from workflows.ledger.records import LedgerRequest
from workflows.storage import FileEntry, ObjectStore, put_file, read_verified

DIGEST_COLUMNS = ("subject_digest", "user_digest", "item_digest")
_DIGEST = pa.binary(32)

ROW_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("kind", pa.string()),
        ("state", pa.string()),
        ("state_since", pa.string()),
        ("subject_digest", _DIGEST),
        ("user_digest", _DIGEST),
        ("item_digest", _DIGEST),
        ("submitted_at", pa.string()),
        ("received_time", pa.string()),
        ("is_time_stated", pa.bool_()),
        ("regulation", pa.string()),
        ("deadline", pa.string()),
        ("acknowledge_by", pa.string()),
        ("batch_id", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("duplicate_of", pa.string()),
        ("num_attempts", pa.int64()),
        ("payload", pa.string()),
    ]
)
_HIGH_VARIETY = ("request_id", *DIGEST_COLUMNS)  # a dictionary of these would only cost


def table_of(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ROW_SCHEMA.names) -> pa.Table:
    """Rows by column name as a table. A name that a row lacks is null there, and so is an empty digest."""
    rows = list(rows)
    arrays = []
    for name in columns:
        values = [row.get(name) for row in rows]
        if name in DIGEST_COLUMNS:
            values = [bytes.fromhex(value) if value else None for value in values]
        arrays.append(pa.array(values, type=ROW_SCHEMA.field(name).type))
    return pa.Table.from_arrays(arrays, schema=pa.schema([ROW_SCHEMA.field(name) for name in columns]))


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table by column name; digests as text, "" for null."""
    columns = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        if name in DIGEST_COLUMNS:
            values = [value.hex() if value else "" for value in values]
        columns[name] = values
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def requests_of(table: pa.Table) -> list[LedgerRequest]:
    """The requests of a whole table of :data:`ROW_SCHEMA`."""
    return [LedgerRequest(**row) for row in rows_of(table)]


def write_table(store: ObjectStore, key: str, table: pa.Table) -> FileEntry:
    """Write a table as parquet, once."""
    buffer = io.BytesIO()
    dictionaries = [name for name in table.column_names if name not in _HIGH_VARIETY]
    columns: Any = dictionaries  # the stub knows only a bool
    pq.write_table(table, buffer, compression="zstd", compression_level=1, use_dictionary=columns)
    return put_file(store, key, buffer.getvalue())


def read_table(store: ObjectStore, entry: FileEntry) -> pa.Table:
    """Read a table whose columns are some of :data:`ROW_SCHEMA`.

    Raises:
        IntegrityError: The file differs from its digest, or has other columns.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(read_verified(store, entry)))
        schema = file.schema_arrow
        is_known = all(
            name in ROW_SCHEMA.names and schema.field(name).equals(ROW_SCHEMA.field(name)) for name in schema.names
        )
        if not is_known or "request_id" not in schema.names:
            raise IntegrityError(f"{entry.key} has columns that the ledger does not know. It was not used.")
        return file.read()
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{entry.key} cannot be read as parquet: {error}. It was not used.") from error
