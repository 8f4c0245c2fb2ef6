"""Read pieces of raw tables: a part of a row group of a parquet file, or a text file from its start to its end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tru_core.errors import DataError, TransientError, TruError
from workflows.ingest.gates import open_raw
from workflows.ingest.layouts import TableFile
from workflows.ingest.problems import NOTHING_WRITTEN, describe_rows

TEXT_BLOCK_BYTES = 16 * 2**20  # also the longest line
_NULL_WORDS = ["", "NaN", "nan", "null", "NULL", "None"]


@dataclass(frozen=True)
class Piece:
    """What one task reads: rows ``start`` to ``stop`` of a row group, or all of a text file.

    ``first_row`` is the number of the row group's first row in its file.
    """

    table: int
    row_group: int = 0
    start: int = 0
    stop: int = 0
    first_row: int = 0


def plan_pieces(tables: Sequence[TableFile], rows_per_task: int) -> list[Piece]:
    """Cut tables into pieces of about ``rows_per_task`` rows."""
    pieces = []
    for number, table in enumerate(tables):
        if table.is_text:
            pieces.append(Piece(number))
        first_row = 0
        for group, num_rows in enumerate(table.row_group_rows):
            num_parts = max(1, num_rows // rows_per_task)
            bounds = [num_rows * part // num_parts for part in range(num_parts + 1)]
            pieces += [Piece(number, group, start, stop, first_row) for start, stop in pairwise(bounds) if stop > start]
            first_row += num_rows
    return pieces


def read_piece(
    filesystem: pafs.FileSystem, table: TableFile, piece: Piece, *, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    """Read some columns of a piece.

    Yields:
        Tables, and the number of each of their rows in the file.

    Raises:
        DataError: The file is damaged, or a line of text has too few or too many cells.
        AccessError: The file cannot be opened any more.
        TransientError: The storage failed while reading.
    """
    with open_raw(filesystem, table.path, key=table.key) as file:
        if table.is_text:
            yield from _read_text(file, table, columns)
        else:
            yield _read_row_group(file, table, piece, columns)


def read_tables(
    filesystem: pafs.FileSystem, table: TableFile, *, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    """Read some columns of a whole file, one row group or block of text after the other. Raises as ``read_piece``."""
    for piece in plan_pieces([table], 2**62):
        yield from read_piece(filesystem, table, piece, columns=columns)


def _read_row_group(
    file: pa.NativeFile, table: TableFile, piece: Piece, columns: Sequence[str]
) -> tuple[pa.Table, NDArray[np.int64]]:
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        group = parquet.read_row_group(piece.row_group, columns=list(columns), use_threads=False)
        part = group.slice(piece.start, piece.stop - piece.start)
        part.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise _reading_error(error, f"{table.key}, row group {piece.row_group}", "a page is damaged") from error
    return part, np.arange(piece.start, piece.stop, dtype=np.int64) + piece.first_row


def _read_text(
    file: pa.NativeFile, table: TableFile, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    ragged: list[int] = []

    def note_ragged(row: pacsv.InvalidRow) -> str:
        if row.text.strip():
            ragged.append(row.number - table.num_header_lines - 1)
        return "skip"

    names = list(table.columns)
    is_quoted = table.delimiter != "\t"  # in tab-separated files a quotation mark is part of a title
    try:
        reader = pacsv.open_csv(
            file,
            read_options=pacsv.ReadOptions(
                use_threads=False, block_size=TEXT_BLOCK_BYTES, column_names=names, skip_rows=table.num_header_lines
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=table.delimiter,
                quote_char='"' if is_quoted else False,
                newlines_in_values=is_quoted,
                invalid_row_handler=note_ragged,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=list(columns),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=_NULL_WORDS,
            ),
        )
        first_row = 0
        for batch in reader:
            rows = np.arange(first_row, first_row + batch.num_rows, dtype=np.int64)
            first_row += batch.num_rows
            if batch.num_rows:
                yield pa.Table.from_batches([batch]), rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, pa.ArrowInvalid) and "Empty CSV" in str(error):
            return
        raise _reading_error(error, table.key, "a line cannot be read (no UTF-8, or an open quote)") from error
    if ragged:
        raise DataError(
            f"{table.key}: expected {len(names)} cells in every line, found fewer or more in "
            f"{describe_rows(ragged[:5], len(ragged))}. {NOTHING_WRITTEN} Correct these lines."
        )


def _reading_error(error: Exception, where: str, what: str) -> TruError:
    """Tell damaged bytes from a storage that failed. The library's own text is left out: it may quote the row."""
    if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
        return TransientError(f"{where}: the storage failed while reading. {NOTHING_WRITTEN} Run again.")
    return DataError(f"{where}: {what}. {NOTHING_WRITTEN} Copy the file again, or write it anew.")


def unique_strings(arrays: Sequence[pa.Array]) -> pa.Array:
    """All different values of some arrays of strings."""
    chunks = pa.chunked_array(list(arrays), type=pa.string())
    return pc.unique(chunks).drop_null()
