"""FREEDOM against a slow, dense version written from the formulas alone, and the edges it prunes."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.backbones import FREEDOM, MGCN, Backbone, ItemFeatures
from tru_core.backbones.freedom import FREEDOMSettings, normalise_weights, prune_edges
from tru_core.collective import Collective
from tru_core.errors import ConfigError
from tru_core.graph import Graph, build_graph
from tru_core.hashing import hash_uniform, text_key
from tru_core.interactions import Shard, make_pairs, select
from tru_core.sampling import Batch
from tru_core.testing.models import ALONE, batches_of, build_model, train_graph
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import Part, World, backbone_inputs, shards_of, tiny_world

Edges = set[tuple[int, int]]
ODD_NAMES = [("visual",), ("visual", "text"), ("Zebra-9", "0", "schön")]


def edges_of(graph: Graph) -> Edges:
    """The edges of a worker's block by (user row, item row)."""
    users, items = graph.user_item.forward.to_dense().nonzero(as_tuple=True)
    return set(zip(graph.user_rows[users.numpy()].tolist(), items.tolist(), strict=True))


def all_edges(world: World) -> Edges:
    return {(user, item) for user, item in world.train.tolist()}


# ---- The slow version


def slow_kept_edges(world: World, *, pruned_share: float, seed: int, epoch: int) -> Edges:
    """The first edges to arrive when each arrives after an exponential time, at the rate of its weight."""
    edges = all_edges(world)
    of_user, of_item = (Counter(edge[side] for edge in edges) for side in (0, 1))
    arrivals = []
    for user, item in edges:
        rate = (of_user[user] * of_item[item]) ** -0.5
        uniform = float(hash_uniform(seed, text_key("pruned edge"), epoch, user, item))
        arrivals.append((-math.log(1 - uniform) / rate, (user, item)))
    return {edge for _, edge in sorted(arrivals)[: round((1 - pruned_share) * len(edges))]}


def dense_adjacency(world: World, edges: Edges) -> Tensor:
    size = world.num_users + world.num_items
    adjacency = torch.zeros(size, size, dtype=torch.float64)
    for user, item in edges:
        adjacency[user, world.num_users + item] = adjacency[world.num_users + item, user] = 1.0
    roots = adjacency.sum(dim=1).clamp(min=1).sqrt()
    return adjacency / roots[:, None] / roots[None, :]


def dense_item_graph(world: World, modality: str) -> Tensor:
    entries = world.item_neighbours[modality]
    weights = torch.zeros(world.num_items, world.num_items, dtype=torch.float64)
    for item, other, cosine in zip(entries.items, entries.neighbours, entries.similarity, strict=True):
        weights[item, other] = max(float(cosine), 0.0)
    roots = weights.sum(dim=1).sqrt()
    return weights / roots[:, None] / roots[None, :]


def slow_view(weights: Mapping[str, Tensor], world: World, edges: Edges, layers: int) -> tuple[Tensor, Tensor]:
    table = torch.cat([weights["user_table"], weights["item_table"]])
    adjacency, total = dense_adjacency(world, edges), table
    for layer in range(1, layers + 1):
        total = total + torch.linalg.matrix_power(adjacency, layer) @ table
    mean = total / (layers + 1)
    return mean[: world.num_users], mean[world.num_users :]


def slow_vectors(
    weights: Mapping[str, Tensor], world: World, edges: Edges, settings: FREEDOMSettings
) -> tuple[Tensor, Tensor]:
    users, items = slow_view(weights, world, edges, settings.user_item_layers)
    named = {modality: settings.modality_weights.get(modality, 1.0) for modality in world.features}
    frozen = torch.zeros(world.num_items, world.num_items, dtype=torch.float64)
    for modality, weight in named.items():
        frozen += weight / sum(named.values()) * dense_item_graph(world, modality)
    return users, items + torch.linalg.matrix_power(frozen, settings.item_item_layers) @ weights["item_table"]


def slow_bpr(users: Tensor, items: Tensor, batch: Batch) -> Tensor:
    losses = []
    for user, positive, negative in zip(batch.users, batch.positives, batch.negatives, strict=True):
        margin = users[user] @ items[positive] - users[user] @ items[negative]
        losses.append((1 + (-margin).exp()).log())
    return torch.stack(losses).mean()


def slow_loss(
    weights: Mapping[str, Tensor], world: World, batch: Batch, settings: FREEDOMSettings
) -> dict[str, Tensor]:
    seed, epoch, _ = batch.key
    edges = slow_kept_edges(world, pruned_share=settings.pruned_share, seed=seed, epoch=epoch)
    users, items = slow_vectors(weights, world, edges, settings)
    content = torch.zeros((), dtype=torch.float64)
    for modality, values in world.features.items():
        raw = weights.get(f"features.{modality}", torch.from_numpy(values))
        projected = raw @ weights[f"project.{modality}.weight"].T + weights[f"project.{modality}.bias"]
        content = content + slow_bpr(users, projected, batch)
    return {
        "ranking": slow_bpr(users, items, batch),
        "regulariser": torch.zeros((), dtype=torch.float64),
        "auxiliary": settings.feature_weight * content,
    }


def gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not loss.requires_grad:
        return {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(parameters[name]) if gradient is None else gradient
        for name, gradient in zip(parameters, found, strict=True)
    }


def freedom_settings(model: Backbone) -> FREEDOMSettings:
    assert isinstance(model, FREEDOM)
    return model.settings


CASES = [
    (ODD_NAMES[0], {}),
    (ODD_NAMES[0], {"pruned_share": 0.0, "feature_weight": 0.5}),
    (
        ODD_NAMES[1],
        {"trainable_features": True, "feature_weight": 2.0, "modality_weights": {"visual": 0.1, "text": 0.9}},
    ),
    (ODD_NAMES[1], {"user_item_layers": 3, "item_item_layers": 2, "modality_weights": {"text": 4.0}}),
    (ODD_NAMES[1], {"user_item_layers": 0, "item_item_layers": 0, "feature_weight": 0.0}),
    (ODD_NAMES[2], {"trainable_features": True, "pruned_share": 0.3, "modality_weights": {"0": 0.0}}),
]


@pytest.mark.parametrize(("modalities", "changes"), CASES)
def test_vectors_losses_and_gradients_equal_the_dense_version(modalities: tuple[str, ...], changes: dict) -> None:
    world = tiny_world(seed=3, num_users=11, num_items=14, modalities=modalities)
    part = shards_of(world, 1)[0]
    model = build_model(part, "freedom", seed=4, **changes)
    settings, parameters = freedom_settings(model), dict(model.named_parameters())
    graph, batch = train_graph(part), batches_of(part, batch_size=20, seed=6, epoch=2)[1]

    terms, expected = model.loss(graph, batch), slow_loss(parameters, world, batch, settings)
    for name, value in expected.items():
        found = getattr(terms, name)
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)
        theirs = gradients(value, parameters)
        for parameter, gradient in gradients(found, parameters).items():
            torch.testing.assert_close(
                gradient, theirs[parameter], rtol=1e-8, atol=1e-11, msg=lambda m, p=parameter, n=name: f"{n} {p}: {m}"
            )

    # after a training loss as before: what is evaluated is the whole graph
    slow = slow_vectors(parameters, world, all_edges(world), settings)
    for ours, theirs in zip(model.embeddings(graph), slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_branches_are_the_user_item_view_and_each_modality_s_own_graph() -> None:
    world = tiny_world(num_users=11, num_items=14)
    part = shards_of(world, 1)[0]
    model = build_model(part, "freedom", item_item_layers=2)
    weights, found = dict(model.named_parameters()), model.branch_embeddings(train_graph(part))
    expected = {"id": slow_view(weights, world, all_edges(world), 2)}
    for modality in ("visual", "text"):
        items = torch.linalg.matrix_power(dense_item_graph(world, modality), 2) @ weights["item_table"]
        expected[modality] = (dense_adjacency(world, all_edges(world))[:11, 11:] @ items, items)
    assert set(found) == set(expected)
    for branch, vectors in expected.items():
        for ours, theirs in zip(found[branch], vectors, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


# ---- Pruning


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(), 1)[0]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8, 0.999])
def test_as_many_edges_as_asked_are_kept_and_normalised_anew(part: Part, share: float) -> None:
    world, graph = tiny_world(), train_graph(part)
    pruned = prune_edges(graph, pruned_share=share, seed=1, epoch=3)
    kept = edges_of(pruned)
    assert len(kept) == max(1, round((1 - share) * len(world.train)))
    assert kept < all_edges(world)
    block = dense_adjacency(world, kept)[:24, 24:]
    torch.testing.assert_close(pruned.user_item.forward.to_dense(), block, rtol=1e-12, atol=0)
    torch.testing.assert_close(pruned.user_item.transposed.to_dense(), block.T, rtol=1e-12, atol=0)
    assert pruned.user_degrees.tolist() == [sum(user == row for user, _ in kept) for row in range(24)]
    assert pruned.item_degrees.tolist() == [sum(item == row for _, item in kept) for row in range(30)]
    assert pruned.item_item is graph.item_item
    assert edges_of(graph) == all_edges(world)


def test_which_edges_are_kept_follows_from_seed_and_epoch(part: Part) -> None:
    def kept(seed: int, epoch: int) -> frozenset[tuple[int, int]]:
        return frozenset(edges_of(prune_edges(train_graph(part), pruned_share=0.5, seed=seed, epoch=epoch)))

    keys = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert len({kept(*key) for key in keys}) == len(keys)
    assert [kept(*key) for key in keys] == [kept(*key) for key in keys]


@pytest.fixture(scope="module")
def uneven() -> Part:
    """Users and items of degrees 1 to 4, few enough edges to go through every order of drawing them."""
    users, items = np.array([0, 0, 0, 0, 1, 2, 3]), np.array([0, 1, 2, 3, 0, 0, 4])
    pairs = make_pairs(users, items, num_items=5)
    shard = Shard(user_rows=np.arange(4), num_users=4, num_items=5, train=pairs, valid=pairs, test=pairs)
    return Part(shard=shard, features={}, item_neighbours={})


@pytest.mark.many_calls
def test_edges_are_drawn_without_putting_back_in_proportion_to_their_weight(uneven: Part) -> None:
    graph, num_draws = train_graph(uneven), 1000
    rates = {edge: graph.user_item.forward.to_dense()[edge].item() for edge in sorted(edges_of(graph))}
    chances = dict.fromkeys(rates, 0.0)
    for drawn in itertools.permutations(rates, 3):
        chance, left = 1.0, sum(rates.values())
        for edge in drawn:
            chance, left = chance * rates[edge] / left, left - rates[edge]
        for edge in drawn:
            chances[edge] += chance
    counts: Counter[tuple[int, int]] = Counter()
    for epoch in range(num_draws):
        counts.update(edges_of(prune_edges(graph, pruned_share=4 / 7, seed=0, epoch=epoch)))
    assert chances[3, 4] > 0.6 > 0.3 > chances[0, 0]  # popular users and items lose most
    for edge, chance in chances.items():
        deviation = math.sqrt(chance * (1 - chance) / num_draws)
        assert counts[edge] / num_draws == pytest.approx(chance, abs=4.5 * deviation), edge


def test_the_batches_of_an_epoch_share_a_graph_and_the_next_epoch_has_another(part: Part) -> None:
    model, graph = build_model(part, "freedom"), train_graph(part)
    batch = batches_of(part)[0]

    def ranking(seed: int, epoch: int, number: int) -> float:
        return model.loss(graph, replace(batch, key=(seed, epoch, number))).ranking.item()

    assert ranking(0, 0, 0) == ranking(0, 0, 1)
    assert len({ranking(0, 0, 0), ranking(0, 1, 0), ranking(1, 0, 0)}) == 3
    assert ranking(0, 0, 0) == build_model(part, "freedom").loss(graph, batch).ranking.item()


def test_graphs_that_take_turns_are_not_mistaken_for_each_other(part: Part) -> None:
    model, batch = build_model(part, "freedom"), batches_of(part)[0]
    fewer = select(part.shard.train, part.shard.train.users != 2)
    graphs = [train_graph(part), build_graph(fewer, part.shard, part.item_neighbours, ALONE, dtype=torch.float64)]
    turns = [model.loss(graphs[turn % 2], batch).ranking.item() for turn in range(4)]
    alone = [build_model(part, "freedom").loss(graph, batch).ranking.item() for graph in graphs]
    assert turns == alone * 2
    assert alone[0] != alone[1]


def graph_and_loss(part: Part, collective: Collective, changes: dict) -> tuple[Edges, list[float], Tensor]:
    model, graph = build_model(part, "freedom", **changes), train_graph(part, collective)
    terms = model.loss(graph, batches_of(part, collective, epoch=1)[0])
    kept = edges_of(prune_edges(graph, pruned_share=0.8, seed=0, epoch=1))
    return kept, [terms.ranking.item(), terms.auxiliary.item()], model.embeddings(graph)[1].detach()


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_keep_the_edges_that_one_worker_keeps_and_have_its_loss(part: Part, world_size: int) -> None:
    changes = {"feature_weight": 0.5, "modality_weights": {"text": 3.0}}
    parts = shards_of(tiny_world(), world_size)

    found = in_threads(world_size, lambda collective: graph_and_loss(parts[collective.rank], collective, changes))
    alone = graph_and_loss(part, ALONE, changes)
    assert set.union(*(kept for kept, _, _ in found)) == alone[0]
    assert sum(len(kept) for kept, _, _ in found) == len(alone[0])
    assert np.sum([terms for _, terms, _ in found], axis=0) == pytest.approx(alone[1], rel=1e-12)
    for _, _, items in found:
        torch.testing.assert_close(items, alone[2], rtol=1e-12, atol=1e-14)


# ---- Modalities


def test_weights_of_modalities_are_relative_and_add_up_to_one() -> None:
    assert normalise_weights({}, ("a", "b")) == {"a": 0.5, "b": 0.5}
    assert normalise_weights({"a": 0.1, "b": 0.9}, ("a", "b")) == {"a": 0.1, "b": 0.9}
    assert normalise_weights({"b": 2.0}, ("a", "b", "c")) == {"a": 0.25, "b": 0.5, "c": 0.25}
    assert normalise_weights({"a": 0.0}, ("a", "b")) == {"a": 0.0, "b": 1.0}


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"sound": 1.0}, "names 'sound'; this data set has text, visual"), ({"text": 0.0, "visual": 0.0}, "are 0")],
)
def test_weights_that_name_no_graph_are_refused(part: Part, weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(part, "freedom", modality_weights=weights)


def test_a_feature_weight_of_zero_drops_only_that_term(part: Part) -> None:
    graph, batch = train_graph(part), batches_of(part)[0]
    with_it, without = (build_model(part, "freedom", feature_weight=w).loss(graph, batch) for w in (1e-3, 0.0))
    assert without.auxiliary.item() == 0.0
    assert with_it.auxiliary.item() > 0.0
    assert with_it.ranking.item() == without.ranking.item()


@pytest.mark.parametrize("trainable_features", [False, True])
def test_the_order_in_which_a_worker_holds_feature_rows_does_not_matter(part: Part, trainable_features: bool) -> None:
    order = np.random.default_rng(0).permutation(30)
    shuffled = {
        name: ItemFeatures(item_rows=f.item_rows[order], values=f.values[torch.from_numpy(order)])
        for name, f in part.features.items()
    }
    graph, batch = train_graph(part), batches_of(part)[0]
    first, second = (
        build_model(p, "freedom", trainable_features=trainable_features).loss(graph, batch).auxiliary.item()
        for p in (part, replace(part, features=shuffled))
    )
    assert first == pytest.approx(second, rel=1e-13)


def test_anatomy_of_two_modalities(part: Part) -> None:
    anatomy = build_model(part, "freedom", trainable_features=True).anatomy
    assert set(anatomy.modules) == {
        "user_table",
        "item_table",
        *(f"{kind}.{name}" for kind in ("project", "features") for name in ("text", "visual")),
    }
    assert anatomy.branch["project.text.bias"] == anatomy.branch["features.text"] == "text"
    assert anatomy.fusion == ("project.text.weight", "project.visual.weight")
    assert anatomy.tables["features.visual"] == "item_block"


def test_settings_of_another_backbone_are_refused(part: Part) -> None:
    with pytest.raises(ConfigError, match="takes FREEDOMSettings"):
        FREEDOM(backbone_inputs(part), MGCN.settings_type())
