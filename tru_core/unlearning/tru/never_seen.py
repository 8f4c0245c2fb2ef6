"""What forgotten pairs are compared with: held-out pairs that could be guessed as well, which the model never saw.

A deleted pair that resembles a user's taste is recommended by right, also after retraining. So the level to reach is
not zero but that of validation pairs, parted by where item-based collaborative filtering on the retained graph ranks
them (:mod:`.item_cf`), and by how many retained pairs their user and their item have. Measured on TikTok (5 % of the
interactions): two Retrains of MGCN and one of MIG-GT list 14.7, 15.3 and 18.7 % of the forgotten pairs of users who
keep something, and of the validation pairs of the same strata, weighted alike, 15.3, 17.0 and 16.8 %; parted by
activity and popularity alone 17.1, 18.9 and 19.5 %.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tru_core.hashing import hash_below, hash_uniform, text_key
from tru_core.interactions import IntArray, Pairs, item_degrees, select
from tru_core.problem import Problem
from tru_core.ranking import BLOCK_USERS, top_items
from tru_core.unlearning.tru.item_cf import item_cf_ranks
from tru_core.unlearning.tru.matching import Values

LIST_LENGTH = 20
MIN_REFERENCES = 30
MAX_REFERENCE_USERS = 4_000
MIN_REFERENCE_USERS = 1_000
REFERENCES_PER_FORGOTTEN = 4
"""Users with held-out pairs for each user with forgotten ones: the deviation of the chance that compares ``n`` with
``4 n`` is ``sqrt(1 + 1/4)`` = 1.12 times that of a comparison with any number, and looks cost what references do."""
MAX_USERS_AT_ONCE = 1_024
_RANKS = (20, 200)
_ACTIVITY = (2, 4, 16, 64)


@dataclass(frozen=True)
class Judged:
    """Pairs of this worker with what they are compared by.

    Attributes:
        pairs: User positions and items.
        strata: int64 [pair]; pairs of one stratum are comparable.
        weights: float [pair], one divided by the user's pairs: each user counts once, as in recall.
    """

    pairs: Pairs
    strata: Int64[Tensor, " pair"]
    weights: Float[Tensor, " pair"]

    @cached_property
    def users(self) -> IntArray:
        """Their users, ascending positions, each once."""
        return np.unique(self.pairs.users)


@dataclass(frozen=True)
class NeverSeen:
    """The forgotten pairs of users who stay and keep something and items that stay, and what they are compared with.

    Attributes:
        forgotten: In slices by user, over all workers about ``MAX_USERS_AT_ONCE`` users in each.
        reference: The validation pairs of about ``REFERENCES_PER_FORGOTTEN`` times as many users over all workers, at
            least ``MIN_REFERENCE_USERS`` and at most ``MAX_REFERENCE_USERS``; of the most where nobody is judged by
            them, since they say what steps cost.
        num_forgotten: Pairs in all slices on all workers.
    """

    forgotten: tuple[Judged, ...]
    reference: Judged
    num_forgotten: int

    @cached_property
    def users(self) -> IntArray:
        """Users of all these pairs, ascending positions, each once."""
        return np.unique(np.concatenate([part.users for part in (*self.forgotten, self.reference)]))


def _merged(counts: IntArray) -> IntArray:
    """Give each class a stratum such that every stratum has enough references, by joining neighbours."""
    strata, current, held = np.zeros(len(counts), dtype=np.int64), 0, 0
    for place, count in enumerate(counts):
        strata[place] = current
        held += count
        if held >= MIN_REFERENCES and counts[place + 1 :].sum() >= MIN_REFERENCES:
            current, held = current + 1, 0
    return strata


def _num_references(num_users: int) -> int:
    """How many users' held-out pairs the forgotten pairs of so many users are compared with."""
    if not num_users:
        return MAX_REFERENCE_USERS
    return min(max(MIN_REFERENCE_USERS, REFERENCES_PER_FORGOTTEN * num_users), MAX_REFERENCE_USERS)


def compare_with_never_seen(problem: Problem, users: IntArray, *, seed: int) -> NeverSeen:
    """List the forgotten pairs of some users of this worker, and the validation pairs that they are compared with.

    Args:
        users: int64, ascending positions of users who stay and keep at least one pair.
        seed: Decides whose validation pairs are taken where too many have some.
    """
    shard, retain, collective = problem.shard, problem.retain, problem.graph_without.collective
    activity = np.searchsorted(_ACTIVITY, np.bincount(retain.users, minlength=len(shard.user_rows)), "right")
    popularity = np.log2(item_degrees(retain, collective) + 1.0).astype(np.int64)
    # A deleted item has a fresh row and no edge: nobody is recommended it, and nothing compares with it.
    of_users = np.isin(problem.forget.users, users) & ~np.isin(problem.forget.items, problem.request.items)
    forgotten = select(problem.forget, of_users)
    counted = [len(np.unique(forgotten.users)), len(forgotten), len(np.unique(problem.valid.users))]
    num_users, num_forgotten, num_valid = collective.all_sum(torch.tensor(counted)).tolist()
    rows = shard.user_rows[problem.valid.users]
    drawn = hash_uniform(seed, text_key("reference"), rows) * max(num_valid, 1) < _num_references(num_users)
    reference = select(problem.valid, drawn)
    shape = (len(_RANKS) + 1, len(_ACTIVITY) + 1, int(popularity.max()) + 1)

    def classes(pairs: Pairs) -> IntArray:
        """Number the classes of (rank, activity, popularity), in this order of importance."""
        ranks = item_cf_ranks(problem.graph_without, pairs, retain) if num_forgotten else np.zeros(len(pairs))
        parts = (np.searchsorted(_RANKS, ranks, "right"), activity[pairs.users], popularity[pairs.items])
        return np.ravel_multi_index(parts, shape)

    classes_of_reference = classes(reference)
    counts = np.bincount(classes_of_reference, minlength=math.prod(shape))
    strata = _merged(collective.all_sum(torch.from_numpy(counts)).numpy())

    def judged(pairs: Pairs, numbers: IntArray, weights: IntArray) -> Judged:
        return Judged(pairs, torch.from_numpy(strata[numbers]), torch.from_numpy(1.0 / weights[pairs.users]))

    def by_user(pairs: Pairs) -> IntArray:
        return np.maximum(np.bincount(pairs.users, minlength=len(shard.user_rows)), 1)

    num_slices = max(1, -(-num_users // MAX_USERS_AT_ONCE))
    slice_of = hash_below(num_slices, seed, text_key("slice"), shard.user_rows[forgotten.users])
    weights, numbers = by_user(forgotten), classes(forgotten)
    chosen = [slice_of == number for number in range(num_slices)]
    slices = tuple(judged(select(forgotten, part), numbers[part], weights) for part in chosen)
    return NeverSeen(
        forgotten=slices,
        reference=judged(reference, classes_of_reference, by_user(reference)),
        num_forgotten=num_forgotten,
    )


def list_margins(
    users: Float[Tensor, "user dim"], items: Float[Tensor, "item dim"], judged: Judged, masked: Pairs
) -> Values:
    """How far each pair's score lies above the end of its user's list, in deviations of the user's scores.

    ``(u . i - score of place 20) / deviation of u's scores over all items``: 0 or above where the pair is recommended.
    Differentiable in the pair's own score; the list's end and the deviation are constants.

    Args:
        users: Of this worker; only the rows of ``judged.users`` count.
        masked: Pairs that are never recommended: the user's retained ones.
    """
    with torch.no_grad():
        centred = items - items.mean(dim=0)
        spread = centred.T @ centred / len(items)
        asked = judged.users
        ends, deviations = users.new_zeros(len(users)), users.new_ones(len(users))
        for start in range(0, len(asked), BLOCK_USERS):
            block = asked[start : start + BLOCK_USERS]
            vectors, place = users[torch.from_numpy(block)], torch.from_numpy(block)
            listed = top_items(users, items, block, masked, k=LIST_LENGTH)
            # Where fewer items are free the list ends with the last of them.
            last = listed[np.arange(len(block)), (listed >= 0).sum(axis=1) - 1]
            ends[place] = (vectors * items[torch.from_numpy(last)]).sum(dim=1)
            deviations[place] = ((vectors @ spread) * vectors).sum(dim=1).clamp_min(1e-24).sqrt()
    which = torch.from_numpy(judged.pairs.users)
    scores = (users.index_select(0, which) * items.index_select(0, torch.from_numpy(judged.pairs.items))).sum(dim=1)
    margins = (scores - ends[which]) / deviations[which]
    return Values(margins, judged.strata, judged.weights.to(margins.dtype))


def joined(parts: tuple[Values, ...]) -> Values:
    """Lay several values under each other."""
    return Values(
        torch.cat([part.values for part in parts]),
        torch.cat([part.strata for part in parts]),
        torch.cat([part.weights for part in parts]),
    )
