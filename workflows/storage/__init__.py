"""Object storage: objects are written once and never change; what changes is an append-only log.

One primitive carries the design: create-if-absent. Every artefact lies under a fresh key, and
every state that changes is a log of numbered objects, each made with ``put_if_absent``: who
creates number n+1 has won. It works alike on a local folder and on S3 and needs no lock server.
Every key of the project is built in :mod:`workflows.storage.object_keys`.
"""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tru_core.canonical import canonical_json
from tru_core.errors import ConfigError, ConflictError, IntegrityError
from workflows.storage.config import StorageConfig, folder_of_url, is_s3
from workflows.storage.local import LocalStore
from workflows.storage.object_keys import (
    ObjectInfo,
    check_key,
    check_name,
    dataset_log,
    deletion_prefix,
    features_key,
    interactions_key,
    item_graph_key,
    manifest_key,
    model_log,
    run_prefix,
    snapshot_prefix,
    snapshots_prefix,
    stage_result_key,
    vocabulary_key,
)
from workflows.storage.s3 import S3Store

if TYPE_CHECKING:
    import pyarrow.fs

__all__ = [
    "FileEntry",
    "LogEntry",
    "ObjectInfo",
    "ObjectStore",
    "StorageConfig",
    "append_log_entry",
    "canonical_json",
    "check_key",
    "check_name",
    "dataset_log",
    "deletion_prefix",
    "features_key",
    "interactions_key",
    "item_graph_key",
    "manifest_key",
    "model_log",
    "open_store",
    "put_file",
    "read_json",
    "read_log",
    "read_verified",
    "run_prefix",
    "snapshot_prefix",
    "snapshots_prefix",
    "stage_result_key",
    "vocabulary_key",
    "write_json",
]

MAX_LOG_NUMBER = 99_999_999
_LOG_FILE = re.compile(r"([0-9]{8})\.json")


@dataclass(frozen=True)
class LogEntry:
    """One entry of a log. Numbers start at 1 and have no gap."""

    number: int
    entry: dict[str, Any]


class FileEntry(BaseModel):
    """What a manifest says about a file: where it lies and which bytes it must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("key")
    @classmethod
    def _key_stays_inside(cls, key: str) -> str:
        return check_key(key)


class ObjectStore(Protocol):
    """A folder of immutable objects. Picklable; credentials are never pickled.

    Every method raises IntegrityError for a bad key, AccessError when the storage is unreachable or
    denies access, and TransientError when retries are used up.
    """

    @property
    def url(self) -> str:
        """Where the store lies, for messages."""
        ...

    @property
    def command_options(self) -> tuple[str, ...]:
        """What a command line must say beside ``url`` to reach the same store, as words: endpoint and region."""
        ...

    @property
    def unsafe_single_writer(self) -> bool:
        """Whether the storage's settings allow publishing without a check that of two writers one wins."""
        ...

    def put_if_absent(self, key: str, body: bytes) -> bool:
        """Create an object, or leave what is there.

        Returns:
            True if this call created it, also when only reading back could tell. False if the key was
            taken by another call, whatever bytes that call wrote.
        """
        ...

    def read(self, key: str) -> bytes:
        """All bytes of an object. MissingObjectError if there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object under exactly this key."""
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Every object below the folder ``prefix`` ("" for all), recursively, sorted by key."""
        ...

    def names(self, prefix: str) -> "list[str]":
        """The names directly below the folder ``prefix`` ("" for the top), of objects and of folders, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object with all its versions. It is fine if there is none."""
        ...

    def delete_leftovers(self, *, older_than_seconds: float) -> int:
        """Remove what crashed writes left behind, never an object. Returns how many there were.

        A leftover may hold a person's data: a purge is complete only after this.
        """
        ...

    def filesystem(self) -> "tuple[pyarrow.fs.FileSystem, str]":
        """For bulk reads: a filesystem and a base path; an object's path is ``f"{base}/{key}"``."""
        ...


def open_store(config: StorageConfig | str) -> ObjectStore:
    """Open the store that a URL names. Touches neither disk nor network.

    Raises:
        ConfigError: The URL is of no known kind, or its endpoint is against the policy.
    """
    if isinstance(config, str):
        try:
            config = StorageConfig(url=config)
        except ValidationError as error:
            raise ConfigError("storage url is empty or malformed. Expected a folder or s3://...") from error
    if is_s3(config.url):
        return S3Store(config)
    return LocalStore(folder_of_url(config.url), unsafe_single_writer=config.unsafe_single_writer)


# --- logs ---------------------------------------------------------------------------------------


def append_log_entry(store: ObjectStore, log_prefix: str, *, number: int, entry: dict[str, Any]) -> bool:
    """Write entry ``number`` of a log unless somebody else was first.

    Put something that is yours alone into the entry (an attempt id), so that a reader can tell whose it is.

    Returns:
        True if this call wrote the entry. False if the number is taken: read the log and decide again.

    Raises:
        IntegrityError: Entry ``number - 1`` does not exist: writing would leave a gap.
        NumericsError: The entry holds NaN or an infinity.
    """
    if not 1 <= number <= MAX_LOG_NUMBER:
        raise IntegrityError(f"log {log_prefix}: entry number {number} is outside 1..{MAX_LOG_NUMBER}.")
    if number > 1 and not store.exists(log_key(log_prefix, number - 1)):
        raise IntegrityError(
            f"log {log_prefix}: entry {number} was to be written, but entry {number - 1} does not exist. "
            f"Nothing was written. Read the log again and append behind its newest entry."
        )
    key = log_key(log_prefix, number)
    return store.put_if_absent(key, canonical_json(entry, where=key))


def read_log(store: ObjectStore, log_prefix: str) -> list[LogEntry]:
    """Read a whole log in order. An empty list if nothing was ever written.

    Raises:
        IntegrityError: A number is missing, an entry is no JSON object, or the folder holds something else.
    """
    num_entries = count_log_entries(store, log_prefix)
    bodies = read_log_bodies(store, log_prefix, range(1, num_entries + 1))
    return [LogEntry(number, parse_log_entry(body, log_key(log_prefix, number))) for number, body in bodies]


def count_log_entries(store: ObjectStore, log_prefix: str) -> int:
    """How many entries a log has, by its listing.

    Raises:
        IntegrityError: A number is missing, or the folder holds something else.
    """
    numbers = []
    for info in store.list(log_prefix):
        match = _LOG_FILE.fullmatch(info.key[len(log_prefix) + 1 :])
        if match is None:
            raise IntegrityError(
                f"log {log_prefix} holds {info.key}, which is no log entry. Expected names like "
                f"00000001.json only. Find out who wrote it, and move it away."
            )
        numbers.append(int(match[1]))
    for expected, number in enumerate(numbers, start=1):
        if number != expected:
            raise IntegrityError(
                f"log {log_prefix}: entry {expected} is missing, found {number} in its place "
                f"({len(numbers)} entries in all). The history is incomplete and is not used. Restore the "
                f"missing object from a backup."
            )
    return len(numbers)


def read_log_bodies(store: ObjectStore, log_prefix: str, numbers: range) -> list[tuple[int, bytes]]:
    """The bytes of some entries of a log, with their numbers, in order. MissingObjectError if one is not there."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        bodies = list(pool.map(lambda number: store.read(log_key(log_prefix, number)), numbers))
    return list(zip(numbers, bodies, strict=True))


def log_key(log_prefix: str, number: int) -> str:
    """The key of one entry of a log."""
    return check_key(f"{log_prefix}/{number:08d}.json")


def parse_log_entry(body: bytes, key: str) -> dict[str, Any]:
    """The JSON object of a log entry's bytes. IntegrityError if they are none."""
    entry = _parse_json(body, where=key)
    if not isinstance(entry, dict):
        raise IntegrityError(f"log entry {key} is a JSON {type(entry).__name__}, expected an object.")
    return entry


# --- files --------------------------------------------------------------------------------------


def put_file(store: ObjectStore, key: str, body: bytes) -> FileEntry:
    """Write a file once and say what was written. Writing the same bytes again is fine.

    Raises:
        ConflictError: The key is taken by other content.
    """
    entry = FileEntry(key=key, size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
    if not store.put_if_absent(key, body):
        found = store.read(key)
        if found != body:
            raise ConflictError(
                f"{key} exists with other content: expected {_describe(body)}, found {_describe(found)}. "
                f"It was left as it is. Write under a fresh id."
            )
    return entry


def read_verified(store: ObjectStore, entry: FileEntry) -> bytes:
    """Read a file that a manifest names.

    Raises:
        IntegrityError: The bytes differ from what the manifest says.
    """
    body = store.read(entry.key)
    found = hashlib.sha256(body).hexdigest()
    if len(body) != entry.size_bytes or found != entry.sha256:
        raise IntegrityError(
            f"{entry.key} is not what its manifest says: expected {entry.size_bytes} bytes with sha256 "
            f"{entry.sha256}, found {len(body)} bytes with sha256 {found}. It was not used. Restore the "
            f"object from a backup."
        )
    return body


def write_json(store: ObjectStore, key: str, value: Any) -> FileEntry:
    """Write a value as canonical JSON, once. Raises as ``put_file``; NumericsError for NaN or infinity."""
    return put_file(store, key, canonical_json(value, where=key))


def read_json(store: ObjectStore, key: str) -> Any:
    """Read a JSON object that has no digest. IntegrityError if it is not JSON."""
    return _parse_json(store.read(key), where=key)


def _parse_json(body: bytes, *, where: str) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is not JSON ({len(body)} bytes): {error}. It was not used.") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _describe(body: bytes) -> str:
    return f"{len(body)} bytes with sha256 {hashlib.sha256(body).hexdigest()}"
