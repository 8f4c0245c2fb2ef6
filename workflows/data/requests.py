"""Deletion requests from a CSV file: checked line by line, and never quoted in a message.

Ids are compared byte for byte with those of the data set, after surrounding spaces are gone.
"""

import csv
import difflib
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tru_core.errors import ConfigError, ConflictError, DataError
from workflows.storage import canonical_json

Kind = Literal["user", "item", "interaction"]

REQUIRED_COLUMNS = ("request_id", "kind", "user_id", "item_id")
OPTIONAL_COLUMNS = ("received_time", "regulation", "verified")
MAX_FILE_BYTES = 64 * 2**20
MAX_REQUEST_ID_LETTERS = 200
_SHOWN_PROBLEMS = 5
_REGULATION = re.compile(r"[A-Za-z0-9._-]{1,40}")
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "user": ("user_id",),
    "item": ("item_id",),
    "interaction": ("user_id", "item_id"),
}
_KINDS: dict[str, Kind] = {kind: kind for kind in _NEEDED}
_TRUTH: dict[str, bool | None] = {"": None, "true": True, "false": False}
UNCHANGED = "Nothing was started or changed."


@dataclass(frozen=True)
class DeletionRequest:
    """One request to forget a user, an item or a single interaction.

    Attributes:
        request_id: The sender's own id of the request: sending it again changes nothing.
        user_id, item_id: Outside ids; "" where the kind has none.
        received_time: When it was received: UTC, ISO 8601; None if the file has no such column.
        line: Where it stands in the file. No part of the request.
        is_verified: Whether the submitter knows the requester to be who they claim to be; None if the file does not
            say. No part of the request either: it may be said later.
    """

    request_id: str
    kind: Kind
    user_id: str
    item_id: str
    received_time: str | None
    regulation: str | None
    line: int = field(compare=False)
    is_verified: bool | None = field(default=None, compare=False)


def slow_digest(body: bytes, *, salt: bytes) -> str:
    """Digest something guessable, such as a person's id: scrypt, about 50 ms a guess.

    A plain SHA-256 of ids is undone in seconds by trying them all. This makes it costly, not impossible: only a
    key that is kept elsewhere could.
    """
    return hashlib.scrypt(body, salt=salt, n=2**14, r=8, p=1, dklen=32).hex()


def body_digest(request: DeletionRequest) -> str:
    """Tell whether two requests of one id ask for the same, without keeping what they ask for."""
    fields = [request.kind, request.user_id, request.item_id, request.received_time, request.regulation]
    return slow_digest(canonical_json(fields, where="request"), salt=request.request_id.encode())


def read_request_file(path: Path) -> bytes:
    """Read a request file's bytes.

    Raises:
        ConfigError: If it cannot be read or is too large.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB. {UNCHANGED} Part it into batches.")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). {UNCHANGED} Name an existing CSV file."
        ) from error


def parse_requests(body: bytes, *, name: str) -> list[DeletionRequest]:
    """Read requests from CSV bytes, sorted by request id; one that stands there twice is taken once.

    A byte order mark, CRLF, blank lines and spaces around fields are fine. No requests at all give an empty list.

    Args:
        name: What to call the file in messages.

    Raises:
        DataError: A column is missing, unknown or there twice.
        ConfigError: A field is malformed, or the bytes are no CSV in UTF-8.
        ConflictError: A request id stands there with different bodies.
    """
    lines = _read_lines(body, name)
    header = next(lines, None)
    if header is None:
        return []
    columns = check_columns(header[1], f"{name} line {header[0]}")
    problems: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    for line, cells in lines:
        if len(cells) != len(columns):
            problems.append(f"line {line} has {len(cells)} fields, the header {len(columns)}")
        else:
            rows.append((line, dict(zip(columns, cells, strict=True))))
    return collect_requests(rows, name=name, unit="line", problems=problems)


def collect_requests(
    rows: Iterable[tuple[int, Mapping[str, str]]], *, name: str, unit: str, problems: list[str] | None = None
) -> list[DeletionRequest]:
    """Check rows of trimmed text by column, and sort them by request id; one that stands there twice is taken once.

    Args:
        rows: With their numbers. Of each kind's ids, those that it does not need may be missing.
        unit: What a number counts: ``line``, ``row``.
        problems: Found before; they are reported with those found here.

    Raises:
        ConfigError: A field is malformed.
        ConflictError: A request id stands there with different bodies.
    """
    problems = [] if problems is None else problems
    requests: dict[str, DeletionRequest] = {}
    conflicts: list[str] = []
    for number, values in rows:
        request = _parse_row(number, {"user_id": "", "item_id": ""} | dict(values), f"{unit} {number}", problems)
        if request is None:
            continue
        earlier = requests.setdefault(request.request_id, request)
        if earlier != request:
            conflicts.append(f"{unit}s {earlier.line} and {number}")
    if problems:
        raise ConfigError(f"{name}: {_first(problems)}. {UNCHANGED} Mend these {unit}s and run the command again.")
    if conflicts:
        raise ConflictError(
            f"{name}: column request_id: {_first(conflicts)} have the same request id and ask for different things. "
            f"{UNCHANGED} Give each request its own id."
        )
    return [requests[request_id] for request_id in sorted(requests)]


def _first(problems: list[str]) -> str:
    shown = "; ".join(problems[:_SHOWN_PROBLEMS])
    return shown if len(problems) <= _SHOWN_PROBLEMS else f"{shown}; ... ({len(problems)} in all)"


def _read_lines(body: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and trimmed cells of every line that is not blank."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name} line {line}: expected UTF-8. {UNCHANGED} Save the file as UTF-8.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ConfigError(f"{name} line {line}: not CSV ({error}). {UNCHANGED} Mend the line.") from None
        if cells is None:
            return
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield line, cells


def check_columns(cells: list[str], where: str) -> list[str]:
    """The columns' names in the file's order. Found names are not repeated: a file without header starts with ids."""
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    for name in REQUIRED_COLUMNS:
        if name not in cells:
            strange = [cell.lower() for cell in cells if cell not in known]
            near = difflib.get_close_matches(name, strange, n=1)
            place = [cell.lower() for cell in cells].index(near[0]) + 1 if near else 0
            hint = f"the name of column {place} is the nearest: rename it" if near else "add it"
            raise DataError(
                f"{where}: there is no column {name}; {hint}. Expected {', '.join(REQUIRED_COLUMNS)}, and if wanted "
                f"{', '.join(OPTIONAL_COLUMNS)}, separated by commas. {UNCHANGED}"
            )
    for place, cell in enumerate(cells):
        if cell not in known or cell in cells[:place]:
            problem = f"is {cell} for the second time" if cell in known else f"is none of {', '.join(known)}"
            raise DataError(f"{where}: column {place + 1} {problem}. {UNCHANGED} Rename or remove it.")
    return cells


def _parse_row(number: int, values: Mapping[str, str], where: str, problems: list[str]) -> DeletionRequest | None:
    """Check one row; what is wrong is added to ``problems`` and gives None."""
    kind = _KINDS.get(values["kind"])
    time, time_problem = _parse_time(values.get("received_time"))
    is_verified, verified_problem = _parse_verified(values.get("verified", ""))
    own = [*_problems_of(values, kind), *time_problem, *verified_problem]
    problems += [f"{where}, column {column}: {text}" for column, text in own]
    if own or kind is None:
        return None
    return DeletionRequest(
        request_id=values["request_id"],
        kind=kind,
        user_id=values["user_id"],
        item_id=values["item_id"],
        received_time=time,
        regulation=values.get("regulation") or None,
        line=number,
        is_verified=is_verified,
    )


def _problems_of(values: Mapping[str, str], kind: Kind | None) -> Iterator[tuple[str, str]]:
    """Columns of a line and what is wrong there; the time is checked elsewhere."""
    request_id, regulation = values["request_id"], values.get("regulation", "")
    if not request_id:
        yield "request_id", "is empty"
    elif len(request_id) > MAX_REQUEST_ID_LETTERS or any(unicodedata.category(c).startswith("C") for c in request_id):
        yield "request_id", f"expected at most {MAX_REQUEST_ID_LETTERS} letters, none of them invisible"
    elif request_id in (values["user_id"], values["item_id"]):
        yield "request_id", "is the id of the user or item itself; records keep it, so make one up"
    if regulation and _REGULATION.fullmatch(regulation) is None:
        yield "regulation", "expected a short name such as gdpr"
    if kind is None:
        yield "kind", f"expected one of {', '.join(_NEEDED)}"
        return
    for column in ("user_id", "item_id"):
        if column in _NEEDED[kind] and not values[column]:
            yield column, f"is empty; kind {kind} needs it"
        if column not in _NEEDED[kind] and values[column]:
            yield column, f"must be empty for kind {kind}"


def _parse_time(text: str | None) -> tuple[str | None, list[tuple[str, str]]]:
    """The time in UTC, and what is wrong with it. None where the file has no such column."""
    if text is None:
        return None, []
    if not text:
        return None, [("received_time", "is empty; the deadline counts from it")]
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            return None, [("received_time", "has no time zone; add Z or an offset such as +02:00")]
        return time.astimezone(UTC).isoformat(), []
    except (ValueError, OverflowError):
        return None, [("received_time", "expected ISO 8601 with a time zone, such as 2026-03-01T09:30:00Z")]


def _parse_verified(text: str) -> tuple[bool | None, list[tuple[str, str]]]:
    """Whether the requester is verified, None where it is not said, and what is wrong."""
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()], []
    return None, [("verified", "expected true or false")]


# --- ids inside other texts -----------------------------------------------------------------------


def names_its_subject(request: DeletionRequest) -> bool:
    """Whether the request id holds the id of the user or item that the request is about."""
    return any(holds_id(request.request_id, text) for text in (request.user_id, request.item_id) if text)


def holds_id(text: str, outside_id: str) -> bool:
    """Whether a text holds an id that is long enough to be there on purpose: 17 stands in many numbers by chance."""
    least = 5 if outside_id.isdecimal() else 4
    return len(outside_id) >= least and outside_id.casefold() in text.casefold()
