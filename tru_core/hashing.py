"""Counter-based random numbers: a value depends on its keys alone, never on who asks or when.

This is what makes results independent of the number of workers and lets a run resume in the
middle: batches, negatives and initial rows are functions of (seed, purpose, epoch, row), not
states of a generator.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits: the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))


def hash_keys(*keys: ArrayLike) -> NDArray[np.uint64]:
    """Hash any number of non-negative integer keys, broadcast together, to 64 uniform bits each.

    The order of the keys matters. The same keys give the same bits on every machine.
    """
    with np.errstate(over="ignore"):
        state = np.zeros((), dtype=np.uint64)
        for key in keys:
            state = _mix(np.asarray(state + _GOLDEN_GAMMA * (np.asarray(key).astype(np.uint64) + np.uint64(1))))
    return np.asarray(state)


def hash_below(limit: int, *keys: ArrayLike) -> NDArray[np.int64]:
    """Hash keys to integers in [0, limit). The bias of the remainder is below limit / 2**64."""
    return np.asarray(hash_keys(*keys) % np.uint64(limit)).astype(np.int64)


def hash_uniform(*keys: ArrayLike) -> NDArray[np.float64]:
    """Hash keys to float64 in [0, 1), with 53 random bits each."""
    return np.asarray((hash_keys(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def text_key(text: str) -> int:
    """Turn a short name (a purpose, a parameter's name) into a key, stable across processes."""
    key = 0xCBF29CE484222325
    for byte in text.encode():
        key = ((key ^ byte) * 0x100000001B3) % 2**64
    return key


def user_bucket(user_row: ArrayLike, num_buckets: int) -> NDArray[np.int64]:
    """The bucket that owns each user row. Constant for the life of a data set."""
    return hash_below(num_buckets, text_key("user-bucket"), user_row)
