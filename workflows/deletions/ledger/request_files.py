"""Files of deletion requests: CSV, TSV, JSON, JSON lines and Parquet, as they are or packed by gzip or zstandard.

A file's name says its kind, in whatever letter case; a file of another name is read if its first line says what it is.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

import pyarrow as pa

from tru_core.errors import ConfigError, DataError
from tru_core.quoting import printable
from workflows.data.request_columns import UNCHANGED
from workflows.data.request_json import parse_json, parse_json_lines
from workflows.data.request_parquet import parse_parquet
from workflows.data.request_tables import UTF16_MARKS, has_header, parse_requests
from workflows.data.requests import DeletionRequest

MAX_FILE_BYTES = 64 * 2**20  # unpacked
_CHUNK_BYTES = 2**20
PACKINGS = {".gz": "gzip", ".zst": "zstd"}
SHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
_MAGIC = {
    b"PAR1": ".parquet",
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"PK\x03\x04": "a spreadsheet or a zip",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"BZh": ".bz2",
    b"\xfd7zXZ": ".xz",
    b"7z\xbc\xaf": ".7z",
    b"%PDF": ".pdf",
}
SAVE_AS_CSV = "save the sheet as CSV UTF-8"


@dataclass(frozen=True)
class RequestFile:
    """The bytes of a file of requests, unpacked and not yet parsed.

    Attributes:
        name: What to call it in messages and in the ledger: one line of letters that can be printed.
        kind: The name's end that says how to read it, such as ``.csv``.
    """

    path: Path
    body: bytes
    name: str
    kind: str

    @property
    def sha256(self) -> str:
        """Digest of the bytes. It is guessable where ids are, and not to be kept."""
        return hashlib.sha256(self.body).hexdigest()

    def parse(self) -> list[DeletionRequest]:
        """The requests, sorted by request id.

        Raises:
            DataError: A column is missing, unknown or there twice, or the file is damaged, too large or of another
                kind than its name says.
            ConfigError: A field is malformed.
            ConflictError: A request id stands there with different bodies.
            IntegrityError: The file could run code when it is read.
        """
        return PARSERS[self.kind](self.body, self.name)


def open_request_file(path: Path, *, name: str = "") -> RequestFile:
    """Read a file's bytes, unpack them and find out its kind.

    Args:
        name: What to call it; by default the path's last part.

    Raises:
        ConfigError: It cannot be read or is too large.
        DataError: It is packed and damaged, or of no kind that is read.
    """
    name = printable(name or path.name)
    stem, packing = split_packing(path.name)
    kind = PurePath(stem).suffix.lower()
    if kind in SHEETS:
        raise DataError(f"{name} is a spreadsheet, which is not read. {UNCHANGED} Open it and {SAVE_AS_CSV}.")
    body = _read(path, name)
    if packing or (kind not in PARSERS and _magic_of(body) in PACKINGS):
        body = _unpack(body, packing or PACKINGS[_magic_of(body)], name)
    found = _magic_of(body)
    if kind not in PARSERS:
        kind = kind_of_content(body)
        if not kind:
            raise DataError(
                f"{name}: expected a file that ends with one of {', '.join(PARSERS)}, or whose first line names the "
                f"columns, found {found or 'neither'}. {UNCHANGED} Save it as CSV UTF-8 with a header line."
            )
    elif found and kind != ".parquet":
        advice = SAVE_AS_CSV if "sheet" in found else f"name it {found}" if found == ".parquet" else "unpack it"
        raise DataError(f"{name}: expected text, found what is {found} by its first bytes. {UNCHANGED} Or {advice}.")
    return RequestFile(path, body, name, kind)


def split_packing(name: str) -> tuple[str, str]:
    """A file's name without the end that says how it is packed, and the packing's name, "" if there is none."""
    suffix = PurePath(name).suffix
    packing = PACKINGS.get(suffix.lower(), "")
    return (name[: -len(suffix)], packing) if packing else (name, "")


def kind_of_content(head: bytes) -> str:
    """The kind that the first bytes of a file show, "" if they show no kind of requests. Blank text is CSV."""
    if _magic_of(head):
        return ".parquet" if _magic_of(head) == ".parquet" else ""
    encoding = "utf-16" if head.startswith(UTF16_MARKS) else "utf-8-sig"  # the parser says what to do about UTF-16
    text = head.decode(encoding, errors="replace")
    start = text.lstrip()[:2000]
    if not start or has_header(text[:_CHUNK_BYTES]):
        return ".csv"
    return ".json" if start[0] in "[{" and '"request_id"' in start else ""


def _magic_of(head: bytes) -> str:
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            body = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{name}: cannot be read ({error.strerror}). {UNCHANGED} Name an existing file of requests."
        ) from error
    if len(body) > MAX_FILE_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB. {UNCHANGED} Part it into batches.")
    return body


def _unpack(body: bytes, packing: str, name: str) -> bytes:
    """Unpack as far as a request file may be large."""
    parts, size = [], 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(body), packing) as stream:
            while part := stream.read(_CHUNK_BYTES):
                parts.append(part)
                size += len(part)
                if size > MAX_FILE_BYTES:
                    raise DataError(
                        f"{name} unpacks to more than {MAX_FILE_BYTES >> 20} MiB. {UNCHANGED} Part it into batches."
                    )
    except OSError:  # no cause: it could quote the file
        raise DataError(
            f"{name}: expected {packing} as its name says, found damaged or other bytes. {UNCHANGED} Pack it again."
        ) from None
    return b"".join(parts)


def _parse_csv(body: bytes, name: str) -> list[DeletionRequest]:
    return parse_requests(body, name=name)


def _parse_tsv(body: bytes, name: str) -> list[DeletionRequest]:
    return parse_requests(body, name=name, delimiter="\t")


def _parse_json(body: bytes, name: str) -> list[DeletionRequest]:
    return parse_json(body, name=name)


def _parse_json_lines(body: bytes, name: str) -> list[DeletionRequest]:
    return parse_json_lines(body, name=name)


def _parse_parquet(body: bytes, name: str) -> list[DeletionRequest]:
    return parse_parquet(body, name=name)


PARSERS: dict[str, Callable[[bytes, str], list[DeletionRequest]]] = {
    ".csv": _parse_csv,
    ".tsv": _parse_tsv,
    ".json": _parse_json,
    ".jsonl": _parse_json_lines,
    ".ndjson": _parse_json_lines,
    ".parquet": _parse_parquet,
}
