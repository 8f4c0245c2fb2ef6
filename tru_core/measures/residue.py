"""The co-consumption residue: what shared tables still tell of which items a forgotten subject had together.

A deleted user's row is gone, but training pulled the vectors of that user's items towards each other. So take
pairs of items that somebody had together only in what is to be forgotten, and compare the similarity of their
vectors with that of random pairs of the same items. An AUC of 0.5 says that the item space does not know that
anybody had both; the fair level is that of pairs which somebody had together only in *held-out* data, because
people do choose similar items together. Both directions are visible: below is as telling as above.

For deleted items the same is asked of the user side: pairs of users whom only deleted items connect.
Measured by us before it was built (not in the paper); all pairs are the same on any number of workers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tru_core.collective import Collective, all_sum_number
from tru_core.hashing import hash_keys, hash_uniform, text_key
from tru_core.interactions import (
    IntArray,
    Pairs,
    Shard,
    item_degrees,
    make_pairs,
    positions_of,
    select,
    sorted_distinct,
)
from tru_core.problem import Problem

MAX_PAIRS = 50_000
MAX_PAIRS_PER_GROUP = 2_000
_BLOCK = 2_000_000


@dataclass(frozen=True)
class RowPairs:
    """Pairs of rows of one table, replicated on every worker.

    Attributes:
        first, second: int64 [pair], vocabulary rows, each pair once.
    """

    first: IntArray
    second: IntArray

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class _Edges:
    """Edges between groups and members, sorted by member, then group; each once."""

    members: IntArray
    groups: IntArray
    num_groups: int

    @cached_property
    def keys(self) -> IntArray:
        return self.members * self.num_groups + self.groups

    @cached_property
    def starts(self) -> IntArray:
        """Where the edges of each member up to the last begin, and where all end."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.members))])


def _edges(members: IntArray, groups: IntArray, num_groups: int) -> _Edges:
    keys = sorted_distinct(members * num_groups + groups)
    return _Edges(members=keys // num_groups, groups=keys % num_groups, num_groups=num_groups)


def _share(first: IntArray, second: IntArray, edges: _Edges) -> NDArray[np.bool_]:
    """Say for each pair of members whether some group holds both: one lookup for each group of the rarer member."""
    sides, every = np.stack([first, second]), np.arange(len(first))
    starts, stops = (edges.starts[np.minimum(members, len(edges.starts) - 1)] for members in (sides, sides + 1))
    rarer = (stops - starts).argmin(axis=0)
    starts, lengths, others = starts[rarer, every], (stops - starts)[rarer, every], sides[1 - rarer, every]
    found, keys = np.zeros(len(first), dtype=bool), edges.keys
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(first) and len(keys):
        before = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        counts = lengths[begin:stop]
        pair = np.repeat(np.arange(begin, stop), counts)
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        wanted = others[pair] * edges.num_groups + edges.groups[starts[pair] + inside]
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found[pair[keys[place] == wanted]] = True
        begin = stop
    return found


def had_together(pairs: RowPairs, members: IntArray, groups: IntArray, *, num_groups: int) -> NDArray[np.bool_]:
    """Say for each pair of members whether some group holds both.

    Args:
        members, groups: int64 [edge], in any order: items and the users who had them, or the other way round.
        num_groups: Above every group's number.
    """
    return _share(pairs.first, pairs.second, _edges(members, groups, num_groups))


def _gather(columns: tuple[IntArray, ...], collective: Collective) -> list[IntArray]:
    """Lay every worker's rows of some int64 columns under each other."""
    if collective.world_size == 1:
        return list(columns)
    local = torch.from_numpy(np.stack(columns, axis=1).astype(np.int64))
    return list(torch.cat(collective.all_gather(local)).numpy().T.copy())


def _pairs_within(groups: IntArray, members: IntArray, fresh: NDArray[np.bool_], *, seed: int) -> RowPairs:
    """Draw pairs of members of one group of which at least one is marked, at most about so many for each group.

    Args:
        groups, members: int64 [edge], sorted by group.
        fresh: bool [edge]: one of each pair is among these.
    """
    starts = np.searchsorted(groups, np.unique(groups), side="left")
    lengths = np.diff(np.append(starts, len(groups)))
    marked = np.flatnonzero(fresh)
    place = np.searchsorted(starts, marked, side="right") - 1
    others = lengths[place] - 1
    num_marked = np.bincount(place, minlength=len(starts))[place]
    draws = np.minimum(others, np.maximum(1, MAX_PAIRS_PER_GROUP // np.maximum(num_marked, 1)))
    edge = np.repeat(marked, draws)
    number = np.arange(draws.sum()) - np.repeat(np.cumsum(draws) - draws, draws)
    size, group_start = np.repeat(others, draws), starts[np.repeat(place, draws)]
    # Without replacement: every stride-th other member of the group, from a start that follows from the edge.
    offset = hash_keys(seed, text_key("co-consumption"), groups[edge], members[edge]) >> np.uint64(1)
    other = (offset.astype(np.int64) + number * (size // np.repeat(draws, draws))) % np.maximum(size, 1)
    other = group_start + other + (other >= edge - group_start)
    low, high = np.minimum(members[edge], members[other]), np.maximum(members[edge], members[other])
    return RowPairs(first=low, second=high)


def _distinct(pairs: RowPairs, num_rows: int, *, max_pairs: int, seed: int) -> RowPairs:
    """Keep each pair once, and at most ``max_pairs`` of them, chosen by hash."""
    keys = sorted_distinct(pairs.first * num_rows + pairs.second)
    if len(keys) > max_pairs:
        drawn = hash_keys(seed, text_key("pair-sample"), keys)
        keys = keys[np.sort(np.argpartition(drawn, max_pairs)[:max_pairs])]
    return RowPairs(first=keys // num_rows, second=keys % num_rows)


def _some(pairs: RowPairs, chosen: NDArray[np.bool_]) -> RowPairs:
    return RowPairs(first=pairs.first[chosen], second=pairs.second[chosen])


@dataclass(frozen=True)
class Contrast:
    """Pairs that are asked about, and random pairs of the same rows, both parted by how rare the rarer row is.

    Attributes:
        pairs: The pairs in question.
        strata: int64 [pair]: 0 where the rarer row has no retained pair, 1 for 1 to 3, 2 for more.
        random: For each pair ``(a, b)`` pairs ``(a, c)``, c the second row of another pair of its stratum; nobody
            had a and c together, in training or in the pairs that the contrast is drawn from.
        random_strata: int64 [random pair].
    """

    pairs: RowPairs
    strata: IntArray
    random: RowPairs
    random_strata: IntArray

    def rows(self) -> tuple[IntArray, ...]:
        """Every row that takes part, with repeats."""
        return (self.pairs.first, self.pairs.second, self.random.first, self.random.second)


NUM_STRATA = 3
_RARE = (1, 4)
_NUM_RANDOM = 2


def _contrast(pairs: RowPairs, degrees: IntArray, everything: Callable[[RowPairs], NDArray], *, seed: int) -> Contrast:
    strata = np.searchsorted(_RARE, np.minimum(degrees[pairs.first], degrees[pairs.second]), side="right")
    first, second, of = [], [], []
    for draw in range(_NUM_RANDOM):
        for stratum in range(NUM_STRATA):
            own = np.flatnonzero(strata == stratum)
            keys = hash_keys(seed, text_key("random-pair"), draw, pairs.first[own], pairs.second[own])
            first.append(pairs.first[own])
            second.append(pairs.second[own[np.argsort(keys, kind="stable")]])
            of.append(np.full(len(own), stratum))
    random = RowPairs(first=np.concatenate(first), second=np.concatenate(second))
    fair = (random.first != random.second) & ~everything(random)
    return Contrast(pairs=pairs, strata=strata, random=_some(random, fair), random_strata=np.concatenate(of)[fair])


@dataclass(frozen=True)
class ResidueProbe:
    """What to compare for one request, the same on every worker.

    Attributes:
        side: Whose rows the pairs are: ``item`` for deleted users and interactions, ``user`` for deleted items.
        forgotten: Pairs that somebody had together only in what is to be forgotten.
        held_out: Pairs that somebody had together only in validation data: the level of never seen. None where it
            was not asked for.
    """

    side: Literal["item", "user"]
    forgotten: Contrast
    held_out: Contrast | None


@runtime_checkable
class _Draw(Protocol):
    """Draws pairs of rows that only some interactions brought together."""

    def __call__(self, *, seed: int, max_pairs: int) -> Contrast: ...


@dataclass(frozen=True)
class PairSource:
    """Where the probes of a request are drawn from. What does not depend on the draw is laid out once.

    Attributes:
        side: Whose rows the pairs are.
        forgotten: Draws pairs that somebody had together only in what is to be forgotten.
        held_out: Draws such of validation data.
    """

    side: Literal["item", "user"]
    forgotten: _Draw
    held_out: _Draw

    def draw(self, *, seed: int, max_pairs: int = MAX_PAIRS, held_out: bool = True) -> ResidueProbe:
        """List what the request leaves to tell. Every worker must call it.

        Args:
            seed: Decides which pairs are drawn where there are too many.
            max_pairs: Pairs at most, before those that somebody retains together are left out.
            held_out: List the held-out pairs too.
        """
        forgotten = self.forgotten(seed=seed, max_pairs=max_pairs)
        level = self.held_out(seed=seed, max_pairs=max_pairs) if held_out else None
        return ResidueProbe(self.side, forgotten, level)


def pair_source(problem: Problem) -> PairSource:
    """Lay out a request's pairs: of items, or of users where the request is of items alone."""
    request, collective = problem.request, problem.graph_with.collective
    num_named = all_sum_number(len(request.users) + len(request.pair_users), collective)
    of_users = bool(len(request.items)) and not num_named
    pairs_of = (_user_pairs if of_users else _item_pairs)(problem, collective)
    return PairSource("user" if of_users else "item", pairs_of(problem.forget), pairs_of(problem.valid))


def make_probe(problem: Problem, *, seed: int, max_pairs: int = MAX_PAIRS, held_out: bool = True) -> ResidueProbe:
    """Draw a single probe: see :meth:`PairSource.draw`."""
    return pair_source(problem).draw(seed=seed, max_pairs=max_pairs, held_out=held_out)


def _merged(base: Pairs, extra: Pairs) -> tuple[IntArray, IntArray, NDArray[np.bool_]]:
    """Users and items of two sets of pairs, and which are of the second."""
    users, items = np.concatenate([base.users, extra.users]), np.concatenate([base.items, extra.items])
    return users, items, np.repeat([False, True], [len(base), len(extra)])


def _item_pairs(problem: Problem, collective: Collective) -> Callable[[Pairs], _Draw]:
    """Give what lays out the pairs of items that some pairs' users had together only with these pairs."""
    shard, retain = problem.shard, problem.retain
    kept = _edges(retain.items, retain.users, len(shard.user_rows))
    degrees = item_degrees(retain, collective)

    def together(pairs: RowPairs, edges: _Edges) -> NDArray[np.bool_]:
        found = torch.from_numpy(_share(pairs.first, pairs.second, edges).astype(np.int64))
        return collective.all_sum(found).numpy() > 0

    def pairs_of(extra: Pairs) -> _Draw:
        users, items, _ = _merged(shard.train, extra)
        everything = _edges(items, users, len(shard.user_rows))
        users, items, fresh = _merged(retain, extra)
        of_user = np.flatnonzero(np.isin(users, extra.users) & ~np.isin(items, problem.request.items))
        of_user = of_user[np.lexsort((items[of_user], users[of_user]))]
        user_rows, items, fresh = shard.user_rows[users[of_user]], items[of_user], fresh[of_user]

        def draw(*, seed: int, max_pairs: int) -> Contrast:
            found = _pairs_within(user_rows, items, fresh, seed=seed)
            first, second = _gather((found.first, found.second), collective)
            pairs = _distinct(RowPairs(first, second), shard.num_items, max_pairs=max_pairs, seed=seed)
            pairs = _some(pairs, ~together(pairs, kept))
            return _contrast(pairs, degrees, lambda random: together(random, everything), seed=seed)

        return draw

    return pairs_of


def _user_pairs(problem: Problem, collective: Collective) -> Callable[[Pairs], _Draw]:
    """Give what lays out the pairs of users whom only some pairs' items connect."""
    shard, retain = problem.shard, problem.retain
    rows, num_items = shard.user_rows, shard.num_items
    local = np.zeros(shard.num_users, dtype=np.int64)
    local[rows] = np.bincount(retain.users, minlength=len(rows))
    degrees = collective.all_sum(torch.from_numpy(local)).numpy()

    def together(pairs: RowPairs, of: Pairs) -> NDArray[np.bool_]:
        involved = np.isin(rows[of.users], np.concatenate([pairs.first, pairs.second]))
        users, items = _gather((rows[of.users[involved]], of.items[involved]), collective)
        return _share(pairs.first, pairs.second, _edges(users, items, num_items))

    def pairs_of(extra: Pairs) -> _Draw:
        # A deleted item is retained by nobody; a held-out one may be.
        base = select(retain, np.isin(retain.items, np.flatnonzero(item_degrees(extra, collective))))
        merged = _merged(base, extra)
        # At most about so many users of an item: the most that _pairs_within would draw pairs from.
        share = MAX_PAIRS_PER_GROUP / np.maximum(item_degrees(base, collective) + item_degrees(extra, collective), 1)
        users, items, _ = _merged(shard.train, extra)
        everything = make_pairs(users, items, num_items=num_items)

        def draw(*, seed: int, max_pairs: int) -> Contrast:
            users, items, fresh = merged
            drawn = hash_uniform(seed, text_key("probe-edge"), rows[users], items) < share[items]
            users, items, fresh = _gather((rows[users[drawn]], items[drawn], fresh[drawn].astype(np.int64)), collective)
            order = np.lexsort((users, items))
            found = _pairs_within(items[order], users[order], fresh[order] > 0, seed=seed)
            pairs = _distinct(found, shard.num_users, max_pairs=max_pairs, seed=seed)
            pairs = _some(pairs, ~together(pairs, retain))
            return _contrast(pairs, degrees, lambda random: together(random, everything), seed=seed)

        return draw

    return pairs_of


def row_vectors(
    probe: ResidueProbe,
    users: Float[Tensor, "user dim"],
    items: Float[Tensor, "item dim"],
    shard: Shard,
    collective: Collective,
) -> Float[Tensor, "row dim"]:
    """Give the vectors of the probe's side with one row for each row of the vocabulary. Differentiable.

    For the user side only the rows that the probe asks about are filled, from whichever worker owns them.
    """
    if probe.side == "item" or collective.world_size == 1:
        return items if probe.side == "item" else users
    contrasts = [probe.forgotten] if probe.held_out is None else [probe.forgotten, probe.held_out]
    asked = sorted_distinct(np.concatenate([rows for contrast in contrasts for rows in contrast.rows()]))
    place, owned = positions_of(shard, asked)
    whole = users.new_zeros((shard.num_users, users.shape[1]))
    found = users.index_select(0, torch.from_numpy(place[owned]))
    part = users.new_zeros((len(asked), users.shape[1])).index_copy(0, torch.from_numpy(np.flatnonzero(owned)), found)
    return whole.index_copy(0, torch.from_numpy(asked), collective.all_sum(part))


def cosines(vectors: Float[Tensor, "row dim"], pairs: RowPairs) -> Float[Tensor, " pair"]:
    """Cosine between the vectors of each pair of rows. Differentiable."""
    first, second = (vectors.index_select(0, torch.from_numpy(rows)) for rows in (pairs.first, pairs.second))
    return functional.cosine_similarity(first, second, dim=1)


def auc(found: Float[Tensor, " pair"], random: Float[Tensor, " other"]) -> float:
    """Chance that a found value is above a random one, ties counted half; 0.5 where either is empty."""
    if not len(found) or not len(random):
        return 0.5
    ordered = random.sort().values
    below, up_to = (torch.searchsorted(ordered, found.contiguous(), side=side) for side in ("left", "right"))
    return float((below + up_to).double().mean()) / (2 * len(random))


@dataclass(frozen=True)
class Residue:
    """AUC of similarity against random pairs of the same rows; 0.5 where there is nothing to ask.

    Attributes:
        overall: Mean over pairs of the AUC inside their stratum.
        by_stratum: One for each stratum of :class:`Contrast`.
        counts: Pairs of each stratum.
    """

    overall: float
    by_stratum: tuple[float, ...]
    counts: tuple[int, ...]


def measure_residue(vectors: Float[Tensor, "row dim"], contrast: Contrast) -> Residue:
    """Ask how far the vectors tell the pairs of a contrast from random pairs of the same rows."""
    with torch.no_grad():
        found, random = cosines(vectors, contrast.pairs), cosines(vectors, contrast.random)
    counts, by_stratum = [], []
    for stratum in range(NUM_STRATA):
        own, other = (torch.from_numpy(of == stratum) for of in (contrast.strata, contrast.random_strata))
        counts.append(int(own.sum()))
        by_stratum.append(auc(found[own], random[other]))
    total = sum(counts)
    overall = sum(c * a for c, a in zip(counts, by_stratum, strict=True)) / total if total else 0.5
    return Residue(overall=overall, by_stratum=tuple(by_stratum), counts=tuple(counts))
