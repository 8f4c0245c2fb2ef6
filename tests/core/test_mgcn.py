"""MGCN against a slow, dense version written from the formulas alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.backbones import MGCN, Backbone, ItemFeatures
from tru_core.backbones.base import check_modalities
from tru_core.backbones.mgcn import MGCNSettings
from tru_core.collective import LocalCollective
from tru_core.errors import ConfigError
from tru_core.graph import build_graph
from tru_core.sampling import Batch
from tru_core.settings import Settings
from tru_core.testing.models import batches_of, build_model, train_graph
from tru_core.testing.worlds import Part, World, backbone_inputs, shards_of, tiny_world

ODD_NAMES = [("visual",), ("visual", "text"), ("Zebra-9", "0", "schön")]


@dataclass(frozen=True)
class Slow:
    """Dense results: output vectors, and the two sides of the contrastive loss."""

    users: Tensor
    items: Tensor
    content: Tensor
    side: Tensor


def dense_adjacency(world: World) -> Tensor:
    size = world.num_users + world.num_items
    adjacency = torch.zeros(size, size, dtype=torch.float64)
    for user, item in world.train.tolist():
        adjacency[user, world.num_users + item] = 1.0
        adjacency[world.num_users + item, user] = 1.0
    degrees = adjacency.sum(dim=1)
    for row in range(size):
        for column in range(size):
            if adjacency[row, column]:
                adjacency[row, column] = (degrees[row] * degrees[column]) ** -0.5
    return adjacency


def dense_item_graph(world: World, modality: str) -> Tensor:
    entries = world.item_neighbours[modality]
    weights = torch.zeros(world.num_items, world.num_items, dtype=torch.float64)
    for item, other, cosine in zip(entries.items, entries.neighbours, entries.similarity, strict=True):
        weights[item, other] = max(float(cosine), 0.0)
    sums = weights.sum(dim=1)
    return weights / (sums[:, None] * sums[None, :]).sqrt()


def sigmoid(x: Tensor) -> Tensor:
    return 1.0 / (1.0 + (-x).exp())


def slow_mgcn(weights: Mapping[str, Tensor], world: World, settings: MGCNSettings) -> Slow:
    def linear(layer: str, x: Tensor) -> Tensor:
        return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]

    adjacency, num_users = dense_adjacency(world), world.num_users
    tables = torch.cat([weights["user_table"], weights["item_table"]])
    layers = [tables]
    for _ in range(settings.user_item_layers):
        layers.append(adjacency @ layers[-1])
    content = sum(layers, torch.zeros_like(tables)) / len(layers)

    views = {}
    for modality in sorted(world.features):
        raw = weights.get(f"features.{modality}", torch.from_numpy(world.features[modality]))
        projected = linear(f"project.{modality}", raw)
        item_view = weights["item_table"] * sigmoid(linear(f"purify.{modality}", projected))
        for _ in range(settings.item_item_layers):
            item_view = dense_item_graph(world, modality) @ item_view
        views[modality] = torch.cat([adjacency[:num_users, num_users:] @ item_view, item_view])

    exponents = {
        modality: (linear("query_hidden", view).tanh() @ weights["query_score.weight"].T).exp()
        for modality, view in views.items()
    }
    total = sum(exponents.values(), torch.zeros(1, dtype=torch.float64))
    common = sum((exponents[m] / total * view for m, view in views.items()), torch.zeros_like(content))
    side = common
    for modality, view in views.items():
        side = side + sigmoid(linear(f"prefer.{modality}", content)) * (view - common)
    side = side / (len(views) + 1)
    out = content + side
    return Slow(users=out[:num_users], items=out[num_users:], content=content, side=side)


def slow_info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over rows, written out row by row."""

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / (a.norm() * b.norm())

    losses = []
    for row in range(len(first)):
        scores = torch.stack([cosine(first[row], other) / temperature for other in second])
        losses.append(-(scores[row].exp() / scores.exp().sum()).log())
    return torch.stack(losses).mean()


def slow_loss(slow: Slow, batch: Batch, settings: MGCNSettings) -> dict[str, Tensor]:
    count, num_users = len(batch.users), len(slow.users)
    users, positives, negatives = slow.users[batch.users], slow.items[batch.positives], slow.items[batch.negatives]
    margins = torch.stack([users[row] @ positives[row] - users[row] @ negatives[row] for row in range(count)])
    squares = users.square().sum() + positives.square().sum() + negatives.square().sum()
    places = {"user": batch.users, "item": num_users + batch.positives}
    contrast = sum(
        slow_info_nce(slow.side[rows], slow.content[rows], settings.contrastive_temperature) for rows in places.values()
    )
    return {
        "ranking": -sigmoid(margins).log().mean(),
        "regulariser": settings.regulariser_weight * 0.5 * squares / count,
        "auxiliary": settings.contrastive_weight * contrast,
    }


def gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(parameters[name]) if gradient is None else gradient
        for name, gradient in zip(parameters, found, strict=True)
    }


def mgcn_settings(model: Backbone) -> MGCNSettings:
    assert isinstance(model, MGCN)
    return model.settings


CASES = [
    (ODD_NAMES[0], {}),
    (ODD_NAMES[1], {"trainable_features": True}),
    (ODD_NAMES[1], {"user_item_layers": 3, "item_item_layers": 2, "regulariser_weight": 0.5}),
    (ODD_NAMES[1], {"user_item_layers": 0, "item_item_layers": 0, "contrastive_temperature": 0.7}),
    (ODD_NAMES[2], {"trainable_features": True, "contrastive_weight": 0.3}),
]


@pytest.mark.parametrize(("modalities", "changes"), CASES)
def test_vectors_losses_and_gradients_equal_the_dense_version(modalities: tuple[str, ...], changes: dict) -> None:
    world = tiny_world(seed=3, num_users=11, num_items=14, modalities=modalities)
    part = shards_of(world, 1)[0]
    model = build_model(part, seed=4, **changes)
    settings, parameters = mgcn_settings(model), dict(model.named_parameters())
    graph, batch = train_graph(part), batches_of(part, batch_size=20)[0]
    slow = slow_mgcn(parameters, world, settings)

    users, items = model.embeddings(graph)
    torch.testing.assert_close(users, slow.users, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(items, slow.items, rtol=1e-10, atol=1e-12)

    terms, expected = model.loss(graph, batch), slow_loss(slow, batch, settings)
    for name, value in expected.items():
        found = getattr(terms, name)
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)
        theirs = gradients(value, parameters)
        for parameter, gradient in gradients(found, parameters).items():
            torch.testing.assert_close(
                gradient, theirs[parameter], rtol=1e-8, atol=1e-11, msg=lambda m, p=parameter, n=name: f"{n} {p}: {m}"
            )


def test_a_contrastive_weight_of_zero_drops_only_that_term() -> None:
    part = shards_of(tiny_world(num_users=11, num_items=14), 1)[0]
    graph, batch = train_graph(part), batches_of(part)[0]
    with_it, without = (build_model(part, contrastive_weight=w).loss(graph, batch) for w in (0.01, 0.0))
    assert without.auxiliary.item() == 0.0
    assert with_it.auxiliary.item() > 0.0
    assert with_it.ranking.item() == without.ranking.item()


def test_frozen_features_are_no_parameters_and_do_not_move() -> None:
    part = shards_of(tiny_world(), 1)[0]
    frozen, trainable = build_model(part), build_model(part, trainable_features=True)
    names = {name for name, _ in trainable.named_parameters()} - {name for name, _ in frozen.named_parameters()}
    assert names == {"features.visual", "features.text"}
    graph = train_graph(part)
    for ours, theirs in zip(frozen.embeddings(graph), trainable.embeddings(graph), strict=True):
        assert torch.equal(ours, theirs)
    trainable.loss(graph, batches_of(part)[0]).total().backward()
    assert trainable.get_parameter("features.text").grad is not None


def test_training_feature_tables_leaves_the_caller_s_features_alone() -> None:
    part = shards_of(tiny_world(), 1)[0]
    inputs = backbone_inputs(part)
    kept = inputs.features["text"].values.clone()
    model = MGCN(inputs, MGCNSettings(embedding_size=4, trainable_features=True))
    with torch.no_grad():
        model.get_parameter("features.text").zero_()
    assert torch.equal(inputs.features["text"].values, kept)


@pytest.mark.parametrize("trainable_features", [False, True])
def test_the_order_in_which_a_worker_holds_feature_rows_does_not_matter(trainable_features: bool) -> None:
    part = shards_of(tiny_world(), 1)[0]
    order = np.random.default_rng(0).permutation(30)
    shuffled = {
        name: ItemFeatures(item_rows=f.item_rows[order], values=f.values[torch.from_numpy(order)])
        for name, f in part.features.items()
    }
    graph = train_graph(part)
    first, second = (
        build_model(p, trainable_features=trainable_features).embeddings(graph)
        for p in (part, replace(part, features=shuffled))
    )
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)


def test_anatomy_of_two_modalities() -> None:
    anatomy = build_model(shards_of(tiny_world(), 1)[0], trainable_features=True).anatomy
    assert len(anatomy.modules) == 11  # the named leaf layers of section 2.1 of the method notes
    assert anatomy.tables == {
        "user_table": "user",
        "item_table": "item",
        "features.text": "item_block",
        "features.visual": "item_block",
    }
    assert anatomy.branch["project.text.weight"] == "text"
    assert anatomy.branch["query_score.weight"] == "shared"
    assert set(anatomy.fusion) == {
        *(f"{layer}.{name}.weight" for layer in ("project", "purify", "prefer") for name in ("text", "visual")),
        "query_hidden.weight",
        "query_score.weight",
    }


@pytest.mark.parametrize("name", ["", "id", "shared", "a.b", "items", "type", "keys", "training"])
def test_a_modality_whose_name_is_taken_is_refused(name: str) -> None:
    part = shards_of(tiny_world(modalities=("text", name)), 1)[0]
    with pytest.raises(ConfigError, match="a modality cannot be called"):
        build_model(part)


def test_no_modality_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one modality"):
        check_modalities("mgcn", [])


def test_settings_of_something_else_are_refused() -> None:
    with pytest.raises(ConfigError, match="takes MGCNSettings, found Settings"):
        MGCN(backbone_inputs(shards_of(tiny_world(), 1)[0]), Settings())


def test_a_deleted_item_hears_nothing_of_other_items() -> None:
    part: Part = shards_of(tiny_world(), 1)[0]
    gone = np.array([7])
    train = part.shard.train
    keep = train.items != 7
    retain = replace(train, users=train.users[keep], items=train.items[keep])
    graph = build_graph(
        retain, part.shard, part.item_neighbours, LocalCollective(), deleted_items=gone, dtype=torch.float64
    )
    model = build_model(part)
    items = model.embeddings(graph)[1]
    influence = torch.autograd.grad(items[7].sum(), model.get_parameter("item_table"))[0]
    assert influence[7].any()
    influence[7] = 0
    assert not influence.any()
    heard = torch.autograd.grad(model.embeddings(graph)[1][:7].sum(), model.get_parameter("item_table"))[0]
    assert not heard[7].any()
