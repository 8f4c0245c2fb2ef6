"""Compacted snapshots: all requests as they stand after some entry, sorted by request id, in files of some thousands.

A snapshot is vouched for by the chain: an entry names its manifest's digest, and the manifest those of its files.
It holds no outside ids.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from tru_core.errors import IntegrityError
from tru_core.settings import Settings
from workflows.deletions.ledger.records import Hold, LedgerRequest
from workflows.deletions.ledger.rows import ROW_SCHEMA, read_columns, read_rows, requests_of, write_table
from workflows.deletions.ledger.states import State
from workflows.storage import FileEntry, ObjectStore, manifest_key, read_verified, write_json
from workflows.storage.chain import Link
from workflows.storage.object_keys import ledger_snapshot_prefix, ledger_snapshot_shard_key

ROWS_PER_SHARD = 65_536


class Shard(Settings):
    """One file: requests from ``first_id`` to the one before the next file's."""

    file: FileEntry
    first_id: str
    num_rows: int = Field(ge=1)


class Compacted(Settings):
    """The manifest of a compacted snapshot.

    Attributes:
        seq, sha256: The newest entry that it holds.
        holds: In force, as :class:`workflows.deletions.ledger.Hold`.
        settled: Released holds of what the data set did not know.
        consents: By subject digest, the time of the newest consent.
        taken: Keyed digests of the files that were taken.
        swept_at: Time of the newest sweep; "" for none.
    """

    kind: Literal["tru.ledger.snapshot"] = "tru.ledger.snapshot"
    schema_version: Literal[1] = 1
    seq: int
    sha256: str
    shards: list[Shard]
    counts: dict[State, int]
    holds: list[dict[str, str]]
    settled: list[dict[str, str]] = Field(default_factory=list)
    consents: dict[str, str]
    taken: list[str]
    swept_at: str


def write_compacted(
    store: ObjectStore,
    model: str,
    attempt_id: str,
    *,
    table: pa.Table,
    link: Link,
    counts: Mapping[State, int],
    holds: Iterable[Hold],
    settled: Iterable[Hold],
    consents: Mapping[str, str],
    taken: Iterable[str],
    swept_at: str,
) -> FileEntry:
    """Write a snapshot; it counts when an entry of the log names it."""
    ordered = table.take(pc.sort_indices(table, sort_keys=[("request_id", "ascending")])).select(ROW_SCHEMA.names)
    shards = []
    for number, start in enumerate(range(0, ordered.num_rows, ROWS_PER_SHARD)):
        part = ordered.slice(start, ROWS_PER_SHARD)
        file = write_table(store, ledger_snapshot_shard_key(model, attempt_id, number), part)
        shards.append(Shard(file=file, first_id=part.column("request_id")[0].as_py(), num_rows=part.num_rows))
    manifest = Compacted(
        seq=link.seq,
        sha256=link.sha256,
        shards=shards,
        counts=dict(counts),
        holds=[dict(vars(hold)) for hold in holds],
        settled=[dict(vars(hold)) for hold in settled],
        consents=dict(consents),
        taken=sorted(taken),
        swept_at=swept_at,
    )
    key = manifest_key(ledger_snapshot_prefix(model, attempt_id))
    return write_json(store, key, manifest.model_dump(mode="json"))


def read_compacted(store: ObjectStore, entry: FileEntry) -> Compacted:
    """Read a snapshot's manifest. IntegrityError if it differs from its digest or is none."""
    try:
        return Compacted.model_validate_json(read_verified(store, entry))
    except ValidationError as error:
        raise IntegrityError(
            f"{entry.key} is no compacted ledger. It was not used. Restore it from a backup."
        ) from error


class Shards:
    """The files of a compacted snapshot, each read and verified when it is first needed, then kept as bytes."""

    def __init__(self, store: ObjectStore, manifest: Compacted) -> None:
        self.manifest = manifest
        self._store = store
        self._first_ids = [shard.first_id for shard in manifest.shards]
        self._bodies: dict[int, bytes] = {}

    def find(self, request_ids: Iterable[str]) -> dict[str, LedgerRequest]:
        """Those of the requests that are here, by id."""
        wanted: dict[int, list[str]] = {}
        for request_id in request_ids:
            number = bisect_right(self._first_ids, request_id) - 1
            if number >= 0:
                wanted.setdefault(number, []).append(request_id)
        found: list[LedgerRequest] = []
        for table in self._each(wanted, lambda number, body, key: read_rows(body, key, wanted[number])):
            found += requests_of(table)
        return {request.request_id: request for request in found}

    def table(self, columns: Sequence[str] = ROW_SCHEMA.names) -> pa.Table:
        """All requests, by all columns or some, in one order."""
        tables = self._each(range(len(self._first_ids)), lambda _, body, key: read_columns(body, key, columns))
        return pa.concat_tables([ROW_SCHEMA.empty_table().select(columns), *tables])

    def _each(self, numbers: Iterable[int], read: Callable[[int, bytes, str], pa.Table]) -> list[pa.Table]:
        def one(number: int) -> pa.Table:
            shard = self.manifest.shards[number]
            if number not in self._bodies:
                self._bodies[number] = read_verified(self._store, shard.file)
            return read(number, self._bodies[number], shard.file.key)

        with ThreadPoolExecutor(max_workers=4) as pool:
            return list(pool.map(one, numbers))
