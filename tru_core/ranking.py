"""Full-ranking recall and NDCG, in blocks of users: never a users x items matrix.

Each worker ranks all items for its own users; hits and counts are all-summed. What is masked is
always said by the caller, because published protocols differ.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tru_core.collective import Collective
from tru_core.interactions import Pairs, contains

BLOCK_USERS = 1024


@dataclass(frozen=True)
class RankingMetrics:
    """Means over users that have at least one target.

    Attributes:
        recall: Hits among the top k / targets of the user, in [0, 1].
        ndcg: Log2-discounted gain / its best value for min(targets, k) hits, in [0, 1].
        num_users: Users that have a target, over all workers.
    """

    recall: float
    ndcg: float
    num_users: int


def mask_scores(scores: Float[Tensor, "user item"], users: np.ndarray, masked: Pairs) -> None:
    """Put the scores of masked pairs to minus infinity, in place.

    Args:
        users: int64 [user], ascending positions of the users whose scores these are.
    """
    starts = np.searchsorted(masked.users, users, side="left")
    stops = np.searchsorted(masked.users, users, side="right")
    lengths = stops - starts
    inside = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    block_rows = torch.from_numpy(np.repeat(np.arange(len(users)), lengths))
    scores[block_rows, torch.from_numpy(masked.items[inside])] = -torch.inf


def top_items(
    user_vectors: Float[Tensor, "user dim"],
    item_vectors: Float[Tensor, "item dim"],
    users: np.ndarray,
    masked: Pairs,
    *,
    k: int,
) -> np.ndarray:
    """Rank all items for some of this worker's users, masked pairs last.

    Args:
        users: int64 [user], ascending positions, a block small enough for a (user x item) table.

    Returns:
        int64 [user, min(k, items)], item rows, best first; -1 where only masked items are left.
    """
    scores = user_vectors[torch.from_numpy(users)] @ item_vectors.T
    mask_scores(scores, users, masked)
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    return torch.where(best.values == -torch.inf, -1, best.indices).numpy()


def rank_metrics(
    user_vectors: Float[Tensor, "user dim"],
    item_vectors: Float[Tensor, "item dim"],
    targets: Pairs,
    masked: Pairs,
    collective: Collective,
    *,
    k: int = 20,
) -> RankingMetrics:
    """Recall@k and NDCG@k of target pairs among all items, as MMRec computes them.

    Args:
        user_vectors: This worker's users' output vectors.
        targets: The pairs that should (or, for forgotten pairs, should no longer) be recommended.
        masked: Pairs that are never recommended, usually the user's training items.
        k: Length of the list, at least 1.
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    best_gain = np.cumsum(discounts)
    users, counts = np.unique(targets.users, return_counts=True)
    sums = np.zeros(3)
    with torch.no_grad():
        for start in range(0, len(users), BLOCK_USERS):
            block, wanted = users[start : start + BLOCK_USERS], counts[start : start + BLOCK_USERS]
            listed = top_items(user_vectors, item_vectors, block, masked, k=k)
            hits = contains(targets, block[:, None], listed) & (listed >= 0)
            gains = (hits * discounts[: listed.shape[1]]).sum(axis=1)
            sums += [
                (hits.sum(axis=1) / wanted).sum(),
                (gains / best_gain[np.minimum(wanted, k) - 1]).sum(),
                len(block),
            ]
    recall, ndcg, num_users = collective.all_sum(torch.from_numpy(sums)).tolist()
    if not num_users:
        return RankingMetrics(recall=0.0, ndcg=0.0, num_users=0)
    return RankingMetrics(recall=recall / num_users, ndcg=ndcg / num_users, num_users=int(num_users))
