"""Split every user's interactions into train, valid and test, and drop those that are there twice. Pure numpy.

All functions work on the interactions of whole users, sorted by (user, item), and give the same result
whatever the order in which the rows arrived.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tru_core.hashing import hash_keys, text_key
from workflows.data.snapshot import TEST, TRAIN, VALID


@dataclass(frozen=True)
class Duplicates:
    """Which of the sorted rows are kept, and why the others are not."""

    is_kept: NDArray[np.bool_]
    is_in_two_splits: NDArray[np.bool_]
    is_repeat: NDArray[np.bool_]  # same split, another time
    is_exact: NDArray[np.bool_]


def sort_rows(
    user_rows: NDArray[np.int64],
    item_rows: NDArray[np.int64],
    *,
    split: NDArray[np.int8],
    timestamp: NDArray[np.int64],
    file: NDArray[np.int64],
    source_row: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The order by user, item, split, time, and the place in the source, which makes it unique."""
    return np.lexsort((source_row, file, timestamp, split, item_rows, user_rows))


def find_duplicates(
    user_rows: NDArray[np.int64],
    item_rows: NDArray[np.int64],
    *,
    split: NDArray[np.int8],
    timestamp: NDArray[np.int64],
) -> Duplicates:
    """Keep the first row of every user and item: the one in train before valid before test, then the earliest.

    A pair in train and test would let a model be tested on what it saw, so only one of its rows stays.

    Args:
        user_rows: With the other columns, in the order of ``sort_rows``.
    """
    is_first = np.ones(len(user_rows), dtype=bool)
    is_first[1:] = (user_rows[1:] != user_rows[:-1]) | (item_rows[1:] != item_rows[:-1])
    first_of = np.maximum.accumulate(np.where(is_first, np.arange(len(user_rows)), 0))
    is_in_two_splits = ~is_first & (split != split[first_of])
    is_repeat = ~is_first & ~is_in_two_splits & (timestamp != timestamp[first_of])
    return Duplicates(
        is_kept=is_first,
        is_in_two_splits=is_in_two_splits,
        is_repeat=is_repeat,
        is_exact=~is_first & ~is_in_two_splits & ~is_repeat,
    )


def split_users(
    user_rows: NDArray[np.int64],
    item_rows: NDArray[np.int64],
    *,
    kind: Literal["random", "time"],
    timestamp: NDArray[np.int64],
    seed: int,
) -> NDArray[np.int8]:
    """Split the interactions of each user 8:1:1.

    A user with n >= 3 interactions has m = max(1, floor(0.1 n + 0.5)) in valid, as many in test, the rest in
    train; a user with fewer has all in train. ``random``: which ones, a hash of (seed, user row, item row)
    decides. ``time``: the last m are test, the m before them valid; the same hash decides between equal times.

    Args:
        user_rows: Sorted, so that each user's interactions lie together, without duplicates.

    Returns:
        0 train, 1 valid, 2 test for each interaction.
    """
    draw = hash_keys(text_key("split"), seed, user_rows, item_rows)
    moment = timestamp if kind == "time" else np.zeros_like(timestamp)
    order = np.lexsort((item_rows, draw, moment, user_rows))
    _, counts = np.unique(user_rows, return_counts=True)
    num_held = np.where(counts >= 3, np.maximum(1, (counts + 5) // 10), 0)
    ends = np.cumsum(counts)
    from_end = np.repeat(ends, counts) - 1 - np.arange(len(user_rows))  # 0 for the last of each user
    held = np.repeat(num_held, counts)
    ordered = np.where(from_end < held, TEST, np.where(from_end < 2 * held, VALID, TRAIN))
    split = np.empty(len(user_rows), dtype=np.int8)
    split[order] = ordered
    return split
