"""Read columns of a Parquet file in little memory, whatever the file says of itself.

The footer is not believed. The page headers are read first (:mod:`workflows.data.parquet_pages`), and so is the longest
text of a dictionary, since a single one may stand in a million rows. Then rows are read in batches whose size follows
from both. Imports and requests read Parquet by :func:`read_bounded`.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tru_core.errors import DataError
from workflows.data.parquet_footer import open_parquet, reading_error
from workflows.data.parquet_pages import Page, read_pages

MAX_CELL_BYTES = 2**16
MAX_BATCH_ROWS = 2**16
SMALL_BYTES = 256 * 2**20  # what may be open at once of any file
MAX_OPEN_BYTES = 2**30  # ... and of a file that is as large itself
MAX_DICTIONARY_ENTRIES = 4_000_000
_BATCH_BYTES = 64 * 2**20
_LIST_RATIO = 64  # how much larger than their bytes in the file the lists of a row group may become
_ENCODINGS = {0, 2, 3, 5, 8, 9}  # not DELTA_(LENGTH_)BYTE_ARRAY: their pages can claim any number of lengths
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}


@dataclass(frozen=True)
class _Chunk:
    """A column of a row group: where its bytes lie and what its pages hold."""

    leaf: pq.ColumnSchema
    start: int
    body: memoryview
    pages: list[Page]
    codec: str
    is_kept_as_dictionary: bool  # by the reader, because the writer had it so

    @property
    def dictionaries(self) -> list[Page]:
        return [page for page in self.pages if page.is_dictionary]

    @property
    def data_pages(self) -> list[Page]:
        return [page for page in self.pages if not page.is_dictionary]


def read_bounded(
    source: bytes | pa.NativeFile,
    *,
    columns: Sequence[str],
    name: str,
    max_rows: int | None = None,
    max_bytes: int | None = None,
    row_group: int | None = None,
    unchanged: str = "Nothing was written.",
) -> Iterator[pa.RecordBatch]:
    """Read some columns of a Parquet file, or of one row group of it.

    Text comes as text also where it was stored as a dictionary. A cell of text has at most ``MAX_CELL_BYTES``.

    Args:
        name: What to call the file in messages.
        max_rows: Of the whole file.
        max_bytes: Of all that is yielded, unpacked. None: without limit, since what is yielded is not kept.
        unchanged: What is safe, for messages.

    Yields:
        Batches in the order of the rows, none of them empty. A row stands in one batch.

    Raises:
        DataError: The file is damaged, has no such column, unpacks to too much, or has too many rows.
        IntegrityError: The file uses an extension type.
        TransientError: The storage failed while reading.
    """
    file = pa.BufferReader(source) if isinstance(source, bytes) else source
    parquet = open_parquet(file, name=name, unchanged=unchanged)
    if max_rows is not None and parquet.metadata.num_rows > max_rows:
        raise DataError(f"{name}: expected at most {max_rows} rows, found {parquet.metadata.num_rows}. {unchanged}")
    for column in columns:
        if column not in parquet.schema_arrow.names:
            raise DataError(f"{name}: there is no column {column}. {unchanged} Write the file again.")
    groups = range(parquet.metadata.num_row_groups) if row_group is None else [row_group]
    num_bytes = first_row = 0
    for group in groups:
        for batch in _read_group(file, parquet, group, columns=columns, name=name, unchanged=unchanged):
            _refuse_long_cells(batch, first_row, name=name, unchanged=unchanged)
            num_bytes += batch.nbytes
            if max_bytes is not None and num_bytes > max_bytes:
                raise DataError(f"{name}: unpacks to more than {max_bytes >> 20} MiB. {unchanged} Part the file.")
            yield batch
            first_row += batch.num_rows


def _read_group(
    file: pa.NativeFile, parquet: pq.ParquetFile, group: int, *, columns: Sequence[str], name: str, unchanged: str
) -> Iterator[pa.RecordBatch]:
    where = f"{name}, row group {group + 1}"
    num_rows = parquet.metadata.row_group(group).num_rows
    if num_rows == 0:
        return
    seen = 0
    try:
        chunks = _open_chunks(file, parquet, group, columns=columns, where=where, unchanged=unchanged)
        batch_rows = _plan_batches(chunks, where=where, unchanged=unchanged)
        reader = pq.ParquetFile(
            pa.PythonFile(_HeldChunks(file, chunks), mode="r"),
            metadata=parquet.metadata,
            pre_buffer=False,
            buffer_size=2**20,
            page_checksum_verification=True,
            arrow_extensions_enabled=False,
        )
        for batch in reader.iter_batches(batch_rows, row_groups=[group], columns=list(columns), use_threads=False):
            batch.validate(full=True)
            seen += batch.num_rows
            yield _without_dictionaries(batch.select(list(columns)))
    except (pa.ArrowException, OSError) as error:
        raise reading_error(error, where, what="a page is damaged", unchanged=unchanged) from None
    if seen != num_rows:
        raise DataError(f"{where}: the footer says {num_rows} rows, found {seen}. {unchanged} Write the file again.")


def _open_chunks(
    file: pa.NativeFile, parquet: pq.ParquetFile, group: int, *, columns: Sequence[str], where: str, unchanged: str
) -> list[_Chunk]:
    """Read the bytes of some columns of a row group, and the headers of their pages."""
    facts = parquet.metadata.row_group(group)
    advice = f"{unchanged} Write the file again."
    chunks = []
    for number in range(facts.num_columns):
        leaf = parquet.schema.column(number)
        column = next((name for name in columns if leaf.path == name or leaf.path.startswith(f"{name}.")), None)
        if column is None:
            continue
        own = f"{where}, column {column}"
        _check_facts(file, parquet, group, leaf.path, where=own, advice=advice)
        chunk = facts.column(number)
        is_flat = leaf.max_repetition_level == 0
        if leaf.physical_type == "BYTE_ARRAY" and leaf.path != column:
            raise DataError(f"{own}: expected text, or lists of numbers, found text inside lists. {unchanged}")
        if chunk.num_values < facts.num_rows or (is_flat and chunk.num_values != facts.num_rows):
            found = f"{chunk.num_values} values in {facts.num_rows} rows"
            raise DataError(f"{own}: the footer contradicts itself: {found}. {advice}")
        start = chunk.data_page_offset
        if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
            start = chunk.dictionary_page_offset
        end = start + chunk.total_compressed_size
        if start < 4 or end < start or end > file.size():
            raise DataError(f"{own}: lies outside the file, as the footer has it. {advice}")
        body = memoryview(file.read_at(end - start, start))
        pages = read_pages(body, num_values=chunk.num_values, where=own, advice=advice)
        _check_pages(pages, chunk.num_values, width=_width(leaf), where=own, advice=advice)
        is_kept = pa.types.is_dictionary(parquet.schema_arrow.field(column).type)
        chunks.append(_Chunk(leaf, start, body, pages, chunk.compression, is_kept))
    return chunks


def _check_facts(
    file: pa.NativeFile, parquet: pq.ParquetFile, group: int, path: str, *, where: str, advice: str
) -> None:
    """Refuse what the footer says of a column if the library cannot take it.

    Asking for it would end the process, as the library catches such errors only on its way to the column's bytes. So it
    is sent that way first, with a file that gives no bytes.
    """
    probe = _NoBytes(file)
    try:
        reader = pq.ParquetFile(
            pa.PythonFile(probe, mode="r"), metadata=parquet.metadata, pre_buffer=False, buffer_size=2**12
        )
        next(reader.iter_batches(1, row_groups=[group], columns=[path], use_threads=False), None)
    except (pa.ArrowException, OSError):
        if not probe.is_asked:
            raise DataError(f"{where}: the parquet footer is damaged. {advice}") from None


def _check_pages(pages: list[Page], num_values: int, *, width: int, where: str, advice: str) -> None:
    held = sum(page.num_values for page in pages if not page.is_dictionary)
    if held != num_values:
        raise DataError(f"{where}: the footer says {num_values} values, its pages {held}. {advice}")
    for page in pages:
        if page.is_dictionary and page.num_values > min(MAX_DICTIONARY_ENTRIES, page.num_bytes // width):
            raise DataError(
                f"{where}: a dictionary claims {page.num_values} values in {page.num_bytes} bytes. {advice}"
            )
    if any(page.encoding not in _ENCODINGS for page in pages):
        raise DataError(
            f"{where}: expected plain or dictionary encoding, found one that can unpack to any size "
            f"(such as DELTA_BYTE_ARRAY). {advice[: advice.rindex(' Write')]} Write the file with dictionaries."
        )


def _width(leaf: pq.ColumnSchema) -> int:
    return _WIDTHS.get(leaf.physical_type) or max(1, leaf.length)


def _plan_batches(chunks: list[_Chunk], *, where: str, unchanged: str) -> int:
    """How many rows a batch may have, so that what is open at once stays small.

    Raises:
        DataError: It cannot: a page, a cell or the lists of a row group are too large.
    """
    stored = sum(len(chunk.body) for chunk in chunks)
    open_bytes = sum(_open_bytes(chunk) for chunk in chunks)
    if open_bytes > min(MAX_OPEN_BYTES, max(SMALL_BYTES, 4 * stored)):
        raise DataError(
            f"{where}: pages of {open_bytes >> 20} MiB lie in {stored} bytes. Pages that unpack to so much are not "
            f"read. {unchanged} Write the file with smaller pages or row groups."
        )
    batch_rows = MAX_BATCH_ROWS
    for chunk in chunks:
        if chunk.leaf.max_repetition_level:
            _refuse_large_lists(chunk, where=where, unchanged=unchanged)
            num_bytes = (_width(chunk.leaf) + 4) * sum(page.num_values for page in chunk.data_pages)
            batch_rows = min(batch_rows, max(1, MAX_BATCH_ROWS * _BATCH_BYTES // max(num_bytes, _BATCH_BYTES)))
            continue
        while batch_rows > 1 and _most_bytes(chunk, batch_rows) > _BATCH_BYTES:
            batch_rows //= 2
        if chunk.leaf.physical_type == "BYTE_ARRAY":
            longest = max((_longest_entry(chunk, page) for page in chunk.dictionaries), default=1)
            if longest > MAX_CELL_BYTES:
                raise _long_cell(f"{where}, column {chunk.leaf.path}", longest, unchanged)
            batch_rows = min(batch_rows, max(1, _BATCH_BYTES // max(1, longest)))
    return batch_rows


def _open_bytes(chunk: _Chunk) -> int:
    sizes = [page.num_bytes for page in chunk.data_pages]
    # A column that is kept as a dictionary gathers the values of all pages.
    kept = sum(sizes) if chunk.is_kept_as_dictionary else max(sizes, default=0)
    return kept + sum(page.num_bytes + 40 * page.num_values for page in chunk.dictionaries)


def _longest_entry(chunk: _Chunk, page: Page) -> int:
    """The size of the longest text in a dictionary. Each entry is four bytes that say how many bytes follow."""
    body = chunk.body[page.start : page.start + page.stored_bytes]
    if chunk.codec != "UNCOMPRESSED":
        codec = pa.Codec("lz4_raw" if chunk.codec == "LZ4" else chunk.codec.lower())
        body = memoryview(codec.decompress(pa.py_buffer(body), page.num_bytes))
    position = longest = 0
    for _ in range(page.num_values):
        size = int.from_bytes(body[position : position + 4], "little")
        position += 4 + size
        longest = max(longest, size)
        if position > len(body):
            raise pa.ArrowInvalid("a dictionary is shorter than it says")
    return longest


def _refuse_large_lists(chunk: _Chunk, *, where: str, unchanged: str) -> None:
    num_values = sum(page.num_values for page in chunk.data_pages)
    num_bytes = (_width(chunk.leaf) + 4) * num_values  # 4: levels, which say where a list ends
    if num_bytes > max(SMALL_BYTES, _LIST_RATIO * len(chunk.body)):
        raise DataError(
            f"{where}: lists of {num_bytes >> 20} MiB lie in {len(chunk.body)} bytes. Lists that unpack to so much are "
            f"not read. {unchanged} Write the file with smaller row groups."
        )


def _most_bytes(chunk: _Chunk, batch_rows: int) -> int:
    """The most that the pages hold which any ``batch_rows`` rows in a row touch. For columns without lists."""
    pages = chunk.data_pages
    ends = np.cumsum([page.num_values for page in pages])
    starts = np.concatenate([[0], ends[:-1]])
    sizes = np.concatenate([[0], np.cumsum([page.num_bytes for page in pages])])
    beyond = np.searchsorted(starts, ends - 1 + batch_rows)  # the first page that is not touched any more
    return int((sizes[beyond] - sizes[:-1]).max(initial=0))


def _refuse_long_cells(batch: pa.RecordBatch, first_row: int, *, name: str, unchanged: str) -> None:
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        sizes = pc.binary_length(values) if _is_text(values.type) else None
        longest = pc.max(sizes).as_py() if sizes is not None else None
        if longest is not None and longest > MAX_CELL_BYTES:
            row = first_row + pc.index(sizes, longest).as_py() + 1
            raise _long_cell(f"{name}, column {column}, row {row}", longest, unchanged)


def _without_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    arrays = [values.dictionary_decode() if pa.types.is_dictionary(values.type) else values for values in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _long_cell(where: str, num_bytes: int, unchanged: str) -> DataError:
    return DataError(
        f"{where}: expected cells of at most {MAX_CELL_BYTES >> 10} KiB, found {num_bytes >> 10} KiB. {unchanged} "
        f"Correct the row, or leave it out."
    )


class _HeldChunks(io.RawIOBase):
    """A file of which some parts were read before: these are not fetched again."""

    def __init__(self, file: pa.NativeFile, chunks: list[_Chunk]) -> None:
        super().__init__()
        self._file, self._chunks, self._position, self._size = file, chunks, 0, file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int | None = -1, /) -> bytes | memoryview:
        start = self._position
        end = self._size if size is None or size < 0 else min(self._size, start + size)
        self._position = max(start, end)
        for chunk in self._chunks:
            if chunk.start <= start and end <= chunk.start + len(chunk.body):
                return chunk.body[start - chunk.start : end - chunk.start]
        return self._file.read_at(max(0, end - start), start)


class _NoBytes(_HeldChunks):
    """A file that gives no bytes, and notes that somebody asked for them."""

    def __init__(self, file: pa.NativeFile) -> None:
        super().__init__(file, [])
        self.is_asked = False

    def read(self, size: int | None = -1, /) -> bytes:
        self.is_asked = True
        raise OSError("no bytes are given")
