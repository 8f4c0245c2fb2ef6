"""Object storage: objects are written once and never change; what changes is an append-only log.

One primitive carries the design: create-if-absent. Every artefact lies under a fresh key, and
every state that changes is a log of numbered objects, each made with ``put_if_absent``: who
creates number n+1 has won. It works alike on a local folder and on S3 and needs no lock server.
Every key of the project is built here.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tru_core.errors import ConfigError, ConflictError, IntegrityError, NumericsError

if TYPE_CHECKING:
    import pyarrow.fs

ASIDE_FOLDER = ".aside"  # where a local store writes before it links; never an object
MAX_KEY_BYTES = 900  # S3 allows 1024 with the store's own prefix
MAX_LOG_NUMBER = 99_999_999
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LOG_FILE = re.compile(r"([0-9]{8})\.json")


class StorageConfig(BaseModel):
    """Where the objects lie. In a job file a plain string means ``url``.

    Credentials are no part of it: each process takes them from the standard AWS chain.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(min_length=1)  # a folder path, file:///folder or s3://bucket/prefix
    endpoint_url: str | None = None  # another S3 service than AWS: https://, on loopback also http://
    region: str = Field(default="us-east-1", min_length=1)
    timeout_seconds: float = Field(default=60.0, gt=0, le=3600, allow_inf_nan=False)  # for one operation

    @model_validator(mode="before")
    @classmethod
    def _accept_plain_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing."""

    key: str
    size_bytes: int


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

    def delete(self, key: str) -> None:
        """Remove an object with all its versions. It is fine if there is none."""
        ...

    def filesystem(self) -> "tuple[pyarrow.fs.FileSystem, str]":
        """For bulk reads: a filesystem and a base path; an object's path is ``f"{base}/{key}"``."""
        ...


def open_store(config: StorageConfig | str) -> ObjectStore:
    """Open the store that a URL names. Touches neither disk nor network.

    Raises:
        ConfigError: The URL is of no known kind, or its endpoint is against the policy
            (``storage_s3.check_endpoint``).
    """
    if isinstance(config, str):
        config = StorageConfig(url=config)
    scheme, separator, _ = config.url.partition("://")
    if separator and scheme == "s3":
        from workflows.storage_s3 import S3Store  # boto3 is needed for s3:// only

        return S3Store(config)
    from workflows.storage_local import LocalStore

    if not separator:
        return LocalStore(config.url)
    parts = urlsplit(config.url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return LocalStore(unquote(parts.path))
    raise ConfigError(
        f"storage url of kind {scheme!r} is unknown. Expected a folder path, file:///folder or s3://bucket/prefix."
    )


# --- keys ---------------------------------------------------------------------------------------


def check_key(key: str) -> str:
    """Return the key if it stays inside the store and means the same on every storage.

    Raises:
        IntegrityError: The key is empty, absolute or too long, has an empty part, ``.`` or ``..``, a
            backslash, an invisible character, or starts with the folder reserved for local writes.
    """
    problem = _key_problem(key)
    if problem:
        raise IntegrityError(
            f"storage key {key[:200]!r} {problem}. Nothing was read or written. Keys come from manifests and "
            f"from this program: if this one came from a manifest, do not trust that manifest."
        )
    return key


def _key_problem(key: str) -> str | None:
    if not key:
        return "is empty"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in key):
        return "has a control or invisible character"
    if "\\" in key:
        return "has a backslash"
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "is absolute or has an empty part, '.' or '..'"
    if parts[0] == ASIDE_FOLDER:
        return f"starts with the reserved folder {ASIDE_FOLDER!r}"
    if len(key.encode()) > MAX_KEY_BYTES or max(len(part.encode()) for part in parts) > 255:
        return f"is longer than {MAX_KEY_BYTES} bytes, or a part of it is longer than 255"
    return None


def check_name(name: str) -> str:
    """Return the name of a data set or model if it is ``[a-z0-9][a-z0-9._-]{0,62}``, else raise ConfigError."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"name {name[:80]!r} is not allowed: a data set or model has 1 to 63 characters of a-z, 0-9, '.', '_', "
            f"'-', and starts with a letter or digit."
        )
    return name


def _part(text: str) -> str:
    """One part of a key, such as an id or a modality."""
    if "/" in text:
        raise IntegrityError(f"part of a storage key {text[:80]!r} has a slash. Nothing was read or written.")
    return check_key(text)


def dataset_log(dataset: str) -> str:
    """The log whose newest entry names the current snapshot."""
    return f"datasets/{check_name(dataset)}/log"


def snapshots_prefix(dataset: str) -> str:
    """The folder of all snapshots of a data set."""
    return f"datasets/{check_name(dataset)}/snapshots"


def snapshot_prefix(dataset: str, snapshot_id: str) -> str:
    """The folder of one snapshot."""
    return f"{snapshots_prefix(dataset)}/{_part(snapshot_id)}"


def manifest_key(prefix: str) -> str:
    """The manifest of a snapshot or model version, written last."""
    return check_key(f"{prefix}/manifest.json")


def vocabulary_key(dataset: str, snapshot_id: str, side: str) -> str:
    """The table of ids and rows. ``side`` is ``users`` or ``items``."""
    return f"{snapshot_prefix(dataset, snapshot_id)}/vocabulary/{_part(side)}.parquet"


def interactions_key(dataset: str, snapshot_id: str, bucket: int) -> str:
    """The interactions of one user bucket."""
    return f"{snapshot_prefix(dataset, snapshot_id)}/interactions/bucket-{bucket:05d}.parquet"


def features_key(dataset: str, snapshot_id: str, modality: str, bucket: int) -> str:
    """The raw features of one item bucket."""
    return f"{snapshot_prefix(dataset, snapshot_id)}/features/{_part(modality)}/bucket-{bucket:05d}.npy"


def item_graph_key(dataset: str, snapshot_id: str, modality: str, bucket: int) -> str:
    """The nearest neighbours of the items of one item bucket."""
    return f"{snapshot_prefix(dataset, snapshot_id)}/item_graph/{_part(modality)}/bucket-{bucket:05d}.parquet"


def model_log(model: str) -> str:
    """The log whose newest entry names the version that serves."""
    return f"models/{check_name(model)}/log"


def model_version_prefix(model: str, attempt_id: str) -> str:
    """The folder of one attempt to make a model version."""
    return f"models/{check_name(model)}/versions/{_part(attempt_id)}"


def run_prefix(run_id: str) -> str:
    """The folder of one run: checkpoints, metrics, result."""
    return f"runs/{_part(run_id)}"


def deletion_prefix(model: str, batch_id: str) -> str:
    """The folder of one batch of deletions."""
    return f"deletions/{check_name(model)}/{_part(batch_id)}"


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
    if number > 1 and not store.exists(_log_key(log_prefix, number - 1)):
        raise IntegrityError(
            f"log {log_prefix}: entry {number} was to be written, but entry {number - 1} does not exist. Nothing was "
            f"written. Read the log again and append behind its newest entry."
        )
    key = _log_key(log_prefix, number)
    return store.put_if_absent(key, canonical_json(entry, where=key))


def read_log(store: ObjectStore, log_prefix: str) -> list[LogEntry]:
    """Read a whole log in order. An empty list if nothing was ever written.

    Raises:
        IntegrityError: A number is missing, an entry is not a JSON object, or the folder holds something else.
    """
    numbers = []
    for info in store.list(log_prefix):
        match = _LOG_FILE.fullmatch(info.key[len(log_prefix) + 1 :])
        if match is None:
            raise IntegrityError(
                f"log {log_prefix} holds {info.key}, which is no log entry. Expected names like 00000001.json only. "
                f"Find out who wrote it, and move it away."
            )
        numbers.append(int(match[1]))
    for expected, number in enumerate(numbers, start=1):
        if number != expected:
            raise IntegrityError(
                f"log {log_prefix}: entry {expected} is missing, found {number} in its place ({len(numbers)} entries "
                f"in all). The history is incomplete and is not used. Restore the missing object from a backup."
            )
    return list(_read_entries(store, log_prefix, numbers))


def _log_key(log_prefix: str, number: int) -> str:
    return check_key(f"{log_prefix}/{number:08d}.json")


def _read_entries(store: ObjectStore, log_prefix: str, numbers: list[int]) -> Iterator[LogEntry]:
    keys = [_log_key(log_prefix, number) for number in numbers]
    with ThreadPoolExecutor(max_workers=8) as pool:
        bodies = list(pool.map(store.read, keys))
    for number, key, body in zip(numbers, keys, bodies, strict=True):
        entry = _parse_json(body, where=key)
        if not isinstance(entry, dict):
            raise IntegrityError(f"log entry {key} is a JSON {type(entry).__name__}, expected an object.")
        yield LogEntry(number=number, entry=entry)


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
            f"{entry.key} is not what its manifest says: expected {entry.size_bytes} bytes with sha256 {entry.sha256}, "
            f"found {len(body)} bytes with sha256 {found}. It was not used. Restore the object from a backup."
        )
    return body


def write_json(store: ObjectStore, key: str, value: Any) -> FileEntry:
    """Write a value as canonical JSON, once. Raises as ``put_file``, and NumericsError for NaN or infinity."""
    return put_file(store, key, canonical_json(value, where=key))


def read_json(store: ObjectStore, key: str) -> Any:
    """Read a JSON object that has no digest. IntegrityError if it is not JSON."""
    return _parse_json(store.read(key), where=key)


def canonical_json(value: Any, *, where: str) -> bytes:
    """The one encoding of a JSON value: sorted keys, no spaces, UTF-8. ``where`` is named in errors."""
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except ValueError as error:
        raise NumericsError(f"{where} was to hold a number that JSON cannot: {error}. Nothing was written.") from error
    return text.encode()


def _parse_json(body: bytes, *, where: str) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is not JSON ({len(body)} bytes): {error}. It was not used.") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _describe(body: bytes) -> str:
    return f"{len(body)} bytes with sha256 {hashlib.sha256(body).hexdigest()}"
