"""Delimited text: what its head says about delimiter, quotes and columns, and on which line a row stands."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

import pyarrow as pa
import pyarrow.fs as pafs

from tru_core.errors import DataError
from workflows.data.parquet_footer import reading_error
from workflows.ingest.opening import open_text
from workflows.ingest.problems import NOTHING_WRITTEN, Problem, merge_problems

TEXT_HEAD_BYTES = 2**20
_DELIMITERS = "\t,;|"
_LINE_ENDS = re.compile(rb"\r\n|\n|\r")
_BINARY = {b"PAR1": ".parquet", b"PK\x03\x04": ".xlsx or .zip", b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


@dataclass(frozen=True)
class TextFacts:
    """What the head of a delimited text file says."""

    delimiter: str
    header: tuple[str, ...]
    num_header_lines: int  # up to and with the header, blank lines before it included
    first_cells: tuple[tuple[str, ...], ...]  # some complete lines below the header
    quote: str  # around cells; "": quotation marks are part of the text


def check_text(filesystem: pafs.FileSystem, path: str, *, key: str, compression: str = "") -> TextFacts:
    """Read the header of a CSV, TSV or atomic file. A byte order mark, CRLF, blank lines and spaces are fine.

    Args:
        compression: ``gzip`` or ``zstd`` where the text lies compressed.

    Raises:
        DataError: The file is empty, binary, not UTF-8, or names a column twice.
    """
    head = _read_head(filesystem, path, key=key, compression=compression)
    is_whole = len(head) <= TEXT_HEAD_BYTES
    lines = _LINE_ENDS.split(_checked(head, key).removeprefix(b"\xef\xbb\xbf"))
    if not is_whole:
        lines = lines[:-1]  # its end was not read
    number = next((number for number, line in enumerate(lines) if line.strip()), None)
    if number is None:
        found = f"{len(head)} bytes" if is_whole else f"none in the first {TEXT_HEAD_BYTES} bytes"
        raise DataError(f"{key}: expected a header line, found {found}. {NOTHING_WRITTEN} Copy it again.")
    try:
        text = [line.decode() for line in lines[number:]]
    except UnicodeDecodeError:
        raise DataError(f"{key}: expected UTF-8 text, found other bytes. {NOTHING_WRITTEN} Convert the file.") from None
    delimiter = max(_DELIMITERS, key=text[0].count) if any(mark in text[0] for mark in _DELIMITERS) else ","
    quote = _find_quote(text, delimiter, is_whole=is_whole)
    header = tuple(name.strip().strip("\"'").strip() for name in next(_cells(text[:1], delimiter, quote), [""]))
    for place, name in enumerate(header):
        if name in header[:place]:
            raise DataError(
                f"{key}: columns {header.index(name) + 1} and {place + 1} of {len(header)} have the same name. "
                f"{NOTHING_WRITTEN} Rename one, or write a first line with the names of the columns if there is none."
            )
    rows = _cells(text[1:1000], delimiter, quote)
    cells = tuple(tuple(row) for row in rows if any(cell.strip() for cell in row))
    return TextFacts(delimiter, header, num_header_lines=number + 1, first_cells=cells, quote=quote)


def _read_head(filesystem: pafs.FileSystem, path: str, *, key: str, compression: str) -> bytes:
    """The first bytes of a text, one more than ``TEXT_HEAD_BYTES`` if it is longer than that."""
    with open_text(filesystem, path, key=key, compression=compression) as file:
        try:
            return file.read(TEXT_HEAD_BYTES + 1)
        except OSError as error:
            raise reading_error(error, key, what="cannot be read", unchanged=NOTHING_WRITTEN) from None


def _checked(head: bytes, key: str) -> bytes:
    kind = next((kind for magic, kind in _BINARY.items() if head.startswith(magic)), None)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{key}: expected UTF-8 text, found UTF-16. {NOTHING_WRITTEN} Convert the file (a spreadsheet calls it CSV "
            f"UTF-8)."
        )
    if b"\0" in head or kind is not None:
        raise DataError(
            f"{key}: expected text, found binary data. {NOTHING_WRITTEN} Name the file by its kind, such as "
            f"{kind or '.parquet'}."
        )
    return head


def _find_quote(lines: Sequence[str], delimiter: str, *, is_whole: bool) -> str:
    """Which mark stands around cells that hold the delimiter or a line's end.

    In tab-separated files a quotation mark is part of a title, unless the header's names are in quotes and all lines
    can be read so.
    """
    for mark in ('"', "'"):
        names = [name.strip() for name in lines[0].split(delimiter)]
        is_header = all(len(name) > 1 and name[0] == name[-1] == mark for name in names)
        if is_header and (delimiter != "\t" or _are_quoted(lines, delimiter, mark, is_whole=is_whole)):
            return mark
    return "" if delimiter == "\t" else '"'


def _are_quoted(lines: Sequence[str], delimiter: str, mark: str, *, is_whole: bool) -> bool:
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, quotechar=mark, strict=True)
    rows = []
    try:
        for row in reader:
            rows.append(row)
    except csv.Error:
        if is_whole or reader.line_num < len(lines):
            return False  # else a cell goes on behind the head
    return all(len(row) in (0, len(rows[0])) for row in rows)


def _cells(lines: Sequence[str], delimiter: str, quote: str) -> Iterator[list[str]]:
    """Cells of lines, up to a cell that is too long for a reader; a row in quotes may go over several lines."""
    if quote == "":
        yield from (line.split(delimiter) for line in lines)
        return
    with suppress(csv.Error):
        yield from csv.reader(
            (f"{line}\n" for line in lines), delimiter=delimiter, quotechar=quote, skipinitialspace=True
        )


# --- lines of rows --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextPlace:
    """What is needed to find the lines of a text file again."""

    key: str
    path: str
    compression: str
    delimiter: str
    quote: str
    num_columns: int
    num_header_lines: int


def name_lines(problems: Iterable[Problem], filesystem: pafs.FileSystem, places: Iterable[TextPlace]) -> list[Problem]:
    """Merge problems, and name rows of text files by their lines, as an editor counts them."""
    merged = merge_problems(problems)
    for place in places:
        wanted = {
            row for problem in merged if problem.file == place.key and problem.unit == "row" for row in problem.rows
        }
        if wanted:
            lines = _lines_of_rows(filesystem, place, wanted)
            merged = [
                replace(problem, rows=tuple(lines[row] for row in problem.rows), unit="line")
                if problem.file == place.key and all(row in lines for row in problem.rows)
                else problem
                for problem in merged
            ]
    return merged


def _lines_of_rows(filesystem: pafs.FileSystem, place: TextPlace, wanted: set[int]) -> dict[int, int]:
    last, found = max(wanted), {}
    for number, (line, _) in enumerate(_rows(filesystem, place), start=1):
        if number in wanted:
            found[number] = line
        if number == last:
            break
    return found


def ragged_lines(filesystem: pafs.FileSystem, place: TextPlace, *, limit: int) -> list[int]:
    """The first lines whose row has too few or too many cells."""
    lines = (line for line, row in _rows(filesystem, place) if len(row) != place.num_columns)
    return list(islice(lines, limit))


def open_quote(filesystem: pafs.FileSystem, place: TextPlace) -> int | None:
    """The line of the cell whose quotation mark is never closed, so that it took in all that follows, or None."""
    line = None
    with _lines(filesystem, place) as lines:
        reader = csv.reader(lines, delimiter=place.delimiter, quotechar=place.quote, strict=True)
        try:
            while True:
                line = reader.line_num + 1 + place.num_header_lines
                if next(reader, None) is None:
                    return None
        except csv.Error as error:
            return line if "unexpected end" in str(error) else None


def _lines(filesystem: pafs.FileSystem, place: TextPlace) -> io.TextIOWrapper:
    file = open_text(filesystem, place.path, key=place.key, compression=place.compression)
    text = io.TextIOWrapper(io.BufferedReader(_Raw(file)), encoding="utf-8-sig", errors="replace", newline="")
    for _ in range(place.num_header_lines):
        text.readline()
    return text


def _rows(filesystem: pafs.FileSystem, place: TextPlace) -> Iterator[tuple[int, list[str]]]:
    """The line on which each row begins, and its cells. Blank lines are no rows."""
    with _lines(filesystem, place) as lines:
        if place.quote == "":
            for number, line in enumerate(lines, start=1 + place.num_header_lines):
                if line.strip():
                    yield number, line.rstrip("\r\n").split(place.delimiter)
            return
        reader = csv.reader(lines, delimiter=place.delimiter, quotechar=place.quote)
        number = 1 + place.num_header_lines
        with suppress(csv.Error):  # a cell is too long for this reader: rows behind it keep their own numbers
            for row in reader:
                if len(row) > 1 or (row and row[0].strip()):
                    yield number, row
                number = reader.line_num + 1 + place.num_header_lines


class _Raw(io.RawIOBase):
    """A file of pyarrow as Python's own readers want it."""

    def __init__(self, file: pa.NativeFile) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:
        body = self._file.read(len(buffer))
        buffer[: len(body)] = body
        return len(body)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
