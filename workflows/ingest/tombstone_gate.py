"""The gate that keeps deleted users, items and interactions out of an import: rows that tombstones block are left out.

The keyed digests are made here, by whoever runs the import. The tasks that read the rows get the blocked ids, which
their raw data holds anyway, and never the key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tru_core.errors import ConfigError
from tru_core.identity import IdentityKey
from workflows.data.ids import earlier_spellings
from workflows.data.tombstones import TombstoneIndex, read_tombstones, tombstoned_datasets
from workflows.ingest.blocks import Block
from workflows.key_files import KeysConfig, load_identity_key
from workflows.storage import ObjectStore

_FOREVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Gate:
    """The tombstones that an import consults, and the key that recognises who they are of."""

    indexes: list[TombstoneIndex]
    key: IdentityKey


@dataclass(frozen=True)
class BlockedIds:
    """Ids that are blocked, each with the Unix milliseconds up to which it is; the largest number is for ever.

    ``pair_codes`` are positions in ``pair_users`` times the number of ``pair_items``, plus positions in these; sorted.
    """

    users: pa.Array
    users_until: NDArray[np.int64]
    items: pa.Array
    items_until: NDArray[np.int64]
    pair_users: pa.Array
    pair_items: pa.Array
    pair_codes: NDArray[np.int64]
    pairs_until: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users) + len(self.items) + len(self.pair_codes)


def open_gate(store: ObjectStore, tombstones: Literal["all"] | list[str], keys: KeysConfig) -> Gate | None:
    """Read the tombstones of all data sets of a store, or of those that are named. None if there are none.

    Raises:
        ConfigError: The identity key is missing, could be read by others, or is not the one that made the tombstones.
        IntegrityError: The tombstones were tampered with.
    """
    names = tombstoned_datasets(store)
    if tombstones != "all":
        unknown = sorted(set(tombstones) - set(names))
        if unknown:
            raise ConfigError(
                f"setting `tombstones` of --settings: data set {unknown[0]!r} has none in {store.url}; expected some "
                f"of: {', '.join(names) or 'none'}. Nothing was written. Correct the name, or leave it out."
            )
        names = sorted(set(tombstones))
    if not names:
        return None
    key = load_identity_key(keys)
    indexes = []
    for name in names:
        index = read_tombstones(store, name)
        index.require_key(key, f"data set {name}")
        indexes.append(index)
    return Gate(indexes, key)


def find_blocked(gate: Gate, *, users: pa.Array, items: pa.Array, has_times: bool) -> BlockedIds:
    """Which of the ids of an import are blocked.

    Args:
        users, items: Every id of the import once.
        has_times: Whether interactions have times: who consented anew is admitted from then on, else altogether.
    """
    pairs = [stone for index in gate.indexes for stone in index.pairs()]
    sides = {}
    named: dict[Literal["user", "item"], dict[str, str]] = {"user": {}, "item": {}}
    kinds: tuple[tuple[Literal["user", "item"], pa.Array], ...] = (("user", users), ("item", items))
    for kind, ids in kinds:
        wanted = {stone.user_digest if kind == "user" else stone.item_digest for stone in pairs}
        found: list[str] = []
        until: list[int] = []
        for text in ids.to_pylist():
            limits = []
            for spelling in (text, *earlier_spellings(text)):
                digest = gate.key.digest(kind, spelling)
                if digest in wanted:
                    named[kind][digest] = text
                limit = _blocked_until(gate.indexes, kind, digest, has_times)
                limits += [] if limit is None else [limit]
            if limits:
                found.append(text)
                until.append(max(limits))
        sides[kind] = pa.array(found, pa.string()), np.array(until, dtype=np.int64)
    pair_limits: dict[tuple[str, str], int] = {}
    for stone in pairs:
        limit = _blocked_until(gate.indexes, "interaction", stone.digest, has_times)
        if limit is not None and stone.user_digest in named["user"] and stone.item_digest in named["item"]:
            pair_limits[named["user"][stone.user_digest], named["item"][stone.item_digest]] = limit
    pair_users, pair_items, codes, pairs_until = _coded(pair_limits)
    return BlockedIds(
        users=sides["user"][0],
        users_until=sides["user"][1],
        items=sides["item"][0],
        items_until=sides["item"][1],
        pair_users=pair_users,
        pair_items=pair_items,
        pair_codes=codes,
        pairs_until=pairs_until,
    )


def _blocked_until(
    indexes: Iterable[TombstoneIndex], kind: Literal["user", "item", "interaction"], digest: str, has_times: bool
) -> int | None:
    """Unix milliseconds up to which a subject is blocked by any of the data sets; None if it is not."""
    limits = []
    for index in indexes:
        if index.blocks(kind, digest):
            return _FOREVER
        consented_at = index.admitted_after(kind, digest)
        if consented_at is not None and has_times:
            limits.append(int(consented_at.timestamp() * 1000))
    return max(limits, default=None)


def _coded(limits: dict[tuple[str, str], int]) -> tuple[pa.Array, pa.Array, NDArray[np.int64], NDArray[np.int64]]:
    users = pa.array(sorted({user for user, _ in limits}), pa.string())
    items = pa.array(sorted({item for _, item in limits}), pa.string())
    codes = _codes(
        pa.array([user for user, _ in limits], pa.string()),
        pa.array([item for _, item in limits], pa.string()),
        users,
        items,
    )
    order = np.argsort(codes)
    return users, items, codes[order], np.array(list(limits.values()), dtype=np.int64)[order]


def _codes(users: pa.Array, items: pa.Array, known_users: pa.Array, known_items: pa.Array) -> NDArray[np.int64]:
    """The code of each pair; -1 where one of the two is not known."""
    rows, columns = _places(users, known_users), _places(items, known_items)
    return np.where((rows < 0) | (columns < 0), -1, rows * len(known_items) + columns)


def _places(ids: pa.Array, known: pa.Array) -> NDArray[np.int64]:
    return pc.index_in(ids, value_set=known).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def rows_blocked(block: Block, blocked: BlockedIds) -> NDArray[np.bool_]:
    """Marks the rows of a block that must stay out."""
    time = np.zeros(len(block.rows), dtype=np.int64) if block.timestamp is None else block.timestamp
    is_out = np.zeros(len(block.rows), dtype=bool)
    for ids, known, until in (
        (block.users, blocked.users, blocked.users_until),
        (block.items, blocked.items, blocked.items_until),
    ):
        if len(known):
            place = _places(ids, known)
            is_out |= (place >= 0) & (time <= until[place])
    if len(blocked.pair_codes):
        codes = _codes(block.users, block.items, blocked.pair_users, blocked.pair_items)
        place = np.searchsorted(blocked.pair_codes, codes).clip(max=len(blocked.pair_codes) - 1)
        is_out |= (blocked.pair_codes[place] == codes) & (time <= blocked.pairs_until[place])
    return is_out


def without_rows(block: Block, is_out: NDArray[np.bool_]) -> Block:
    """The block without the marked rows."""
    keep = ~is_out
    mask = pa.array(keep)
    return Block(
        users=block.users.filter(mask),
        items=block.items.filter(mask),
        split=block.split[keep],
        timestamp=None if block.timestamp is None else block.timestamp[keep],
        units=None if block.units is None else block.units[keep],
        rows=block.rows[keep],
    )


def count_dropped(blocked: BlockedIds, *, num_rows: int) -> dict[str, int]:
    """For the import's report: rows left out, and subjects that were met and are deleted. No ids."""
    return {
        "tombstoned_rows_dropped": num_rows,
        "tombstoned_users": len(blocked.users),
        "tombstoned_items": len(blocked.items),
        "tombstoned_interactions": len(blocked.pair_codes),
    }
