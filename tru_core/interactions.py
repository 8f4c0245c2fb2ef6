"""Pairs of a user and an item, as one worker holds them, and how a request parts them.

A worker owns whole users. Inside a worker a user is a *position* in ``Shard.user_rows``; outside
it is a *row* of the vocabulary. Items are rows everywhere. A set of pairs is kept sorted by
(position, item) and without duplicates, so that membership is a binary search.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tru_core.collective import Collective
from tru_core.errors import DataError

IntArray = NDArray[np.int64]
Regime = Literal["user", "item", "interaction"]


@dataclass(frozen=True)
class Pairs:
    """Distinct (user position, item row) pairs, sorted by position, then item.

    Attributes:
        users: int64 [pair], positions in the shard's ``user_rows``.
        items: int64 [pair], item rows.
        num_items: Number of item rows of the data set.
    """

    users: IntArray
    items: IntArray
    num_items: int

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def keys(self) -> IntArray:
        """One sorted int64 per pair: ``position * num_items + item``."""
        return self.users * self.num_items + self.items


def sorted_distinct(values: IntArray) -> IntArray:
    """Sort numbers and keep each once. ``np.unique`` hashes integers first: a hundred times slower on 600,000."""
    ordered = np.sort(values, axis=None)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def make_pairs(users: IntArray, items: IntArray, *, num_items: int) -> Pairs:
    """Sort pairs and drop duplicates.

    Raises:
        DataError: If an item row lies outside [0, num_items) or a position is negative.
    """
    users, items = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
    if len(users) != len(items):
        raise DataError(f"pairs need as many users as items: found {len(users)} and {len(items)}")
    if len(items) and (items.min() < 0 or items.max() >= num_items or users.min() < 0):
        raise DataError(f"pairs hold rows outside the vocabulary of {num_items} items; rebuild the snapshot")
    keys = sorted_distinct(users * num_items + items)
    return Pairs(users=keys // num_items, items=keys % num_items, num_items=num_items)


def contains(pairs: Pairs, users: IntArray, items: IntArray) -> NDArray[np.bool_]:
    """Say for each (position, item) whether it is one of the pairs. Shapes broadcast."""
    keys = np.asarray(users) * pairs.num_items + np.asarray(items)
    if not len(pairs):
        return np.zeros(keys.shape, dtype=bool)
    place = np.searchsorted(pairs.keys, keys)
    return pairs.keys[np.minimum(place, len(pairs) - 1)] == keys


def select(pairs: Pairs, chosen: NDArray[np.bool_]) -> Pairs:
    """Keep the pairs where ``chosen`` is true."""
    return Pairs(users=pairs.users[chosen], items=pairs.items[chosen], num_items=pairs.num_items)


def keep_users(pairs: Pairs, kept: NDArray[np.bool_]) -> Pairs:
    """Keep the pairs of some users, whose positions are then counted among these users alone.

    Args:
        kept: bool [user].
    """
    chosen, places = kept[pairs.users], np.cumsum(kept, dtype=np.int64) - 1
    return Pairs(users=places[pairs.users[chosen]], items=pairs.items[chosen], num_items=pairs.num_items)


@dataclass(frozen=True)
class Shard:
    """The interactions of the users that one worker owns.

    Attributes:
        user_rows: int64 [user], the owned users' vocabulary rows, ascending.
        num_users: Rows of the user vocabulary over all workers.
        num_items: Rows of the item vocabulary.
        train, valid, test: The split's pairs of these users.
    """

    user_rows: IntArray
    num_users: int
    num_items: int
    train: Pairs
    valid: Pairs
    test: Pairs


def only_users(shard: Shard, kept: NDArray[np.bool_]) -> Shard:
    """Take some of a worker's users, as if it owned no others.

    Args:
        kept: bool [user].
    """
    return replace(
        shard,
        user_rows=shard.user_rows[kept],
        train=keep_users(shard.train, kept),
        valid=keep_users(shard.valid, kept),
        test=keep_users(shard.test, kept),
    )


def positions_of(shard: Shard, user_rows: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """Find users of this worker: the position of each row (0 where not owned) and whether it is owned."""
    rows = np.asarray(user_rows, dtype=np.int64)
    if not len(shard.user_rows):
        return np.zeros(rows.shape, dtype=np.int64), np.zeros(rows.shape, dtype=bool)
    place = np.minimum(np.searchsorted(shard.user_rows, rows), len(shard.user_rows) - 1)
    owned = shard.user_rows[place] == rows
    return np.where(owned, place, 0), owned


@dataclass(frozen=True)
class Request:
    """What is to be forgotten, by vocabulary rows. Any part may be empty.

    Attributes:
        users: int64 [user], users to forget whole.
        items: int64 [item], items to forget whole.
        pair_users, pair_items: int64 [pair], single interactions: user row and item row.
    """

    users: IntArray
    items: IntArray
    pair_users: IntArray
    pair_items: IntArray


def make_request(
    *,
    users: IntArray | None = None,
    items: IntArray | None = None,
    pair_users: IntArray | None = None,
    pair_items: IntArray | None = None,
) -> Request:
    """Make a request; what is left out is empty."""

    def rows(values: IntArray | None) -> IntArray:
        return np.zeros(0, dtype=np.int64) if values is None else np.asarray(values, dtype=np.int64)

    return Request(
        users=np.unique(rows(users)),
        items=np.unique(rows(items)),
        pair_users=rows(pair_users),
        pair_items=rows(pair_items),
    )


def split_by_request(train: Pairs, shard: Shard, request: Request) -> tuple[Pairs, Pairs]:
    """Part training pairs into those to forget and those to retain (D_f and D_r, Eq. 1 of arXiv:2604.02183v1)."""
    positions, owned = positions_of(shard, request.users)
    forgotten = np.isin(train.users, positions[owned]) | np.isin(train.items, request.items)
    positions, owned = positions_of(shard, request.pair_users)
    asked = make_pairs(positions[owned], request.pair_items[owned], num_items=train.num_items)
    forgotten |= contains(asked, train.users, train.items)
    return select(train, forgotten), select(train, ~forgotten)


def without_subjects(pairs: Pairs, shard: Shard, request: Request) -> Pairs:
    """Drop held-out pairs of deleted users and deleted items: the list on which every system is compared."""
    positions, owned = positions_of(shard, request.users)
    gone = np.isin(pairs.users, positions[owned]) | np.isin(pairs.items, request.items)
    return select(pairs, ~gone)


def item_degrees(pairs: Pairs, collective: Collective) -> IntArray:
    """Number of training pairs of each item over all workers, int64 [item]."""
    local = np.bincount(pairs.items, minlength=pairs.num_items).astype(np.int64)
    return collective.all_sum(torch.from_numpy(local)).numpy()
