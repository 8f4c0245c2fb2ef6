"""Where a pair stands among items that are as popular and that its user never had: the scale of all pair attacks.

0.5 is what a system that knows nothing of the user gives on average; a taste that others share lifts it, and so does
memory. A popular item is recommended to everybody, seen or not: so it is compared with its neighbours in popularity.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tru_core.audits.base import AuditCase, System
from tru_core.audits.statistics import FloatArray
from tru_core.hashing import hash_keys, text_key
from tru_core.interactions import IntArray, Pairs, contains, item_degrees, make_pairs
from tru_core.problem import Problem

_WINDOW = 64
_BLOCK = 4_096


def everything_held(problem: Problem) -> Pairs:
    """All pairs that are known of anybody: trained on, held out, forgotten."""
    shard = problem.shard
    parts = (shard.train, shard.valid, shard.test)
    users, items = (np.concatenate([getattr(part, side) for part in parts]) for side in ("users", "items"))
    return make_pairs(users, items, num_items=shard.num_items)


def _neighbours(problem: Problem, seed: int) -> IntArray:
    """Give each item the items nearest to it in retained popularity, deleted ones left out: int64 [item, window]."""
    degrees = item_degrees(problem.retain, problem.graph_without.collective)
    rows = np.arange(len(degrees))
    order = np.lexsort((hash_keys(seed, text_key("popularity-order"), rows), degrees))
    order = order[~np.isin(order, problem.request.items)]
    window = min(_WINDOW, max(2, len(order) // 3))
    place = np.searchsorted(degrees[order], degrees, side="left")
    last = np.searchsorted(degrees[order], degrees, side="right")
    # Among items of one popularity the window starts at a hashed place, so that not all are held against the same.
    shift = hash_keys(seed, text_key("popularity-place"), rows).astype(np.float64) / 2.0**64
    middle = place + (shift * np.maximum(last - place, 1)).astype(np.int64)
    start = np.clip(middle - window // 2, 0, len(order) - window)
    return order[start[:, None] + np.arange(window)]


@dataclass(frozen=True)
class Ranked:
    """Pairs and what each is ranked among: the same for every system.

    Attributes:
        others: int64 [pair, window], items.
        is_free: bool [pair, window], whether the user never had them.
    """

    pairs: Pairs
    others: IntArray
    is_free: NDArray[np.bool_]


def rank_among(pairs: Pairs, case: AuditCase) -> Ranked:
    """Lay out which items each pair is ranked among."""
    others = _neighbours(case.problem, case.seed)[pairs.items]
    return Ranked(pairs, others, ~contains(everything_held(case.problem), pairs.users[:, None], others))


def popular_alike(pairs: Pairs, case: AuditCase, *, num_each: int = 2) -> tuple[IntArray, IntArray]:
    """Give for each pair some pairs of the same user with items as popular that the user never had.

    Returns:
        int64 users and items, at most ``num_each`` for each pair, one after the other.
    """
    ranked = rank_among(pairs, case)
    others, is_free = ranked.others, ranked.is_free
    keys = hash_keys(case.seed, text_key("popular-alike"), pairs.users[:, None], pairs.items[:, None], others)
    order = np.argsort(np.where(is_free, keys >> np.uint64(1), np.uint64(2**63)), axis=1, kind="stable")[:, :num_each]
    kept = np.take_along_axis(is_free, order, axis=1)
    users = np.broadcast_to(pairs.users[:, None], order.shape)
    return users[kept], np.take_along_axis(others, order, axis=1)[kept]


def pair_ranks(system: System, ranked: Ranked) -> FloatArray:
    """Give each pair the share of comparable items that score lower with its user, ties half.

    A pair that the system hides is below all of them.

    Returns:
        float64 [pair] in [0, 1]; 0.5 where the user had every comparable item.
    """
    pairs = ranked.pairs
    ranks = np.full(len(pairs), 0.5)
    for start in range(0, len(pairs), _BLOCK):
        block = slice(start, start + _BLOCK)
        vectors = system.users[torch.from_numpy(pairs.users[block])]
        own = (vectors * system.items[torch.from_numpy(pairs.items[block])]).sum(dim=1, keepdim=True)
        scores = torch.einsum("pd,pwd->pw", vectors, system.items[torch.from_numpy(ranked.others[block])])
        is_free = ranked.is_free[block]
        below = ((scores < own).double() + (scores == own).double() / 2).numpy() * is_free
        count = is_free.sum(axis=1)
        ranks[block] = np.where(count, below.sum(axis=1) / np.maximum(count, 1), 0.5)
    if system.hidden is not None:
        ranks[contains(system.hidden, pairs.users, pairs.items)] = 0.0
    return ranks
