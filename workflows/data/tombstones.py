"""Tombstones of a data set: keyed digests of what was deleted, which every import consults.

They stay when the data is gone, so that a deleted user, item or interaction cannot come back with the next raw data.
Consent given anew is an event with an epoch; what happened after it is admitted. Both are entries of one hash chain
and are ordered by the time at which they were asked for, not by the time at which they were written: a deletion that
is carried out after somebody consented anew does not undo that consent.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from tru_core.errors import ConfigError, ConflictError, IntegrityError, TransientError
from tru_core.identity import IdentityKey
from tru_core.settings import Settings
from workflows.data.requests import DeletionRequest, Kind
from workflows.storage import FileEntry, ObjectStore, put_file, read_verified
from workflows.storage.chain import Link, append, list_chain, mend_mark, read_chain
from workflows.storage.object_keys import tombstones_body_key, tombstones_chain, tombstones_prefix
from workflows.storage.parquet import parquet_bytes

MAX_INLINE_ROWS = 50
_MAX_ATTEMPTS = 200
_COLUMNS = ("kind", "digest", "at", "user_digest", "item_digest", "epoch")
_SCHEMA = pa.schema([(name, pa.int64() if name == "epoch" else pa.string()) for name in _COLUMNS])


@dataclass(frozen=True)
class Tombstone:
    """Something deleted, or somebody who consented anew.

    Attributes:
        digest: Keyed digest of the subject.
        at: When it was asked for: UTC, ISO 8601. A later consent admits what happens after it.
        user_digest, item_digest: Of an interaction only, those of its two sides; "" else.
        key_id: Which identity key made the digests; "" is not checked.
    """

    kind: Kind
    digest: str
    at: str
    user_digest: str = ""
    item_digest: str = ""
    key_id: str = ""


@dataclass
class _Subject:
    """What is known of one subject: the newest deletion and the newest consent, as asked for."""

    stone: Tombstone | None = None
    deleted_at: datetime | None = None
    consented_at: datetime | None = None
    epoch: int = 0


@dataclass(frozen=True)
class TombstoneIndex:
    """What is deleted, to look up. ``key_ids`` are of the identity keys that made the digests."""

    key_ids: frozenset[str] = frozenset()
    batch_ids: frozenset[str] = frozenset()
    _subjects: dict[tuple[Kind, str], _Subject] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(subject.deleted_at is not None for subject in self._subjects.values())

    def __contains__(self, stone: Tombstone) -> bool:
        """Whether the subject of a tombstone was deleted, whatever it consented to since."""
        subject = self._subjects.get((stone.kind, stone.digest))
        return subject is not None and subject.deleted_at is not None

    def blocks(self, kind: Kind, digest: str, at_time: datetime | None = None) -> bool:
        """Whether a subject must stay out.

        Args:
            at_time: When what is to come in happened; None where that is not known: then any consent after the newest
                deletion admits it.
        """
        subject = self._subjects.get((kind, digest))
        if subject is None or subject.deleted_at is None:
            return False
        if subject.consented_at is None or subject.consented_at <= subject.deleted_at:
            return True
        return at_time is not None and at_time <= subject.consented_at

    def admitted_after(self, kind: Kind, digest: str) -> datetime | None:
        """For a deleted subject that consented anew, the time after which it is admitted; None else."""
        subject = self._subjects.get((kind, digest))
        is_admitted = subject is not None and subject.deleted_at is not None and not self.blocks(kind, digest)
        return subject.consented_at if subject is not None and is_admitted else None

    def epoch(self, kind: Kind, digest: str) -> int:
        """How often a subject consented anew."""
        subject = self._subjects.get((kind, digest))
        return 0 if subject is None else subject.epoch

    def pairs(self) -> list[Tombstone]:
        """The tombstones of single interactions."""
        stones = (subject.stone for (kind, _), subject in self._subjects.items() if kind == "interaction")
        return [stone for stone in stones if stone is not None]

    def has_seen(self, consent: Tombstone) -> bool:
        """Whether a consent as new as this one is known."""
        subject = self._subjects.get((consent.kind, consent.digest))
        seen = None if subject is None else subject.consented_at
        return seen is not None and seen >= datetime.fromisoformat(consent.at)

    def require_key(self, key: IdentityKey, where: str) -> None:
        """Do nothing if the key made all digests.

        Raises:
            ConfigError: If another one did: nothing would be recognised.
        """
        others = self.key_ids - {key.key_id}
        if others:
            raise ConfigError(
                f"{where}: its tombstones were made with identity key {sorted(others)[0]}, this one is {key.key_id}, "
                "so nobody who was deleted would be recognised. Nothing was written. Restore the earlier key."
            )


class _Entry(Settings):
    """One entry of the chain, without what the chain puts in."""

    kind: Literal["deletion", "consent"]
    key_id: str
    at: str
    attempt_id: str
    batch_id: str = ""
    rows: list[dict[str, Any]] = Field(default_factory=list)
    body: FileEntry | None = None


def tombstones_of(requests: Iterable[DeletionRequest], key: IdentityKey, *, now: datetime) -> list[Tombstone]:
    """The tombstones of what requests ask to forget, or the consents of what they name.

    Args:
        now: Stands for the time of receipt where a request has none.
    """
    stones = []
    for request in requests:
        at = request.received_time or now.astimezone(UTC).isoformat(timespec="seconds")
        user = key.digest("user", request.user_id) if request.kind != "item" else ""
        item = key.digest("item", request.item_id) if request.kind != "user" else ""
        if request.kind == "interaction":
            pair = key.digest("interaction", request.user_id, request.item_id)
            stones.append(Tombstone("interaction", pair, at, user, item, key.key_id))
        else:
            stones.append(Tombstone(request.kind, user or item, at, key_id=key.key_id))
    return stones


def add_tombstones(store: ObjectStore, dataset: str, tombstones: Sequence[Tombstone], *, batch_id: str) -> bool:
    """Write the tombstones of a batch. Writing them again changes nothing.

    Returns:
        True if this call wrote them.

    Raises:
        IntegrityError: The chain was tampered with.
    """
    for _ in range(_MAX_ATTEMPTS):
        index, link = _read(store, dataset)
        if batch_id in index.batch_ids or not tombstones:
            mend_mark(store, tombstones_chain(dataset), link)
            return False
        if _append(store, dataset, "deletion", tombstones, [0] * len(tombstones), batch_id=batch_id, before=link):
            return True
    raise _busy(dataset)


def add_consents(store: ObjectStore, dataset: str, consents: Sequence[Tombstone]) -> int:
    """Write that subjects consented anew. Those that are as new already are left out.

    Returns:
        How many were written.
    """
    for _ in range(_MAX_ATTEMPTS):
        index, link = _read(store, dataset)
        fresh = [consent for consent in consents if not index.has_seen(consent)]
        epochs = [index.epoch(consent.kind, consent.digest) + 1 for consent in fresh]
        if not fresh or _append(store, dataset, "consent", fresh, epochs, batch_id="", before=link):
            return len(fresh)
    raise _busy(dataset)


def read_tombstones(store: ObjectStore, dataset: str) -> TombstoneIndex:
    """Read and verify all tombstones of a data set. An empty index if there are none.

    Raises:
        IntegrityError: The chain was tampered with.
        ConfigError: A newer program wrote it.
    """
    return _read(store, dataset)[0]


def tombstoned_datasets(store: ObjectStore) -> list[str]:
    """The data sets that have tombstones or consents, by name. They may be gone themselves."""
    prefix = tombstones_prefix()
    return sorted({info.key[len(prefix) + 1 :].partition("/")[0] for info in store.list(prefix)})


def _busy(dataset: str) -> TransientError:
    return TransientError(
        f"tombstones of {dataset}: others wrote first {_MAX_ATTEMPTS} times. Nothing was written by this call. Run it "
        "again."
    )


def _read(store: ObjectStore, dataset: str) -> tuple[TombstoneIndex, Link]:
    chain = tombstones_chain(dataset)
    entries = read_chain(store, chain, list_chain(store, chain))
    subjects: dict[tuple[Kind, str], _Subject] = {}
    key_ids, batch_ids = set(), set()
    for line in entries:
        try:
            entry = _Entry.model_validate(line.fields)
            rows = entry.rows if entry.body is None else _read_body(store, entry.body)
            for row in rows:
                _note(subjects, row, entry)
        except (ValidationError, KeyError, ValueError):
            raise IntegrityError(
                f"{chain}: entry {line.link.seq} is no entry of tombstones. It was not used."
            ) from None
        key_ids.add(entry.key_id)
        batch_ids.add(entry.batch_id)
    index = TombstoneIndex(frozenset(key_ids - {""}), frozenset(batch_ids - {""}), subjects)
    return index, entries[-1].link if entries else Link()


def _note(subjects: dict[tuple[Kind, str], _Subject], row: dict[str, Any], entry: _Entry) -> None:
    epoch = row["epoch"]
    stone = Tombstone(**{name: value for name, value in row.items() if name != "epoch"}, key_id=entry.key_id)
    subject = subjects.setdefault((stone.kind, stone.digest), _Subject())
    at = datetime.fromisoformat(stone.at)
    if entry.kind == "consent":
        subject.consented_at = max(at, subject.consented_at or at)
        subject.epoch = max(epoch, subject.epoch)
    else:
        subject.stone = stone
        subject.deleted_at = max(at, subject.deleted_at or at)


def _append(
    store: ObjectStore,
    dataset: str,
    kind: Literal["deletion", "consent"],
    stones: Sequence[Tombstone],
    epochs: Sequence[int],
    *,
    batch_id: str,
    before: Link,
) -> bool:
    key_ids = {stone.key_id for stone in stones}
    if len(key_ids) != 1:
        raise ConflictError(f"tombstones of {dataset}: made with several identity keys. Nothing was written.")
    rows = [
        {name: getattr(stone, name) for name in _COLUMNS[:-1]} | {"epoch": epoch}
        for stone, epoch in zip(stones, epochs, strict=True)
    ]
    entry = _Entry(
        kind=kind,
        key_id=key_ids.pop(),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        attempt_id=secrets.token_hex(16),
        batch_id=batch_id,
    )
    if len(rows) > MAX_INLINE_ROWS:
        key = tombstones_body_key(dataset, entry.attempt_id)
        entry = entry.model_copy(
            update={"body": put_file(store, key, parquet_bytes(pa.Table.from_pylist(rows, schema=_SCHEMA)))}
        )
    else:
        entry = entry.model_copy(update={"rows": rows})
    written = append(store, tombstones_chain(dataset), entry.model_dump(mode="json"), before=before)
    if written is None and entry.body is not None:
        store.delete(entry.body.key)
    return written is not None


def _read_body(store: ObjectStore, entry: FileEntry) -> list[dict[str, Any]]:
    try:
        file = pq.ParquetFile(pa.BufferReader(read_verified(store, entry)))
        if file.schema_arrow != _SCHEMA:
            raise IntegrityError(f"{entry.key} has other columns than tombstones have. It was not used.")
        return file.read().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{entry.key} cannot be read as parquet: {error}. It was not used.") from error
