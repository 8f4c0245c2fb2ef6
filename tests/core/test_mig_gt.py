"""MIG-GT against a slow, dense version written from the formulas alone. Only the random draws are shared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.backbones import MIGGT, Backbone, ItemFeatures
from tru_core.backbones.diffusion import Key, dropout_factors
from tru_core.backbones.mig_gt import MIGGTSettings, memory_draws
from tru_core.collective import Collective
from tru_core.errors import ConfigError
from tru_core.fit import make_adam, train_step
from tru_core.graph import build_graph
from tru_core.hashing import hash_normal, text_key
from tru_core.interactions import select
from tru_core.sampling import Batch
from tru_core.testing.models import ALONE, batches_of, build_model, train_graph
from tru_core.testing.threads import Differentiable, in_threads
from tru_core.testing.worlds import World, backbone_inputs, shards_of, tiny_world

NO_DROPOUT = dict.fromkeys([f"{part}_dropout" for part in ("input", "feature", "user", "item", "edge", "vector")], 0.0)
SMALL: dict[str, Any] = {"hidden_size": 7, "memory_items": 3, "attention_size": 3}
EVALUATION: Key = (0, text_key("evaluation"), 0)
UNLINKED = 4


def world_with_an_unlinked_item(modalities: tuple[str, ...]) -> World:
    world = tiny_world(seed=3, num_users=11, num_items=14, modalities=modalities)
    return replace(world, train=world.train[world.train[:, 1] != UNLINKED])


@dataclass(frozen=True)
class Slow:
    """Dense results over nodes: users first, then items."""

    branches: dict[str, Tensor]
    outputs: list[list[Tensor]]  # O_n[j] of every node
    memories: list[list[int]]  # item rows that stand in every node's memory


def slow_adjacency(world: World, key: Key | None, settings: MIGGTSettings, *, branch: int, num_branches: int) -> Tensor:
    size, first = world.num_users + world.num_items, world.num_users
    adjacency = torch.eye(size, dtype=torch.float64)
    for user, item in world.train.tolist():
        adjacency[user, first + item] = adjacency[first + item, user] = 1.0
    degrees = adjacency.sum(dim=1)
    adjacency = adjacency / (degrees[:, None] * degrees[None, :]).sqrt()
    if key is None:
        return adjacency
    kept = torch.zeros_like(adjacency)

    def factors(purpose: str, row: int, num_columns: int) -> list[float]:
        rows = np.array([row])
        rate = settings.edge_dropout
        drawn = dropout_factors(key, purpose, rows=rows, num_columns=num_columns, rate=rate, dtype=torch.float64)
        return drawn[0].tolist()

    for user, item in world.train.tolist():
        both = factors("edge", user * world.num_items + item, 2 * num_branches)
        kept[user, first + item], kept[first + item, user] = both[2 * branch], both[2 * branch + 1]
    for user in range(world.num_users):
        kept[user, user] = factors("loop-user", user, num_branches)[branch]
    for item in range(world.num_items):
        kept[first + item, first + item] = factors("loop-item", item, num_branches)[branch]
    return adjacency * kept


def slow_features(world: World, modality: str, settings: MIGGTSettings) -> Tensor:
    raw = torch.from_numpy(world.features[modality])
    columns = settings.projected_columns
    if columns is None or raw.shape[1] <= columns:
        return raw
    matrix = torch.zeros(raw.shape[1], columns, dtype=torch.float64)
    for row in range(raw.shape[1]):
        for column in range(columns):
            matrix[row, column] = float(
                hash_normal(settings.projection_seed, text_key(f"projection-{modality}"), row, column)
            )
    projected = raw @ matrix
    return torch.stack([row / row.square().sum().sqrt() for row in projected])


def slow_mig_gt(weights: Mapping[str, Tensor], world: World, settings: MIGGTSettings, key: Key | None) -> Slow:
    num_users, num_items, modalities = world.num_users, world.num_items, sorted(world.features)
    linked = sorted(set(world.train[:, 1].tolist()))

    def drop(values: Tensor, purpose: str, rate: float) -> Tensor:
        if key is None or rate == 0:
            return values
        rows, columns = np.arange(len(values)), values.shape[1]
        return values * dropout_factors(key, purpose, rows=rows, num_columns=columns, rate=rate, dtype=torch.float64)

    def block(name: str, values: Tensor) -> Tensor:
        raw = values @ weights[f"{name}.linear.weight"].T
        mean = raw[linked].mean(dim=0)
        variance = (raw[linked] - mean).square().mean(dim=0)
        normed = (raw - mean) / (variance + 1e-5).sqrt() * weights[f"{name}.scale"] + weights[f"{name}.shift"]
        return torch.where(normed > 0, normed, weights[f"{name}.slope"] * normed)

    size = settings.embedding_size
    no_users = torch.zeros(num_users, size, dtype=torch.float64)
    no_items = torch.zeros(num_items, size, dtype=torch.float64)
    starts = {"id": torch.cat([drop(weights["user_table"], "user", settings.user_dropout), no_items])}
    depths = {"id": settings.user_layers}
    for name in modalities:
        values = drop(slow_features(world, name, settings), f"input-{name}", settings.input_dropout)
        values = drop(block(f"hidden.{name}", values), f"hidden-{name}", settings.feature_dropout)
        values = drop(block(f"narrow.{name}", values), f"item-{name}", settings.item_dropout)
        starts[name] = torch.cat([no_users, values])
        depths[name] = settings.item_layers.get(name, settings.modality_layers)

    alpha, beta, branches = settings.start_weight, settings.spread_weight, {}
    for number, (name, start) in enumerate(starts.items()):
        adjacency = slow_adjacency(
            world, key if settings.edge_dropout else None, settings, branch=number, num_branches=len(starts)
        )
        h = start
        for _ in range(depths[name]):
            h = beta * adjacency @ h + alpha * start
        branches[name] = h / (beta ** depths[name] + alpha * sum(beta**j for j in range(depths[name])))
    summed = sum(branches.values(), torch.zeros_like(starts["id"]))
    z = torch.cat(
        [
            drop(summed[:num_users], "vector-user", settings.vector_dropout),
            drop(summed[num_users:], "vector-item", settings.vector_dropout),
        ]
    )

    outputs, memories = [], []
    for node in range(num_users + num_items):
        kind, row = ("user", node) if node < num_users else ("item", node - num_users)
        draws = memory_draws(
            key or EVALUATION, kind, rows=np.array([row]), num_items=num_items, size=settings.memory_items
        )
        memories.append([item for item in draws[0].tolist() if item in linked])
        memory = torch.stack([z[node], *(z[num_users + item] for item in memories[-1])])
        queries = [weights["query.weight"] @ token + weights["query.bias"] for token in memory]
        keys = [weights["key.weight"] @ token for token in memory]
        tokens = []
        for place, query in enumerate(queries):
            exponents = [((query * k).sum() / math.sqrt(settings.attention_size)).exp() for k in keys]
            total = sum(exponents, torch.zeros((), dtype=torch.float64))
            attended = sum((e / total * token for e, token in zip(exponents, memory, strict=True)), torch.zeros(size))
            tokens.append((1 - settings.attention_share) * memory[place] + settings.attention_share * attended)
        outputs.append(tokens)
    return Slow(branches, outputs, memories)


def slow_loss(slow: Slow, batch: Batch, settings: MIGGTSettings, num_users: int) -> dict[str, Tensor]:
    ranking = unsmooth = torch.zeros((), dtype=torch.float64)
    triples = zip(batch.users.tolist(), batch.positives.tolist(), batch.negatives.tolist(), strict=True)
    for user, positive, negative in triples:
        vector = slow.outputs[user][0]
        better, worse = (vector @ slow.outputs[num_users + item][0] for item in (positive, negative))
        ranking = ranking - (better.exp() / (better.exp() + worse.exp())).log()
        exponents = [(vector @ token).exp() for token in slow.outputs[num_users + positive]]
        unsmooth = unsmooth - (exponents[0] / torch.stack(exponents).sum()).log()
    squares = torch.stack([tokens[0].square().sum() for tokens in slow.outputs]).sum()
    return {
        "ranking": ranking,
        "regulariser": settings.regulariser_weight * 0.5 * squares,
        "auxiliary": settings.unsmooth_weight * unsmooth,
    }


def mig_gt_settings(model: Backbone) -> MIGGTSettings:
    assert isinstance(model, MIGGT)
    return model.settings


def gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(parameters[name]) if gradient is None else gradient
        for name, gradient in zip(parameters, found, strict=True)
    }


STRONG = {"attention_share": 0.6, "start_weight": 0.3, "spread_weight": 0.6, "regulariser_weight": 0.5}
CASES = [
    (("visual",), {}),
    (("visual", "text"), NO_DROPOUT),
    (("visual", "text"), {**STRONG, "user_layers": 3, "item_layers": {"text": 0, "visual": 3}}),
    (("visual", "text"), {"projected_columns": 4, "memory_items": 0, "user_layers": 0, "edge_dropout": 0.5}),
    (("Zebra-9", "0", "schön"), {**STRONG, "unsmooth_weight": 0.2, "item_layers": {"schön": 1}}),
]


@pytest.mark.parametrize(("modalities", "changes"), CASES)
def test_vectors_losses_and_gradients_equal_the_dense_version(modalities: tuple[str, ...], changes: dict) -> None:
    world = world_with_an_unlinked_item(modalities)
    part = shards_of(world, 1)[0]
    model = build_model(part, "mig_gt", seed=4, **{**SMALL, **changes})
    settings, parameters = mig_gt_settings(model), dict(model.named_parameters())
    with torch.no_grad():  # constants at the start must not hide a mix-up
        for seed, (name, parameter) in enumerate(parameters.items()):
            if name != "user_table":
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.3)
    graph, batch = train_graph(part), batches_of(part, batch_size=20)[0]

    evaluated, num_users = slow_mig_gt(parameters, world, settings, None), world.num_users
    expected = torch.stack([tokens[0] for tokens in evaluated.outputs])
    users, items = model.embeddings(graph)
    torch.testing.assert_close(torch.cat([users, items]), expected, rtol=1e-10, atol=1e-12)
    for name, (users, items) in model.branch_embeddings(graph).items():
        torch.testing.assert_close(torch.cat([users, items]), evaluated.branches[name], rtol=1e-10, atol=1e-12)

    slow = slow_mig_gt(parameters, world, settings, batch.key)
    assert settings.memory_items == 0 or {len(memory) for memory in slow.memories} >= {2, 3}
    terms = model.loss(graph, batch)
    for name, value in slow_loss(slow, batch, settings, num_users).items():
        found = getattr(terms, name)
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)
        if not found.requires_grad:
            assert (name, settings.memory_items) == ("auxiliary", 0), "nothing drawn, nothing to tell apart"
            continue
        theirs = gradients(value, parameters)
        for parameter, gradient in gradients(found, parameters).items():
            torch.testing.assert_close(
                gradient, theirs[parameter], rtol=1e-8, atol=1e-10, msg=lambda m, p=parameter, n=name: f"{n} {p}: {m}"
            )


def test_a_modality_that_does_not_spread_tells_users_nothing() -> None:
    part = shards_of(tiny_world(), 1)[0]
    model = build_model(part, "mig_gt", **SMALL, item_layers={"text": 0})
    branches = model.branch_embeddings(train_graph(part))
    assert not branches["text"][0].any()
    assert branches["text"][1].any()
    assert branches["visual"][0].any()


def test_scores_repeat_and_follow_the_evaluation_seed() -> None:
    part = shards_of(tiny_world(), 1)[0]
    graph = train_graph(part)
    first, again, other = (
        build_model(part, "mig_gt", **SMALL, evaluation_seed=seed).embeddings(graph)[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_batch_s_key_decides_its_dropout() -> None:
    part = shards_of(tiny_world(), 1)[0]
    model, graph, batch = build_model(part, "mig_gt", **SMALL), train_graph(part), batches_of(part)[0]
    losses = {model.loss(graph, replace(batch, key=(0, epoch, n))).total().item() for epoch in (0, 1) for n in (0, 1)}
    assert len(losses) == 4


def test_dropout_keeps_the_mean() -> None:
    factors = dropout_factors((1, 2, 3), "x", rows=np.arange(2000), num_columns=50, rate=0.3, dtype=torch.float64)
    assert set(factors.unique().tolist()) == {0.0, 1.0 / 0.7}
    assert factors.mean().item() == pytest.approx(1.0, abs=6 * math.sqrt(0.3 / 0.7 / 100_000))


def test_a_deleted_item_s_features_touch_no_other_node() -> None:
    part = shards_of(tiny_world(), 1)[0]
    gone, train = 7, part.shard.train
    graph = build_graph(
        select(train, train.items != gone), part.shard, {}, ALONE, deleted_items=np.array([gone]), dtype=torch.float64
    )
    changed = {}
    for name, features in part.features.items():
        values = features.values.clone()
        values[gone] += 100.0
        changed[name] = replace(features, values=values)
    model, other = (build_model(p, "mig_gt", **SMALL) for p in (part, replace(part, features=changed)))
    users, items = model.embeddings(graph)
    other_users, other_items = other.embeddings(graph)
    rest = torch.arange(30) != gone
    assert torch.equal(users, other_users)
    assert torch.equal(items[rest], other_items[rest])
    assert torch.equal(items[gone], other_items[gone])
    assert items[gone].norm() < 0.2 * items[rest].norm(dim=1).median(), "what is left is a tenth of others' vectors"
    assert torch.isfinite(model.loss(graph, batches_of(part, batch_size=1000)[0]).total()), "a pair of that item"


def test_the_order_in_which_a_worker_holds_feature_rows_does_not_matter() -> None:
    part = shards_of(tiny_world(), 1)[0]
    order = np.random.default_rng(0).permutation(30)
    shuffled = {
        name: ItemFeatures(item_rows=f.item_rows[order], values=f.values[torch.from_numpy(order)])
        for name, f in part.features.items()
    }
    graph, batch = train_graph(part), batches_of(part)[0]
    first, second = (
        build_model(p, "mig_gt", **SMALL).loss(graph, batch).total() for p in (part, replace(part, features=shuffled))
    )
    assert first.item() == pytest.approx(second.item(), rel=1e-12)


def train_three_steps(
    world: World, collective: Collective
) -> tuple[list[float], dict[str, Tensor], tuple[Tensor, Tensor]]:
    part = shards_of(world, collective.world_size)[collective.rank]
    model = build_model(part, "mig_gt", **SMALL, regulariser_weight=0.1)
    graph = train_graph(part, collective)
    optimizer = make_adam(model, 0.01)
    losses = [
        train_step(model, graph, batch, optimizer).item() for batch in batches_of(part, collective, batch_size=40)[:3]
    ]
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    users, items = model.embeddings(graph)
    return losses, values, (users.detach(), items.detach())


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_train_the_model_that_one_trains(world_size: int) -> None:
    world = tiny_world()
    losses, values, (users, items) = train_three_steps(world, ALONE)
    found = in_threads(world_size, lambda collective: train_three_steps(world, Differentiable(collective)))
    assert [sum(step) for step in zip(*(f[0] for f in found), strict=True)] == pytest.approx(losses, rel=1e-10)
    for part, (_, theirs, vectors) in zip(shards_of(world, world_size), found, strict=True):
        rows = torch.from_numpy(part.shard.user_rows)
        torch.testing.assert_close(vectors[0], users[rows], rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(vectors[1], items, rtol=1e-8, atol=1e-10)
        for name, value in values.items():
            wanted = value[rows] if name == "user_table" else value
            torch.testing.assert_close(theirs[name], wanted, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_anatomy_of_two_modalities_and_the_published_size() -> None:
    part = shards_of(tiny_world(), 1)[0]
    model = build_model(part, "mig_gt", hidden_size=512, embedding_size=64)
    anatomy = model.anatomy
    assert set(anatomy.modules) == {
        *("user_table", "query", "key"),
        *(f"{layer}.{name}" for layer in ("hidden", "narrow") for name in ("text", "visual")),
    }
    assert anatomy.tables == {"user_table": "user"}
    assert anatomy.branch["hidden.text.scale"] == "text"
    assert anatomy.branch["query.bias"] == "shared"
    assert set(anatomy.fusion) == {
        "query.weight",
        "key.weight",
        "narrow.text.linear.weight",
        "narrow.visual.linear.weight",
    }
    # Published for Baby: 1,707,212 with 19,445 users and 384 columns twice; less biases that do nothing.
    columns = sum(features.values.shape[1] for features in part.features.values())
    published = 1_707_212 - (19_445 - 24) * 64 - (2 * 384 - columns) * 512
    assert sum(p.numel() for p in model.parameters()) == published - 2 * (512 + 64) - 4


def test_an_own_depth_for_a_modality_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="item_layers names 'sound'; the data has text, visual"):
        build_model(shards_of(tiny_world(), 1)[0], "mig_gt", item_layers={"sound": 1})


def test_no_table_is_sharded_by_item() -> None:
    with pytest.raises(ConfigError, match="no table user_table"):
        MIGGT(backbone_inputs(shards_of(tiny_world(), 1)[0]), MIGGTSettings()).held_items("user_table")
