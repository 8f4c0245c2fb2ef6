"""Deletion requests from JSON: one object, a list of objects, or an object on each line.

Numbers keep the digits that they are written with, since a float would lose some of a long id's.
"""

import io
import json
from collections.abc import Iterable
from typing import Any

from tru_core.errors import ConfigError
from workflows.data.ids import WHITESPACE
from workflows.data.request_columns import COLUMNS, ID_COLUMNS, UNCHANGED
from workflows.data.request_tables import MAX_LINE_LETTERS, decode_text, too_many
from workflows.data.requests import MAX_PROBLEMS, MAX_REQUESTS, DeletionRequest, Problem, collect_requests

_MAX_FIELDS = 10 * MAX_REQUESTS


class _Number(str):
    """A number, as it is written."""


class _RepeatedNameError(ValueError):
    """A name stands twice in one JSON object."""


def parse_json(body: bytes, *, name: str) -> list[DeletionRequest]:
    """Read requests from a JSON object, a list of objects, or objects one after the other on lines.

    Raises:
        ConfigError: It is no JSON in UTF-8, or a field is malformed.
        ConflictError: A request id stands there with different bodies.
        DataError: There are too many.
    """
    text = decode_text(body, name)
    if not text.strip():
        return []
    if text.count("{") + text.count("[") > MAX_REQUESTS + 1:
        raise too_many(text.count("{") + text.count("["), name)
    if text.count(",") > _MAX_FIELDS:
        raise ConfigError(f"{name} holds more than {_MAX_FIELDS} fields. {UNCHANGED} Part it.")
    try:
        value = _loads(text)
    except _RepeatedNameError as error:
        raise ConfigError(f"{name}: the field {error} stands twice in one request. {UNCHANGED}") from None
    except json.JSONDecodeError as error:  # no cause: it could quote the file
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _parse_lines(text, name)
        raise ConfigError(f"{name} is not JSON, from line {error.lineno} on. {UNCHANGED} Mend the file.") from None
    except RecursionError:
        raise ConfigError(
            f"{name} is not JSON that can be read: it is nested too deeply. {UNCHANGED} Write a list of plain objects."
        ) from None
    values = value if isinstance(value, list) else [value]
    return _collect(enumerate(values, start=1), name=name, unit="request", problems=[])


def parse_json_lines(body: bytes, *, name: str) -> list[DeletionRequest]:
    """Read requests from JSON objects, one on each line; blank lines are fine. Raises as :func:`parse_json`."""
    text = decode_text(body, name)
    return parse_json(body, name=name) if text.lstrip().startswith("[") else _parse_lines(text, name)


def _parse_lines(text: str, name: str) -> list[DeletionRequest]:
    entries: list[tuple[int, Any]] = []
    problems: list[Problem] = []
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        if len(problems) >= MAX_PROBLEMS:
            break
        if not line.strip():
            continue
        if len(line) > MAX_LINE_LETTERS:
            problems.append((number, f"line {number}: expected at most {MAX_LINE_LETTERS} letters, found {len(line)}"))
            continue
        try:
            entries.append((number, _loads(line)))
        except _RepeatedNameError as error:
            problems.append((number, f"line {number}: the field {error} stands twice"))
        except (json.JSONDecodeError, RecursionError):
            problems.append((number, f"line {number}: is not JSON; expected an object on each line"))
    if len(entries) > MAX_REQUESTS:
        raise too_many(len(entries), name)
    return _collect(entries, name=name, unit="line", problems=problems)


def _loads(text: str) -> Any:
    return json.loads(
        text, object_pairs_hook=_unique, parse_int=_Number, parse_float=_Number, parse_constant=_parse_constant
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        place = next(place for place, name in enumerate(names) if name in names[:place])
        raise _RepeatedNameError(names[place] if names[place] in COLUMNS else f"number {place + 1}")
    return values


def _parse_constant(name: str) -> _Number | None:
    """NaN is what some writers make of a gap. Infinity is a number, and refused as such."""
    return None if name == "NaN" else _Number(name)


def _collect(
    entries: Iterable[tuple[int, Any]], *, name: str, unit: str, problems: list[Problem]
) -> list[DeletionRequest]:
    numbers: list[int] = []
    columns: dict[str, list[str | None]] = {column: [] for column in COLUMNS}
    for number, entry in entries:
        if len(problems) >= MAX_PROBLEMS:
            break
        own = _faults_of(entry)
        problems += [(number, f"{unit} {number}{text}") for text in own]
        if not own:
            numbers.append(number)
            for column, values in columns.items():
                values.append(_text(entry[column]) if column in entry else None)
    return collect_requests(columns, numbers, name=name, unit=unit, problems=problems)


def _faults_of(entry: Any) -> list[str]:
    if not isinstance(entry, dict):
        return [": expected an object"]
    strange = [place for place, column in enumerate(entry, start=1) if column not in COLUMNS]
    faults = [f": field {place} is none of {', '.join(COLUMNS)}" for place in strange[:1]]
    faults += [f", column {column}: is missing" for column in ("request_id", "kind") if column not in entry]
    return faults + [
        f", column {column}: {fault}" for column in entry if column in COLUMNS and (fault := _fault(column, entry))
    ]


def _fault(column: str, entry: dict[str, Any]) -> str:
    value = entry[column]
    if value is None or (isinstance(value, bool) and column == "verified"):
        return ""
    if isinstance(value, _Number):
        if value.removeprefix("-").isdecimal() or (column in ID_COLUMNS and "." in value and "e" not in value.lower()):
            return ""
        return "expected text or all digits of a whole number, found a number of another kind"
    if not isinstance(value, str):
        return "expected text"
    return "" if value.isascii() or _is_unicode(value) else "expected Unicode text, found half of a letter"


def _is_unicode(text: str) -> bool:
    """Whether a text has no lone half of a pair, which JSON can write and nothing else can."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _text(value: str | bool | None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value.strip(WHITESPACE)
