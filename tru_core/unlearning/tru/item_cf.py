"""Where plain item-based collaborative filtering ranks an item for a user: what the retained graph tells by itself.

Score of user u and item i is ``(R R^T R)[u, i]``, R the normalised adjacency of what is retained: i is near where users
who have items of u have it too. Nothing is trained, so no forgotten pair is in it, and two pairs that it ranks alike
are alike in how well anybody could have guessed them.
"""

import numpy as np
import torch

from tru_core.graph import Graph, items_from_users, users_from_items
from tru_core.interactions import IntArray, Pairs
from tru_core.ranking import mask_scores

_BLOCK_USERS = 256
_BLOCK_CELLS = 2**26
"""Numbers of one block on a worker with many users or items: fewer users are asked about at a time."""
_ALIKE = 1e-4
"""Scores that differ by less than this share are a tie, whatever the order in which workers' parts were added."""


def item_cf_ranks(graph: Graph, pairs: Pairs, masked: Pairs) -> IntArray:
    """Count, for each pair of this worker, the items that item-based collaborative filtering puts above it.

    Every worker must call it, with pairs or without. Three propagations for every 256 users that are asked about; for
    fewer users where tables are long.

    Args:
        graph: Of what is retained.
        pairs: User positions and items; no pair of the graph.
        masked: Pairs that are not counted: what the users retain.

    Returns:
        int64 [pair], 0 for the first place. Items that score alike (ties are many) do not count as above.
    """
    asked, which = np.unique(pairs.users, return_inverse=True)
    parts = torch.stack(graph.collective.all_gather(torch.tensor([len(asked), len(graph.user_rows)])))
    total, first = int(parts[:, 0].sum()), int(parts[: graph.collective.rank, 0].sum())
    block = min(_BLOCK_USERS, _BLOCK_CELLS // max(int(parts[:, 1].max()), len(graph.item_degrees)) + 1)
    ranks = np.zeros(len(pairs), dtype=np.int64)
    with torch.no_grad():
        for start in range(0, total, block):
            width = min(block, total - start)
            own = np.arange(len(asked))[max(0, start - first) : max(0, start + width - first)]
            columns = torch.from_numpy(own + first - start)
            chosen = torch.zeros(len(graph.user_rows), width, dtype=graph.user_item.forward.dtype)
            chosen[torch.from_numpy(asked[own]), columns] = 1.0
            near = users_from_items(graph, items_from_users(graph, chosen))
            scores = items_from_users(graph, near)[:, columns].T.contiguous()
            here = np.flatnonzero(np.isin(which, own))
            rows, items = torch.from_numpy(np.searchsorted(own, which[here])), torch.from_numpy(pairs.items[here])
            limits = scores[rows, items] * (1.0 + _ALIKE)
            if len(own):
                mask_scores(scores, asked[own], masked)
            above = [
                np.count_nonzero((scores[row] > limit[:, None]).numpy(), axis=1)  # NumPy counts bools several at once
                for row, limit in zip(rows.split(block), limits.split(block), strict=True)
            ]
            ranks[here] = np.concatenate(above)
    return ranks
