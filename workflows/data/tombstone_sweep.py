"""The sweep: is anything that was deleted back in the data set's current snapshot?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from tru_core.hashing import user_bucket
from tru_core.identity import IdentityKey
from workflows.data.ids import earlier_spellings, read_id_texts
from workflows.data.manifest import SnapshotManifest
from workflows.data.requests import DeletionRequest, Kind
from workflows.data.snapshot import current_snapshot, read_interactions, read_vocabulary
from workflows.data.tombstones import TombstoneIndex
from workflows.storage import ObjectStore


@dataclass(frozen=True)
class SweepHits:
    """What was found, by outside ids: never to be shown or kept."""

    snapshot_id: str
    users: list[str] = field(default_factory=list, repr=False)
    items: list[str] = field(default_factory=list, repr=False)
    pairs: list[tuple[str, str]] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.users) + len(self.items) + len(self.pairs)

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {"users": len(self.users), "items": len(self.items), "interactions": len(self.pairs)}


def sweep_dataset(store: ObjectStore, dataset: str, index: TombstoneIndex, key: IdentityKey) -> SweepHits:
    """Compare every user, item and tombstoned interaction of the current snapshot with the tombstones.

    Who consented anew since is no hit. Interactions of theirs from before that consent are not looked for: what the
    snapshot holds of them came through the gate of an import.

    Raises:
        MissingObjectError: There is no such data set.
        IntegrityError: The snapshot is damaged.
    """
    snapshot = current_snapshot(store, dataset)
    user_ids, user_rows = read_vocabulary(store, snapshot.user_vocabulary)
    item_ids, item_rows = read_vocabulary(store, snapshot.item_vocabulary)
    user_digests = [_digests(key, "user", text) for text in _as_read(user_ids)]
    item_digests = [_digests(key, "item", text) for text in _as_read(item_ids)]
    wanted = [stone for stone in index.pairs() if index.blocks("interaction", stone.digest)]
    users = {digest: place for place, digests in enumerate(user_digests) for digest in digests}
    items = {digest: place for place, digests in enumerate(item_digests) for digest in digests}
    places = [
        (users[stone.user_digest], items[stone.item_digest])
        for stone in wanted
        if stone.user_digest in users and stone.item_digest in items
    ]
    rows = [(int(user_rows[user]), int(item_rows[item])) for user, item in places]
    is_there = _are_there(store, snapshot, rows)
    return SweepHits(
        snapshot_id=snapshot.snapshot_id,
        users=[text for text, own in zip(user_ids, user_digests, strict=True) if _is_blocked(index, "user", own)],
        items=[text for text, own in zip(item_ids, item_digests, strict=True) if _is_blocked(index, "item", own)],
        pairs=[(user_ids[u], item_ids[i]) for (u, i), found in zip(places, is_there, strict=True) if found],
    )


def _as_read(ids: Sequence[str]) -> list[str]:
    """Ids as requests name them; what an earlier version took in and cannot be read now stays as it is."""
    read, _ = read_id_texts(ids)
    return [one or text for one, text in zip(read, ids, strict=True)]


def _digests(key: IdentityKey, kind: Kind, text: str) -> list[str]:
    """The keyed digests under which tombstones of an id may stand."""
    return [key.digest(kind, spelling) for spelling in (text, *earlier_spellings(text))]


def _is_blocked(index: TombstoneIndex, kind: Kind, digests: Sequence[str]) -> bool:
    """Whether a subject must stay out under any of the spellings of its id."""
    return any(index.blocks(kind, digest) for digest in digests)


def _are_there(store: ObjectStore, snapshot: SnapshotManifest, pairs: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether the snapshot holds each interaction, by rows; only the buckets concerned are read."""
    if not pairs:
        return []
    wanted = np.asarray(pairs, dtype=np.int64)
    buckets = np.unique(user_bucket(wanted[:, 0], snapshot.num_user_buckets))
    table = read_interactions(store, snapshot, [int(bucket) for bucket in buckets])
    held = table.user_rows * snapshot.num_items + table.item_rows
    return np.isin(wanted[:, 0] * snapshot.num_items + wanted[:, 1], held).tolist()


def requests_again(found: SweepHits, key: IdentityKey, *, now: datetime) -> list[DeletionRequest]:
    """New deletion requests for what a sweep found. The same hit on the same day has the same request id."""
    subjects: list[tuple[Kind, str, str]] = [
        *(("user", text, "") for text in found.users),
        *(("item", "", text) for text in found.items),
        *(("interaction", user, item) for user, item in found.pairs),
    ]
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return [
        DeletionRequest(
            request_id=f"sweep-{day:%Y%m%d}-{key.digest(kind, *(text for text in (user, item) if text))[:20]}",
            kind=kind,
            user_id=user,
            item_id=item,
            received_time=day.isoformat(),
            regulation=None,
            line=number,
            is_verified=True,
        )
        for number, (kind, user, item) in enumerate(subjects, start=1)
    ]
