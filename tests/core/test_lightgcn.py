"""LightGCN against a slow, dense version written from the paper's formulas."""

import numpy as np
import pytest
import torch

from tru_core.backbones import MGCN, BackboneInputs, LightGCN
from tru_core.errors import ConfigError
from tru_core.testing.models import batches_of, build_model, train_graph
from tru_core.testing.worlds import Part, shards_of, tiny_world


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(), 1)[0]


def dense_adjacency(part: Part) -> torch.Tensor:
    """The normalised adjacency of users and items, entry by entry."""
    num_users, num_items = part.shard.num_users, part.shard.num_items
    edges = np.zeros((num_users + num_items, num_users + num_items))
    for position, item in zip(part.shard.train.users, part.shard.train.items, strict=True):
        edges[part.shard.user_rows[position], num_users + item] = 1.0
    edges = edges + edges.T
    degree = edges.sum(axis=1)
    for row, column in np.argwhere(edges):
        edges[row, column] = 1.0 / (degree[row] * degree[column]) ** 0.5
    return torch.from_numpy(edges)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_vectors_and_losses_equal_the_dense_version(part: Part, layers: int) -> None:
    model = build_model(part, "lightgcn", layers=layers, regulariser_weight=0.3)
    assert isinstance(model, LightGCN)
    adjacency, tables = dense_adjacency(part), torch.cat([model.user_table, model.item_table]).detach()
    powers = [tables]
    for _ in range(layers):
        powers.append(adjacency @ powers[-1])
    expected = torch.stack(powers).mean(dim=0)
    num_users = part.shard.num_users
    graph = train_graph(part)
    users, items = model.embeddings(graph)
    torch.testing.assert_close(torch.cat([users, items]), expected, rtol=1e-10, atol=1e-12)

    batch = batches_of(part)[0]
    rows = [batch.users, num_users + batch.positives, num_users + batch.negatives]
    user, positive, negative = (expected[row] for row in rows)
    margin = (user * positive).sum(dim=1) - (user * negative).sum(dim=1)
    terms = model.loss(graph, batch)
    assert terms.ranking.item() == pytest.approx(float(torch.log1p(torch.exp(-margin)).mean()), rel=1e-10)
    squares = sum(float((tables[row] ** 2).sum()) for row in rows)
    assert terms.regulariser.item() == pytest.approx(0.3 * squares / 2 / batch.num_rows, rel=1e-10)
    assert terms.auxiliary.item() == 0


def test_settings_of_another_backbone_are_refused() -> None:
    inputs = BackboneInputs(user_rows=np.arange(2), num_users=2, num_items=2, features={}, seed=0)
    with pytest.raises(ConfigError, match="takes LightGCNSettings"):
        LightGCN(inputs, MGCN.settings_type())
