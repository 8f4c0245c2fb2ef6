"""Recall and NDCG against PyTorch Geometric's, which other people wrote."""

import numpy as np
import pytest
import torch

from tru_core.collective import LocalCollective
from tru_core.interactions import make_pairs
from tru_core.ranking import rank_metrics, top_items


@pytest.mark.parametrize("k", [1, 5, 20])
def test_recall_and_ndcg_equal_those_of_torch_geometric(k: int) -> None:
    from torch_geometric.metrics import LinkPredNDCG, LinkPredRecall

    rng = np.random.default_rng(k)
    num_users, num_items = 60, 45
    users, items = (torch.from_numpy(rng.standard_normal((count, 6))) for count in (num_users, num_items))
    kinds = rng.choice(3, size=(num_users, num_items), p=[0.8, 0.1, 0.1])
    kinds[0] = 0  # a user without targets
    targets, masked = (make_pairs(*np.nonzero(kinds == kind), num_items=num_items) for kind in (1, 2))
    found = rank_metrics(users, items, targets, masked, LocalCollective(), k=k)

    listed = torch.from_numpy(top_items(users, items, np.arange(num_users), masked, k=k))
    truth = torch.from_numpy(np.stack([targets.users, targets.items]))
    for metric, value in ((LinkPredRecall(k), found.recall), (LinkPredNDCG(k), found.ndcg)):
        metric.update(listed, truth)
        assert value == pytest.approx(float(metric.compute()), rel=1e-6)
    assert found.num_users == len(np.unique(targets.users))
