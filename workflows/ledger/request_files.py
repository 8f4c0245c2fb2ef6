"""Files of deletion requests: CSV, JSON (one object or a list), parquet, or a drop folder of these.

A number, a true or a false in JSON or parquet is taken as its text. Ids are never quoted in a message.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tru_core.errors import ConfigError, DataError
from workflows.data.requests import (
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    UNCHANGED,
    DeletionRequest,
    check_columns,
    collect_requests,
    parse_requests,
    read_request_file,
)

MAX_REQUESTS = 1_000_000  # in one file
_COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)


@dataclass(frozen=True)
class RequestFile:
    """The bytes of a file of requests, not yet parsed. ``sha256`` is guessable where ids are: it is not to be kept."""

    path: Path
    body: bytes

    @property
    def name(self) -> str:
        """What to call it in messages and in the ledger."""
        return self.path.name

    @property
    def sha256(self) -> str:
        """Digest of the bytes."""
        return hashlib.sha256(self.body).hexdigest()

    def parse(self) -> list[DeletionRequest]:
        """The requests, sorted by request id.

        Raises:
            DataError: A column is missing, unknown or there twice, or the file is damaged.
            ConfigError: A field is malformed.
            ConflictError: A request id stands there with different bodies.
            IntegrityError: The file could run code when it is read.
        """
        return _PARSERS.get(self.path.suffix.lower(), _parse_csv)(self)


def find_request_files(path: Path) -> list[Path]:
    """The file, or the files of a drop folder by name. Folders in it, hidden files and files of other kinds are left.

    Raises:
        ConfigError: There is nothing of this name.
    """
    if path.is_dir():
        kinds = (".csv", *_PARSERS)
        found = (entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith((".", "_")))
        return sorted(entry for entry in found if entry.suffix.lower() in kinds)
    return [path]


def open_request_file(path: Path) -> RequestFile:
    """Read a file's bytes. ConfigError if it cannot be read or is too large."""
    return RequestFile(path, read_request_file(path))


def _parse_csv(file: RequestFile) -> list[DeletionRequest]:
    return parse_requests(file.body, name=file.name)


# --- JSON ---------------------------------------------------------------------------------------


def _parse_json(file: RequestFile) -> list[DeletionRequest]:
    try:
        value = json.loads(file.body.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except _RepeatedNameError as error:
        raise ConfigError(f"{file.name}: the field {error} stands twice in one request. {UNCHANGED}") from None
    except (ValueError, RecursionError):  # no cause: it could quote the file
        raise ConfigError(f"{file.name} is not JSON in UTF-8. {UNCHANGED} Mend the file.") from None
    values = value if isinstance(value, list) else [value]
    _check_number(len(values), file.name)
    problems: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    for number, entry in enumerate(values, start=1):
        where = f"request {number}"
        if not isinstance(entry, dict):
            problems.append(f"{where}: expected an object")
            continue
        strange = [place for place, name in enumerate(entry, start=1) if name not in _COLUMNS]
        own = [f"{where}: field {place} is none of {', '.join(_COLUMNS)}" for place in strange]
        own += [f"{where}, column {name}: is missing" for name in ("request_id", "kind") if name not in entry]
        own += [f"{where}, column {name}: expected text" for name in _COLUMNS if not _is_plain(entry.get(name))]
        problems += own
        if not own:
            rows.append((number, {name: _text(text) for name, text in entry.items()}))
    return collect_requests(rows, name=file.name, unit="request", problems=problems)


class _RepeatedNameError(ValueError):
    """A name stands twice in one JSON object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise _RepeatedNameError(name if name in _COLUMNS else f"number {place + 1}")
    return dict(pairs)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int)


def _text(value: str | int | None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value).strip()


# --- parquet ------------------------------------------------------------------------------------


def _parse_parquet(file: RequestFile) -> list[DeletionRequest]:
    from workflows.ingest.gates import check_parquet  # brings Ray along, which the other kinds do not need

    facts = check_parquet(pafs.LocalFileSystem(), str(file.path.absolute()), key=file.name)
    columns = check_columns(list(facts.columns), file.name)
    _check_number(sum(facts.row_group_rows), file.name)
    try:
        table = pq.ParquetFile(pa.BufferReader(file.body), page_checksum_verification=True).read(columns=columns)
    except (pa.ArrowException, OSError):  # no cause: it could quote the file
        raise DataError(f"{file.name}: a page is damaged. {UNCHANGED} Copy the file again.") from None
    texts = {name: _texts(table.column(name), name, file.name) for name in columns}
    rows = [dict(zip(texts, values, strict=True)) for values in zip(*texts.values(), strict=True)]
    return collect_requests(enumerate(rows, start=1), name=file.name, unit="row")


def _texts(column: pa.ChunkedArray, name: str, file: str) -> list[str]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_timestamp(kind):
        times: list[datetime | None] = column.cast(pa.timestamp("us", tz=kind.tz), safe=False).to_pylist()
        return ["" if time is None else time.isoformat() for time in times]
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    if not any(test(kind) for test in tests):
        raise DataError(f"{file}, column {name}: expected type string or integer, found {kind}. {UNCHANGED} Cast it.")
    return [_text(value) for value in column.to_pylist()]


def _check_number(number: int, name: str) -> None:
    if number > MAX_REQUESTS:
        raise ConfigError(f"{name} holds {number} requests, at most {MAX_REQUESTS} fit a file. {UNCHANGED} Part it.")


_PARSERS: dict[str, Callable[[RequestFile], list[DeletionRequest]]] = {".json": _parse_json, ".parquet": _parse_parquet}
