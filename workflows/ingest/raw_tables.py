"""Read pieces of raw tables: a part of a row group of a parquet file, or a text file from its start to its end."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
from numpy.typing import NDArray

from tru_core.errors import DataError
from workflows.data.bounded_parquet import read_bounded
from workflows.data.ids import NULL_WORDS
from workflows.data.parquet_footer import reading_error
from workflows.ingest.layouts import TableFile
from workflows.ingest.opening import open_raw, open_text
from workflows.ingest.problems import MAX_ROWS_NAMED, NOTHING_WRITTEN, Problem, describe_rows, raise_problems
from workflows.ingest.text_files import TextPlace, check_text, name_lines, open_quote, ragged_lines

TEXT_BLOCK_BYTES = 16 * 2**20  # also the longest line


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
    """Read some columns of a piece, in parts that bounds of memory set.

    Yields:
        Tables, and the number of each of their rows in the file, from 0.

    Raises:
        DataError: The file is damaged, unpacks to too much, or a line of text has too few or too many cells.
        AccessError: The file cannot be opened any more.
        TransientError: The storage failed while reading.
    """
    parts = _read_text if table.is_text else _read_row_group
    yield from parts(filesystem, table, piece, columns)


def read_tables(
    filesystem: pafs.FileSystem, table: TableFile, *, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    """Read some columns of a whole file, one row group or block of text after the other. Raises as ``read_piece``."""
    for piece in plan_pieces([table], 2**62):
        yield from read_piece(filesystem, table, piece, columns=columns)


def _read_row_group(
    filesystem: pafs.FileSystem, table: TableFile, piece: Piece, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    with open_raw(filesystem, table.path, key=table.key) as file:
        first = 0
        for batch in read_bounded(file, columns=columns, name=table.key, row_group=piece.row_group):
            start, stop = max(piece.start, first), min(piece.stop, first + batch.num_rows)
            if start < stop:
                part = pa.Table.from_batches([batch.slice(start - first, stop - start)])
                yield part, np.arange(start, stop, dtype=np.int64) + piece.first_row
            first += batch.num_rows
            if first >= piece.stop:
                return


def text_place(filesystem: pafs.FileSystem, table: TableFile) -> TextPlace:
    """Look at the head of a text file again, for what its reader must know."""
    facts = check_text(filesystem, table.path, key=table.key, compression=table.compression)
    return TextPlace(
        key=table.key,
        path=table.path,
        compression=table.compression,
        delimiter=table.delimiter,
        quote=facts.quote,
        num_columns=len(table.columns),
        num_header_lines=table.num_header_lines,
    )


def raise_by_line(filesystem: pafs.FileSystem, tables: Sequence[TableFile], problems: Iterable[Problem]) -> None:
    """Raise DataError about everything that is wrong, with the lines of text files, or return if nothing is."""
    found = list(problems)
    wrong = {problem.file for problem in found}
    places = [text_place(filesystem, table) for table in tables if table.is_text and table.key in wrong]
    raise_problems(name_lines(found, filesystem, places))


def _read_text(
    filesystem: pafs.FileSystem, table: TableFile, piece: Piece, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    place = text_place(filesystem, table)
    num_ragged = num_quotes = 0

    def count_ragged(row: pacsv.InvalidRow) -> str:
        nonlocal num_ragged
        num_ragged += bool(row.text.strip())
        return "skip"

    def count_quotes(body: bytes) -> None:
        nonlocal num_quotes
        num_quotes += body.count(place.quote.encode())

    file = open_text(filesystem, table.path, key=table.key, compression=table.compression)
    with file, pa.PythonFile(_Watched(file, count_quotes if place.quote else None), mode="r") as watched:
        try:
            reader = _open_csv(watched, table, place, columns=columns, count_ragged=count_ragged)
            first_row = 0
            for batch in reader:
                rows = np.arange(first_row, first_row + batch.num_rows, dtype=np.int64)
                first_row += batch.num_rows
                if batch.num_rows:
                    yield pa.Table.from_batches([batch]), rows
        except (pa.ArrowException, OSError) as error:
            if not (isinstance(error, pa.ArrowInvalid) and "Empty CSV" in str(error)):
                what = "a line cannot be read (no UTF-8, an open quote, or longer than 16 MiB)"
                raise reading_error(error, table.key, what=what, unchanged=NOTHING_WRITTEN) from None
    if num_ragged:
        raise _ragged_error(filesystem, table, place, num_ragged)
    line = open_quote(filesystem, place) if num_quotes % 2 else None
    if line is not None:
        raise DataError(
            f"{table.key}, line {line}: a quotation mark is not closed, so all that follows would be part of one cell. "
            f"{NOTHING_WRITTEN} Close it, or double it where it belongs to the text."
        )


def _open_csv(
    file: pa.NativeFile,
    table: TableFile,
    place: TextPlace,
    *,
    columns: Sequence[str],
    count_ragged: Callable[[pacsv.InvalidRow], str],
) -> pacsv.CSVStreamingReader:
    names = list(table.columns)
    return pacsv.open_csv(
        file,
        read_options=pacsv.ReadOptions(
            use_threads=False, block_size=TEXT_BLOCK_BYTES, column_names=names, skip_rows=table.num_header_lines
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=table.delimiter,
            quote_char=place.quote or False,
            newlines_in_values=place.quote != "",
            invalid_row_handler=count_ragged,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=list(columns),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=["", *NULL_WORDS],
        ),
    )


def _ragged_error(filesystem: pafs.FileSystem, table: TableFile, place: TextPlace, num_ragged: int) -> DataError:
    num_columns = len(table.columns)
    lines = ragged_lines(filesystem, place, limit=MAX_ROWS_NAMED)
    where = describe_rows(lines, num_ragged, unit="line") if lines else f"{num_ragged} lines"
    return DataError(
        f"{table.key}: expected {num_columns} cells in every line, found fewer or more in {where}. {NOTHING_WRITTEN} "
        f"Correct these lines; names of rows that a program wrote before each line need a name in the header too."
    )


class _Watched(io.RawIOBase):
    """A file that shows to a function what was read from it."""

    def __init__(self, file: pa.NativeFile, look: Callable[[bytes], None] | None) -> None:
        super().__init__()
        self._file, self._look, self._position = file, look, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        body = self._file.read(size)
        self._position += len(body)
        if self._look is not None:
            self._look(body)
        return body


def unique_strings(arrays: Sequence[pa.Array]) -> pa.Array:
    """All different values of some arrays of strings."""
    chunks = pa.chunked_array(list(arrays), type=pa.string())
    return pc.unique(chunks).drop_null()
