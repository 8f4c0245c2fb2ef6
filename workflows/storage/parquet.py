"""Parquet files as bytes: the one way in which objects of the store are written."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    """The bytes of a parquet file, by zstandard. The same table gives the same bytes with the same version of pyarrow.

    Args:
        options: Of ``pyarrow.parquet.write_table``, where a reader needs other row groups or dictionaries.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    return buffer.getvalue()
