"""Deletion requests from delimited text: CSV, tab-separated, and with the semicolons of European spreadsheets.

Lines are numbered as an editor counts them: the header, blank lines and the lines inside a quoted cell count.
"""

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain

from tru_core.errors import ConfigError, DataError
from workflows.data.ids import WHITESPACE
from workflows.data.request_columns import UNCHANGED, check_columns, is_like_column
from workflows.data.requests import MAX_PROBLEMS, MAX_REQUESTS, DeletionRequest, Problem, collect_requests

MAX_LINES = 4 * MAX_REQUESTS  # blank ones with them
MAX_LINE_LETTERS = 2**20
_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?', re.IGNORECASE)  # a spreadsheet's first line
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def parse_requests(body: bytes, *, name: str, delimiter: str = ",") -> list[DeletionRequest]:
    """Read requests from CSV bytes, sorted by request id; one that stands there twice is taken once.

    A byte order mark, any line ends, blank lines and blanks around fields are fine. No requests at all give an empty
    list.

    Args:
        name: What to call the file in messages.
        delimiter: What parts the cells, unless the names of the columns are parted by another of ``,;|`` and tab.

    Raises:
        DataError: A column is missing, unknown or there twice.
        ConfigError: A field is malformed, or the bytes are no CSV in UTF-8.
        ConflictError: A request id stands there with different bodies.
    """
    lines = _checked_lines(decode_text(body, name), name)
    number, header, delimiter = find_header(lines, delimiter)
    if not header:
        return []
    reader = csv.reader(chain([header], lines), strict=True, skipinitialspace=True, delimiter=delimiter)
    columns: list[str] = []
    problems: list[Problem] = []
    numbers: list[int] = []
    rows: list[list[str]] = []
    line = number
    try:
        for raw in reader:
            cells = [cell.strip(WHITESPACE) for cell in raw]
            if not columns:
                columns = check_columns(cells, f"{name} line {line}")
            elif not any(cells):
                pass
            elif len(problems) >= MAX_PROBLEMS:
                break
            elif len(cells) != len(columns):
                problems.append((line, f"line {line} has {len(cells)} fields, the header {len(columns)}"))
            else:
                numbers.append(line)
                rows.append(cells)
            line = number + reader.line_num
    except csv.Error as error:  # no cause, since its text has the delimiter, which may be a tab
        is_long = "field larger" in str(error)
        fault = f"a cell is longer than {csv.field_size_limit()} letters" if is_long else "a quote has no counterpart"
        raise ConfigError(
            f"{name} line {line}: not CSV ({fault}). {UNCHANGED} Mend the line: quotes stand in pairs and around a "
            "whole cell."
        ) from None
    if len(rows) > MAX_REQUESTS:
        raise too_many(len(rows), name)
    table = dict(zip(columns, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(columns, ())
    return collect_requests(table, numbers, name=name, unit="line", problems=problems)


def find_header(lines: Iterator[str], delimiter: str) -> tuple[int, str, str]:
    """Take lines up to the first that is not blank. Returns its number, its text ("" if there is none), its delimiter.

    A line such as ``sep=;``, which spreadsheets write and read, counts as blank and names the delimiter.
    """
    number, given = 0, ""
    for line in lines:
        number += 1
        text = line.strip(WHITESPACE)
        separator = _SEPARATOR.fullmatch(line.strip(" \r\n"))
        if separator is not None:
            given = separator[1]
        elif text:
            return number, line, given or _delimiter_of(text, delimiter)
    return number, "", delimiter


def _delimiter_of(header: str, usual: str) -> str:
    def num_names(mark: str) -> int:
        return sum(is_like_column(cell) for cell in header[:MAX_LINE_LETTERS].split(mark))

    return max(usual + _DELIMITERS, key=num_names)


def has_header(text: str) -> bool:
    """Whether the first line of a text names columns of requests."""
    _, header, delimiter = find_header(io.StringIO(text, newline=""), ",")
    return sum(is_like_column(cell) for cell in header.split(delimiter)) > 1


def decode_text(body: bytes, name: str) -> str:
    """Bytes as text, without a byte order mark.

    Raises:
        ConfigError: They are no UTF-8, or hold NUL bytes, which no text has, or too many lines.
    """
    if body.startswith(UTF16_MARKS):
        raise ConfigError(
            f"{name}: expected UTF-8, found UTF-16, which spreadsheets call Unicode text. {UNCHANGED} Save it as "
            "CSV UTF-8."
        )
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name} line {_line_at(body, error.start)}: expected UTF-8, found other bytes. {UNCHANGED} Save the file "
            "as UTF-8; spreadsheets call it CSV UTF-8."
        ) from None
    if "\0" in text:
        raise ConfigError(
            f"{name} line {_line_at(body, body.index(0))}: expected text, found a NUL byte. {UNCHANGED} The file is "
            "damaged or of another kind (UTF-16, a database's export): save it as UTF-8."
        )
    num_lines = max(text.count("\n"), text.count("\r"))
    if num_lines > MAX_LINES:
        raise ConfigError(f"{name} has {num_lines} lines, at most {MAX_LINES} are read. {UNCHANGED} Part it.")
    return text


def _line_at(body: bytes, place: int) -> int:
    """The number of the line in which a byte stands."""
    before = body[:place].replace(b"\r\n", b"\n")
    return before.count(b"\n") + before.count(b"\r") + 1


def too_many(number: int, name: str) -> DataError:
    """The error for a file that holds more requests than are read."""
    return DataError(f"{name} holds {number} requests, at most {MAX_REQUESTS} fit a file. {UNCHANGED} Part it.")


def _checked_lines(text: str, name: str) -> Iterator[str]:
    """The lines with their ends. ConfigError at one that is too long to be a request."""
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        if len(line) > MAX_LINE_LETTERS:
            raise ConfigError(
                f"{name} line {number}: expected at most {MAX_LINE_LETTERS} letters, found {len(line)}. {UNCHANGED} "
                "Write each request on a line of its own."
            )
        yield line
