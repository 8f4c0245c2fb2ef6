"""Requests as rows of a table, and back. Digests are 32 bytes there, 64 hexadecimal digits elsewhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tru_core.errors import IntegrityError
from workflows.deletions.ledger.records import LedgerRequest
from workflows.storage import FileEntry, ObjectStore, put_file, read_verified
from workflows.storage.parquet import parquet_bytes

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
ROWS_PER_GROUP = 8192  # what is unpacked to read one request
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
    dictionaries = [name for name in table.column_names if name not in _HIGH_VARIETY]
    body = parquet_bytes(table, compression_level=1, use_dictionary=dictionaries, row_group_size=ROWS_PER_GROUP)
    return put_file(store, key, body)


def read_table(store: ObjectStore, entry: FileEntry) -> pa.Table:
    """Read a table whose columns are some of :data:`ROW_SCHEMA`.

    Raises:
        IntegrityError: The file differs from its digest, or has other columns.
    """
    return read_columns(read_verified(store, entry), entry.key)


def read_columns(body: bytes, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all columns of a table's bytes, or some. Raises as :func:`read_table`."""
    with _parquet_errors(key):
        return _opened(body, key).read(columns=None if columns is None else list(columns))


def read_rows(body: bytes, key: str, request_ids: Sequence[str]) -> pa.Table:
    """Read the rows of some requests; parts of the file that have none of them are not unpacked."""
    wanted = pa.array(request_ids, type=pa.string())
    with _parquet_errors(key):
        file = _opened(body, key)
        places = pc.index_in(wanted, value_set=file.read(columns=["request_id"]).column("request_id")).drop_null()
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        groups = np.unique(np.searchsorted(np.cumsum(sizes), places.to_numpy(), side="right"))
        table = file.read_row_groups([int(group) for group in groups])
    return table.filter(pc.is_in(table.column("request_id"), value_set=wanted))


def _opened(body: bytes, key: str) -> pq.ParquetFile:
    file = pq.ParquetFile(pa.BufferReader(body))
    schema = file.schema_arrow
    known = [ROW_SCHEMA.field(name) for name in schema.names if name in ROW_SCHEMA.names]
    if known != [schema.field(name) for name in schema.names] or "request_id" not in schema.names:
        raise IntegrityError(f"{key} has columns that the ledger does not know. It was not used.")
    return file


@contextmanager
def _parquet_errors(key: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{key} cannot be read as parquet: {error}. It was not used.") from error
