"""A Merkle tree over salted leaves: one digest for many requests, and a short proof for each that names no other.

The tree is that of RFC 6962, section 2.1: a leaf is ``SHA256(0x00 || nonce || content)``, a node
``SHA256(0x01 || left || right)``, and an odd node goes up unchanged. The nonce is 32 secret bytes of that leaf alone,
so the digests on the way of one proof cannot be tried out against guessed contents of other leaves.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tru_core.errors import ConfigError

NONCE_BYTES = 32


@dataclass(frozen=True)
class Tree:
    """All levels of a tree, leaves first, the root alone in the last."""

    levels: tuple[tuple[bytes, ...], ...]

    @property
    def root(self) -> bytes:
        """The digest that stands for all leaves."""
        return self.levels[-1][0]

    def path(self, index: int) -> list[bytes]:
        """The neighbours on the way from a leaf to the root, lowest first."""
        neighbours = []
        for level in self.levels[:-1]:
            if index ^ 1 < len(level):
                neighbours.append(level[index ^ 1])
            index //= 2
        return neighbours


def leaf_hash(nonce: bytes, content: bytes) -> bytes:
    """The digest of one leaf. ConfigError unless the nonce has 32 bytes."""
    if len(nonce) != NONCE_BYTES:
        raise ConfigError(f"a leaf's nonce has {NONCE_BYTES} bytes, found {len(nonce)}. Nothing was signed.")
    return hashlib.sha256(b"\x00" + nonce + content).digest()


def build_tree(leaves: Sequence[bytes]) -> Tree:
    """The tree over leaf digests in this order. ConfigError if there is none."""
    if not leaves:
        raise ConfigError("a receipt needs at least one request. Nothing was signed.")
    levels = [tuple(leaves)]
    while len(levels[-1]) > 1:
        level = levels[-1]
        pairs = [_node(level[place], level[place + 1]) for place in range(0, len(level) - 1, 2)]
        levels.append((*pairs, *level[len(pairs) * 2 :]))
    return Tree(tuple(levels))


def root_of_path(leaf: bytes, *, index: int, num_leaves: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a leaf at a place and its neighbours lead to; None if the path has another length."""
    if not 0 <= index < num_leaves:
        return None
    found, remaining = leaf, list(path)
    while num_leaves > 1:
        if index ^ 1 < num_leaves:
            if not remaining:
                return None
            neighbour = remaining.pop(0)
            found = _node(neighbour, found) if index % 2 else _node(found, neighbour)
        index, num_leaves = index // 2, (num_leaves + 1) // 2
    return None if remaining else found


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
