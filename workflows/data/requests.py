"""Deletion requests: what one is, and what makes rows of a file into requests; ids are never quoted in a message.

Ids are read by :mod:`workflows.data.ids`, as imports read them. How files become rows:
:mod:`workflows.data.request_tables` (CSV), :mod:`workflows.data.request_json`, :mod:`workflows.data.request_parquet`.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa

from tru_core.errors import ConfigError, ConflictError
from workflows.data.ids import NO_ID, ROUNDED, read_ids
from workflows.data.request_columns import COLUMNS, ID_COLUMNS, OPTIONAL_COLUMNS, UNCHANGED

Kind = Literal["user", "item", "interaction"]
Columns = Mapping[str, Sequence[str | None] | pa.Array]
Problem = tuple[int, str]  # the line, row or request that has it, and what is wrong

MAX_REQUESTS = 1_000_000  # in one file
MAX_REQUEST_ID_LETTERS = 200
MAX_PROBLEMS = 10_000  # nobody reads more, and to find them all takes long
_SHOWN_PROBLEMS = 5
_MIN_DIGITS, _MIN_LETTERS = 5, 4  # of an id that does not stand in other text by chance
_REGULATION = re.compile(r"[A-Za-z0-9._-]{1,40}")
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "user": ("user_id",),
    "item": ("item_id",),
    "interaction": ("user_id", "item_id"),
}
_KINDS: dict[str, Kind] = {kind: kind for kind in _NEEDED}
_TRUTH: dict[str, bool | None] = {"": None, "true": True, "false": False}


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
        unit: What ``line`` counts: ``line``, ``row``, ``request``.
    """

    request_id: str
    kind: Kind
    user_id: str
    item_id: str
    received_time: str | None
    regulation: str | None
    line: int = field(compare=False)
    is_verified: bool | None = field(default=None, compare=False)
    unit: str = field(default="line", compare=False)

    @property
    def where(self) -> str:
        """Where it stands in its file, for messages: ``line 3``."""
        return f"{self.unit} {self.line}"


def slow_digest(body: bytes, *, salt: bytes) -> str:
    """Digest something guessable, such as a person's id: scrypt, about 50 ms a guess.

    A plain SHA-256 of ids is undone in seconds by trying them all. This makes it costly, not impossible: only a
    key that is kept elsewhere could.
    """
    return hashlib.scrypt(body, salt=salt, n=2**14, r=8, p=1, dklen=32).hex()


def names_its_subject(request: DeletionRequest) -> bool:
    """Whether the request's own id holds the id of its user or item, so that keeping the one keeps the other."""
    return text_names_subject(request.request_id, request)


def text_names_subject(text: str, request: DeletionRequest) -> bool:
    """Whether a text, such as a file's name, holds the id of a request's user or item, in whatever letter case.

    Ids of fewer than 5 digits or 4 letters do not count: they stand in almost every text by chance.
    """
    folded = _folded(text)
    return any(_is_distinctive(name) and _folded(name) in folded for name in (request.user_id, request.item_id))


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _is_distinctive(name: str) -> bool:
    return len(name) >= (_MIN_DIGITS if name.isdecimal() else _MIN_LETTERS)


# --- rows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ids:
    """A column of ids as it is read: "" where there is none; what is wrong with others, by place."""

    ids: list[str]
    faults: dict[int, str]


def collect_requests(
    columns: Columns,
    numbers: Sequence[int],
    *,
    name: str,
    unit: str,
    problems: Sequence[Problem] = (),
) -> list[DeletionRequest]:
    """Check rows column by column, and sort them by request id; one that stands there twice is taken once.

    Args:
        columns: Text without blanks around it. None where a row does not have the field. Columns of ids may be arrays
            of any type that :func:`workflows.data.ids.read_ids` reads.
        numbers: The number of each row in the file.
        name: What to call the file in messages.
        unit: What a number counts: ``line``, ``row``, ``request``.
        problems: Found before; they are reported with those found here.

    Raises:
        ConfigError: A field is malformed.
        ConflictError: A request id stands there with different bodies.
    """
    problems = list(problems)
    requests: dict[str, DeletionRequest] = {}
    conflicts: list[Problem] = []
    for request in _parse_rows(columns, numbers, unit, problems):
        earlier = requests.setdefault(request.request_id, request)
        if earlier != request:
            conflicts.append((request.line, f"{unit}s {earlier.line} and {request.line}"))
    if problems:
        raise ConfigError(f"{name}: {_first(problems)}. {UNCHANGED} Mend these {unit}s and run the command again.")
    if conflicts:
        raise ConflictError(
            f"{name}: column request_id: {_first(conflicts)} have the same request id and ask for different things. "
            f"{UNCHANGED} Give each request its own id."
        )
    return [requests[request_id] for request_id in sorted(requests)]


def _first(problems: Sequence[Problem]) -> str:
    shown = "; ".join(text for _, text in sorted(problems, key=lambda problem: problem[0])[:_SHOWN_PROBLEMS])
    if len(problems) <= _SHOWN_PROBLEMS:
        return shown
    return f"{shown}; ... ({len(problems)}{' or more' if len(problems) >= MAX_PROBLEMS else ''} in all)"


def _parse_rows(
    columns: Columns, numbers: Sequence[int], unit: str, problems: list[Problem]
) -> Iterator[DeletionRequest]:
    """Rows without fault as requests; what is wrong with others is added to ``problems``."""
    nothing: list[None] = [None] * len(numbers)
    users, items = (_read_ids(columns.get(column, nothing)) for column in ID_COLUMNS)
    names = _read_ids(columns["request_id"])  # to find those that are ids; what counts is the text
    times: dict[str | None, tuple[str | None, str]] = {}
    for place, (number, request_id, kind_name, user_id, item_id, time_text, regulation, verified) in enumerate(
        zip(
            numbers,
            columns["request_id"],
            columns["kind"],
            users.ids,
            items.ids,
            *(columns.get(column, nothing) for column in OPTIONAL_COLUMNS),
            strict=True,
        )
    ):
        kind = _KINDS.get(kind_name or "")
        if time_text not in times:
            times[time_text] = _parse_time(time_text)
        time, time_fault = times[time_text]
        is_id = bool(names.ids[place]) and names.ids[place] in (user_id, item_id)
        faults = (
            _request_id_fault(request_id, names.ids[place] or names.faults.get(place, ""), is_id=is_id),
            "" if kind else f"expected one of {', '.join(_NEEDED)}",
            _id_fault("user_id", user_id, users.faults.get(place, ""), kind),
            _id_fault("item_id", item_id, items.faults.get(place, ""), kind),
            time_fault,
            "" if not regulation or _REGULATION.fullmatch(regulation) else "expected a short name such as gdpr",
            "" if (verified or "").lower() in _TRUTH else "expected true or false",
        )  # in the order of COLUMNS
        if len(problems) >= MAX_PROBLEMS:
            return
        if kind is None or any(faults):
            found = zip(COLUMNS, faults, strict=True)
            problems += [(number, f"{unit} {number}, column {column}: {text}") for column, text in found if text]
            continue
        yield DeletionRequest(
            request_id=request_id or "",
            kind=kind,
            user_id=user_id,
            item_id=item_id,
            received_time=time,
            regulation=regulation or None,
            line=number,
            is_verified=_TRUTH[(verified or "").lower()],
            unit=unit,
        )


def _read_ids(values: Sequence[str | None] | pa.Array) -> _Ids:
    reading = read_ids(values if isinstance(values, pa.Array) else pa.array(values, pa.string()))
    ids, faults = reading.ids.to_pylist(), {}
    for fault in reading.faults:
        is_bad = fault.is_bad | reading.is_exponent if fault.found == ROUNDED else fault.is_bad
        for place in np.flatnonzero(is_bad).tolist():
            ids[place] = ""
            if fault.found != NO_ID:
                faults[place] = f"expected {fault.expected}, found {fault.found}"
    return _Ids(ids, faults)


def _id_fault(column: str, found: str, fault: str, kind: Kind | None) -> str:
    if fault or kind is None:
        return fault
    if column not in _NEEDED[kind]:
        return f"must be empty for kind {kind}" if found else ""
    return "" if found else f"expected an id, which kind {kind} needs; it is empty or a word such as NaN or None"


def _request_id_fault(request_id: str | None, read: str, *, is_id: bool) -> str:
    if not request_id or not read:
        return "is empty or a word such as NaN or None"
    is_hidden = not request_id.isprintable() and any(unicodedata.category(c).startswith("C") for c in request_id)
    if len(request_id) > MAX_REQUEST_ID_LETTERS or is_hidden:
        return f"expected at most {MAX_REQUEST_ID_LETTERS} letters, none of them invisible"
    return "is the id of the user or item itself; records keep it, so make one up" if is_id else ""


def _parse_time(text: str | None) -> tuple[str | None, str]:
    """The time in UTC, and what is wrong with it. None where the file has no such field."""
    if text is None:
        return None, ""
    if not text:
        return None, "is empty; the deadline counts from it"
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            return None, "has no time zone; add Z or an offset such as +02:00"
        return time.astimezone(UTC).isoformat(), ""
    except (ValueError, OverflowError):
        return None, "expected ISO 8601 with a time zone, such as 2026-03-01T09:30:00Z"
