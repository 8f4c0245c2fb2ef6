"""Open a Parquet file by its footer alone: is it whole, could it run code, could it fill the memory?

Parquet files may name Arrow extension types, and a process that has imported ray.data could unpickle what lies in such
a column. So the footer is searched as bytes, before pyarrow builds a schema from it.
"""

import base64
import binascii
import re
import struct
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq

from tru_core.errors import DataError, IntegrityError, TransientError, TruError

MAX_FOOTER_BYTES = 16 * 2**20  # a reader makes about 40 times as much of it
MAX_ROW_GROUP_BYTES = 8 * 2**30  # uncompressed: what one task may have to hold
_PARQUET_MAGIC = b"PAR1"
_ARROW_SCHEMA = re.compile(rb"ARROW:schema")
_EXTENSION_MARK = b"ARROW:extension:"


def open_parquet(file: pa.NativeFile, *, name: str, unchanged: str) -> pq.ParquetFile:
    """Check the footer of a Parquet file, then open it.

    Args:
        unchanged: What is safe, for messages: ``Nothing was written.``

    Raises:
        DataError: The file is empty, truncated, no Parquet, or contradicts itself.
        IntegrityError: The file uses an extension type.
        TransientError: The storage failed while reading.
    """
    try:
        _refuse_extension_types(_read_footer(file, name, unchanged), name, unchanged)
        parquet = pq.ParquetFile(file, pre_buffer=False, arrow_extensions_enabled=False)
        names = parquet.schema_arrow.names
        sizes = [_sizes(parquet.metadata, group) for group in range(parquet.metadata.num_row_groups)]
    except (pa.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:
        raise reading_error(error, name, what="the parquet footer is damaged", unchanged=unchanged) from None
    if any(size < 0 for pair in sizes for size in pair) or sum(rows for rows, _ in sizes) != parquet.metadata.num_rows:
        raise DataError(f"{name}: the parquet footer contradicts itself about its rows. {unchanged} Write it again.")
    largest = max((num_bytes for _, num_bytes in sizes), default=0)
    if largest > MAX_ROW_GROUP_BYTES:
        raise DataError(
            f"{name}: a row group unpacks to {largest} bytes, at most {MAX_ROW_GROUP_BYTES} are read at once. "
            f"{unchanged} Write the file with smaller row groups."
        )
    for column, number in Counter(names).items():
        if number > 1:
            places = [str(place) for place, other in enumerate(names, start=1) if other == column]
            found = f"columns {' and '.join(places[:2])} of {len(names)} have the same name"
            raise DataError(f"{name}: {found}. {unchanged} Rename one.")
    return parquet


def reading_error(error: Exception, where: str, *, what: str, unchanged: str) -> TruError:
    """Tell damaged bytes from a storage that failed. The library's own text is left out: it may quote the row."""
    if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
        return TransientError(f"{where}: the storage failed while reading. {unchanged} Run again.")
    return DataError(f"{where}: {what}. {unchanged} Copy the file again, or write it anew.")


def _sizes(metadata: pq.FileMetaData, number: int) -> tuple[int, int]:
    group = metadata.row_group(number)
    return group.num_rows, group.total_byte_size


def _read_footer(file: pa.NativeFile, name: str, unchanged: str) -> bytes:
    size_bytes = file.size()
    head = file.read_at(4, 0) if size_bytes >= 4 else b""
    tail = file.read_at(8, size_bytes - 8) if size_bytes >= 12 else b""
    if head != _PARQUET_MAGIC or tail[4:] != _PARQUET_MAGIC:
        found = "no bytes at all" if size_bytes == 0 else "other bytes"
        raise DataError(
            f"{name}: {size_bytes} bytes, expected the parquet magic b'PAR1' at its start and end, found {found}. It "
            f"is empty, truncated or of another kind. {unchanged} Copy it again, or name it by its kind (.csv)."
        )
    footer_bytes = struct.unpack("<I", tail[:4])[0]
    if footer_bytes > min(MAX_FOOTER_BYTES, size_bytes - 12):
        raise DataError(
            f"{name}: the footer claims {footer_bytes} bytes, expected at most "
            f"{min(MAX_FOOTER_BYTES, size_bytes - 12)}. {unchanged} Write the file again."
        )
    return file.read_at(footer_bytes, size_bytes - 8 - footer_bytes)


def _refuse_extension_types(footer: bytes, name: str, unchanged: str) -> None:
    is_suspect = _EXTENSION_MARK in footer
    for match in _ARROW_SCHEMA.finditer(footer):
        is_suspect = is_suspect or _holds_extension(footer, match.end())
    if is_suspect:
        raise IntegrityError(
            f"{name}: a column has an Arrow extension type (or its schema cannot be checked for one). Such a type can "
            f"run code when it is read, so the file was not opened. {unchanged} Write the columns with plain "
            f"types: integers, strings, floats and lists of floats."
        )


def _holds_extension(footer: bytes, position: int) -> bool:
    """Whether the Arrow schema behind its key names an extension type, or cannot be read: then it is refused too."""
    length, shift = 0, 0
    position += 1  # the header byte of the Thrift field
    while position < len(footer) and shift < 35:
        byte = footer[position]
        position += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    text = footer[position : position + length]
    try:
        schema = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return True
    return len(text) != length or length == 0 or _EXTENSION_MARK in schema
