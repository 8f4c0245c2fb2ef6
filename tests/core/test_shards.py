"""Sharded methods: what a deletion touches, that nothing deleted is left, and what joins the shards."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.backbones import BACKBONES, Backbone
from tru_core.collective import Collective
from tru_core.errors import DataError
from tru_core.fit import FitSettings
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import Request, make_pairs, make_request, only_users, select
from tru_core.problem import Problem, measure
from tru_core.ranking import rank_metrics
from tru_core.testing.models import ALONE, build_model, builder, fitted, problem_of, train_graph
from tru_core.testing.threads import Differentiable, in_threads
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning.baselines.rec_eraser import RecEraserSettings, learn_attention
from tru_core.unlearning.baselines.shards import (
    Ensemble,
    ShardSettings,
    add_scores,
    guest_vectors,
    touched_shards,
    train_shards,
)
from tru_core.unlearning.baselines.sisa import SISASettings
from tru_core.unlearning.baselines.ultra_re import UltraRESettings, learn_weights
from tru_core.unlearning.method import Candidate, Tools, run_method
from tru_core.unlearning.methods import METHODS

pytestmark = pytest.mark.many_calls
FIT = FitSettings(max_epochs=3, patience=3, batch_size=32, learning_rate=0.02)
THIRDS = np.arange(24) % 3
SETTINGS = {
    "sisa": SISASettings(num_shards=3),
    "rec_eraser": RecEraserSettings(num_shards=3, attention_share=0.8),
    "ultra_re": UltraRESettings(num_shards=3),
}
every_method = pytest.mark.parametrize("name", list(SETTINGS))
every_backbone = pytest.mark.parametrize("backbone", list(BACKBONES))


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(), 1)[0]


def tools_of(part: Part, backbone: str = "mgcn", **changes: Any) -> Tools:
    return Tools(new_model=builder(part, backbone), fit=FIT.model_copy(update={"seed": 3, **changes}))


def forgotten(name: str, part: Part, request: Request, backbone: str = "mgcn") -> Candidate:
    """Run a method from an Original whose rows follow from the user alone."""
    original = build_model(part, backbone)
    return run_method(METHODS[name], original, problem_of(part, request), SETTINGS[name], tools_of(part, backbone))


def with_other_pairs(part: Part, user: int) -> Part:
    """The same world, but for the training pairs of one user: other items, and another number of them."""
    train = part.shard.train
    kept = select(train, train.users != user)
    others = np.setdiff1d(np.arange(train.num_items), train.items[train.users == user])[:9]
    users = np.concatenate([kept.users, np.full(len(others), user)])
    pairs = make_pairs(users, np.concatenate([kept.items, others]), num_items=train.num_items)
    return replace(part, shard=replace(part.shard, train=pairs))


def lost_pair(part: Part, user: int) -> Request:
    items = part.shard.train.items[part.shard.train.users == user]
    return make_request(pair_users=np.array([user]), pair_items=items[:1])


# ---- What a deletion touches


def test_a_request_touches_the_shards_of_its_pairs(part: Part) -> None:
    for request, touched in [
        (make_request(users=np.array([4])), [False, True, False]),
        (make_request(users=np.array([4, 9])), [True, True, False]),
        (lost_pair(part, 5), [False, False, True]),
        (make_request(), [False] * 3),
        (make_request(items=part.shard.train.items[:1]), [True] * 3),
    ]:
        assert touched_shards(problem_of(part, request), THIRDS, 3).tolist() == touched


def test_a_deleted_item_touches_only_its_buyers_shards_where_no_content_joins_items(part: Part) -> None:
    """Its buyers in training, and whose held-out purchase of it early stopping looked at."""
    without_content = replace(part, item_neighbours={})
    item = part.shard.train.items[part.shard.train.users == 0][0]
    own = (part.shard.train.items == item) & (THIRDS[part.shard.train.users] > 0)
    nowhere = select(part.shard.valid, part.shard.valid.items != item)
    holdout = make_pairs(np.append(nowhere.users, 2), np.append(nowhere.items, item), num_items=nowhere.num_items)
    for valid, touched in ((nowhere, [True, False, False]), (holdout, [True, False, True])):
        shard = replace(part.shard, train=select(part.shard.train, ~own), valid=valid)
        problem = problem_of(replace(without_content, shard=shard), make_request(items=np.array([item])))
        assert problem.num_forget
        assert touched_shards(problem, THIRDS, 3).tolist() == touched


@every_backbone
@pytest.mark.parametrize("whole", [True, False])
def test_an_untouched_shard_is_the_same_to_the_bit_with_and_without_the_request(
    part: Part, backbone: str, whole: bool
) -> None:
    request = make_request(users=np.array([4])) if whole else lost_pair(part, 4)
    found = [
        train_shards(problem_of(part, asked), tools_of(part, backbone), THIRDS, 3, settings=FIT)
        for asked in (make_request(), request)
    ]
    for shard in range(3):
        same_items = torch.equal(found[0].items[shard], found[1].items[shard])
        own = torch.from_numpy(shard == THIRDS)
        same_users = torch.equal(found[0].users[shard, own], found[1].users[shard, own])
        assert same_items == same_users == (shard != 1)
    assert [ensemble.row["num_touched_shards"] for ensemble in found] == [0, 1]


# ---- Exactness


@every_backbone
@pytest.mark.parametrize("user", [3, pytest.param(16, marks=pytest.mark.long)])
def test_sisa_gives_one_candidate_whatever_the_deleted_user_had(part: Part, backbone: str, user: int) -> None:
    request = make_request(users=np.array([user]))
    one, other = (forgotten("sisa", world, request, backbone) for world in (part, with_other_pairs(part, user)))
    assert torch.equal(one.users, other.users)
    assert torch.equal(one.items, other.items)
    kept = forgotten("sisa", part, make_request(), backbone)
    assert not torch.equal(kept.users, one.users)


def test_sisa_gives_one_candidate_whatever_the_deleted_pairs_were(part: Part) -> None:
    """A user who loses some pairs, in one world these and in the other those."""
    user, train = 7, part.shard.train
    unknown = np.setdiff1d(np.arange(30), train.items[train.users == user])
    candidates = []
    for lost in (unknown[:2], unknown[-3:]):
        users, items = np.concatenate([train.users, np.full(len(lost), user)]), np.concatenate([train.items, lost])
        world = replace(part, shard=replace(part.shard, train=make_pairs(users, items, num_items=30)))
        candidates.append(forgotten("sisa", world, make_request(pair_users=np.full(len(lost), user), pair_items=lost)))
    assert torch.equal(candidates[0].users, candidates[1].users)
    assert torch.equal(candidates[0].items, candidates[1].items)


def test_content_of_a_deleted_item_makes_no_vector_in_any_shard(part: Part) -> None:
    """Where an item's vector is made of its content alone (MIG-GT), it would be recommended still."""
    item = int(np.bincount(part.shard.train.items).argmax())
    place = np.flatnonzero(part.features["visual"].item_rows == item)
    values = part.features["visual"].values.clone()
    values[torch.from_numpy(place)] += 1.0
    other = replace(part, features={**part.features, "visual": replace(part.features["visual"], values=values)})
    request = make_request(items=np.array([item]))
    found = [forgotten("sisa", world, request, "mig_gt") for world in (part, other)]
    assert torch.equal(found[0].users, found[1].users)
    assert torch.equal(found[0].items, found[1].items)


@pytest.mark.parametrize("name", ["rec_eraser", "ultra_re"])
def test_with_the_partition_fixed_a_learned_ensemble_is_one_whatever_the_deleted_user_had(
    part: Part, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"tru_core.unlearning.baselines.{name}"
    cluster = "balanced_kmeans" if name == "rec_eraser" else "transport_clusters"
    monkeypatch.setattr(f"{module}.{cluster}", lambda *_, **__: THIRDS)
    request = make_request(users=np.array([3]))
    one, other = (forgotten(name, world, request) for world in (part, with_other_pairs(part, 3)))
    assert torch.equal(one.users, other.users)
    assert torch.equal(one.items, other.items)


@every_method
def test_deleted_users_have_no_vector_but_their_shards_untrained_row(part: Part, name: str) -> None:
    """Without a layer a user's vector is its row: deleted, it is fresh in its own shard and zero in the others."""
    candidate = forgotten(name, part, make_request(users=np.array([3, 16])), "lightgcn")
    by_shard = candidate.users.view(24, 3, -1)
    assert ((by_shard[[3, 16]] != 0).any(dim=2).sum(dim=1) == 1).all()
    assert (by_shard[[4, 17]] != 0).any(dim=2).all()


def test_clusters_are_those_of_before_the_deletion(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request(users=np.array([3, 16]))
    model = build_model(part)
    expected, _ = model.embeddings(problem_of(part, request).graph_with)
    for name, cluster in (("rec_eraser", "balanced_kmeans"), ("ultra_re", "transport_clusters")):
        seen: list[Tensor] = []
        monkeypatch.setattr(
            f"tru_core.unlearning.baselines.{name}.{cluster}",
            lambda vectors, *_, seen=seen, **__: seen.append(vectors) or THIRDS,
        )
        forgotten(name, part, request)
        torch.testing.assert_close(seen, [expected.detach()])


# ---- What joins the shards


@pytest.mark.parametrize("layers", [0, 1])
def test_a_guest_is_propagated_from_its_items_that_the_shard_knows(part: Part, layers: int) -> None:
    items, pairs = torch.eye(30, dtype=torch.float64), part.shard.train
    degrees = np.bincount(pairs.items[THIRDS[pairs.users] == layers], minlength=30)
    found = guest_vectors(items, pairs, np.not_equal(THIRDS, layers), degrees)
    for user in range(24):
        own = pairs.items[pairs.users == user]
        own = own[degrees[own] > 0] if THIRDS[user] != layers else own[:0]
        expected = torch.zeros(30, dtype=torch.float64)
        expected[own] = torch.from_numpy(1 / np.sqrt(len(own) * degrees[own]))
        torch.testing.assert_close(found[user], expected)
    assert (degrees == 0).any()


def test_scores_of_shards_add_up_by_weight() -> None:
    generator = torch.Generator().manual_seed(1)
    users, items = torch.randn(3, 5, 2, generator=generator), torch.randn(3, 7, 2, generator=generator)
    weights = torch.tensor([0.5, -2.0, 3.0])
    wide = add_scores(Ensemble(users=users, items=items, row={}), weights)
    expected = sum(weights[k] * (users[k] @ items[k].T) for k in range(3))
    torch.testing.assert_close(wide[0] @ wide[1].T, expected)


def rated(part: Part, problem: Problem, good: int) -> Ensemble:
    """Three shards: one scores retained and validation pairs 1 and all else 0, one the other way, one nothing."""
    table = torch.zeros((24, 30), dtype=torch.float64)
    for pairs in (problem.retain, problem.valid):
        table[torch.from_numpy(pairs.users), torch.from_numpy(pairs.items)] = 1.0
    nothing, items = torch.zeros_like(table), torch.eye(30, dtype=torch.float64)
    order = [table, -table, nothing]
    return Ensemble(users=torch.stack(order[-good:] + order[:-good]), items=torch.stack([items] * 3), row={})


@pytest.mark.parametrize("good", [0, 1, 2])
def test_the_learned_weights_prefer_the_better_shard(part: Part, good: int) -> None:
    problem = problem_of(part, make_request())
    weights = learn_weights(rated(part, problem, good), problem, UltraRESettings(), seed=0)
    best, worst, idle = weights.roll(-good).tolist()
    assert best > 1.0
    assert worst < -0.3
    assert idle == pytest.approx(1 / 3)


@pytest.mark.parametrize("good", [0, 1, 2])
def test_the_learned_attention_prefers_the_better_shard(part: Part, good: int) -> None:
    """The worse shard scores three times as loud: held-out pairs come out on top only at a third of its share."""
    problem, settings = problem_of(part, make_request()), SETTINGS["rec_eraser"]
    given, worse = rated(part, problem, good), (good + 1) % 3
    right = torch.where(given.users[good] > 0)
    given.users[worse] *= 3.0
    joined, rows = learn_attention(given, problem, settings, batch_size=32, seed=0)
    heard = [(joined.users[k] @ joined.items[k].T)[right].abs().mean() for k in (good, worse)]
    assert heard[0] > 3 * heard[1]
    assert rows[0]["valid_recall20"] < 0.2 < 1.0 == rows[-1]["valid_recall20"]
    assert rows[-1]["attention_loss"] < 0.9 * rows[1]["attention_loss"]


def test_the_attention_kept_is_the_one_that_validates_best(part: Part) -> None:
    """The shard that is best for retained pairs is the worst for held-out ones: learning from the first harms."""
    problem = problem_of(part, make_request())
    tables = [torch.full((24, 30), 0.01, dtype=torch.float64) for _ in range(2)]
    for table, sign in zip(tables, (1.0, -0.5), strict=True):
        table[torch.from_numpy(problem.retain.users), torch.from_numpy(problem.retain.items)] = 4 * sign
        table[torch.from_numpy(problem.valid.users), torch.from_numpy(problem.valid.items)] = -sign
    items = torch.eye(30, dtype=torch.float64).expand(2, -1, -1)
    tables[1] *= 2.0
    given = Ensemble(users=torch.stack(tables), items=items, row={})
    settings = RecEraserSettings(attention_epochs=20, attention_learning_rate=0.05)
    joined, rows = learn_attention(given, problem, settings, batch_size=32, seed=0)
    recalls = [row["valid_recall20"] for row in rows]
    assert recalls[-1] < max(recalls)
    found = rank_metrics(*add_scores(joined), problem.valid, problem.retain, ALONE).recall
    assert found == max(recalls)


def test_an_untrained_attention_is_the_mean_of_the_shards(part: Part) -> None:
    problem = problem_of(part, make_request())
    given = rated(part, problem, 0)
    joined, _ = learn_attention(given, problem, RecEraserSettings(attention_epochs=0), batch_size=32, seed=0)
    users, items = add_scores(joined)
    torch.testing.assert_close(users @ items.T, (given.users @ given.items.transpose(1, 2)).mean(dim=0))


# ---- Cost, schedule and small shards


@every_method
def test_a_deletion_pays_for_the_touched_shards_alone(part: Part, name: str) -> None:
    costs = {}
    for asked, request in (("one", make_request(users=np.array([3]))), ("all", make_request(items=np.array([4])))):
        candidate = forgotten(name, part, request)
        row = candidate.history[0]
        costs[asked] = row
        assert candidate.model is None
        assert row["num_shards"] == 3
        before = row["seconds_untouched"] + row.get("seconds_clustering", 0.0)
        assert candidate.seconds_before == pytest.approx(before)
        assert candidate.seconds >= row["seconds_touched"] > 0
    assert (costs["one"]["num_touched_shards"], costs["all"]["num_touched_shards"]) == (1, 3)
    assert costs["one"]["seconds_untouched"] > 0 == costs["all"]["seconds_untouched"]


def test_a_shards_schedule_is_the_originals_in_batches_of_its_share() -> None:
    assert ShardSettings(num_shards=3).schedule(FIT, patience=None) == FIT.model_copy(update={"batch_size": 11})
    asked = ShardSettings(num_shards=3, epochs=7, batch_size=32).schedule(FIT, patience=2)
    assert asked == FIT.model_copy(update={"max_epochs": 7, "patience": 2})


@every_backbone
def test_a_shards_model_is_what_its_users_alone_would_train(part: Part, backbone: str) -> None:
    """Nobody of another shard has a row in it, a pull on its items, or a place in its loss."""
    ensemble = train_shards(problem_of(part, make_request()), tools_of(part, backbone), THIRDS, 3, settings=FIT)
    for shard, members in ((k, k == THIRDS) for k in range(3)):
        alone = replace(part, shard=only_users(part.shard, members))
        seed = int(hash_below(2**31, FIT.seed, text_key(f"shard-{shard}")))
        model = build_model(alone, backbone, seed=seed)
        fitted(alone, model=model, settings=FIT)
        users, items = model.embeddings(train_graph(alone))
        torch.testing.assert_close(ensemble.users[shard, torch.from_numpy(members)], users.detach())
        torch.testing.assert_close(ensemble.items[shard], items.detach())


def test_a_shard_that_keeps_nobody_has_no_model(part: Part) -> None:
    gone = np.flatnonzero(THIRDS == 2)
    problem = problem_of(part, make_request(users=gone))
    ensemble = train_shards(problem, tools_of(part), THIRDS, 3, settings=FIT)
    assert len(ensemble.users) == len(ensemble.items) == 2
    assert ensemble.row["smallest_shard"] == 0
    assert not ensemble.users[:, gone].any()


def test_a_shard_too_small_for_negatives_is_refused_by_name(part: Part) -> None:
    with pytest.raises(DataError, match="lower num_shards"):
        train_shards(problem_of(part, make_request()), tools_of(part), np.arange(24), 24, settings=FIT)


# ---- Learning and workers


@every_method
def test_an_ensemble_ranks_held_out_items_above_chance(name: str) -> None:
    part = shards_of(tiny_world(num_users=90, num_items=40), 1)[0]
    problem, model = problem_of(part, make_request(users=np.array([3, 16]))), build_model(part)
    tools = tools_of(part, max_epochs=10, patience=10)
    settings = SETTINGS[name].model_copy(update={"batch_size": 32})
    candidate = run_method(METHODS[name], model, problem, settings, tools)
    untrained = [vectors.detach() for vectors in build_model(part, seed=8).embeddings(problem.graph_without)]
    outcome = measure(candidate.users, candidate.items, problem, ALONE)
    chance = measure(untrained[0], untrained[1], problem, ALONE)
    assert outcome.test.ndcg > 1.3 * chance.test.ndcg


@every_method
@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.long)])
def test_workers_give_the_candidate_of_one(part: Part, name: str, world_size: int) -> None:
    request, parts = make_request(users=np.array([3, 16])), shards_of(tiny_world(), world_size)
    expected = forgotten(name, part, request)

    def body(inner: Collective) -> Candidate:
        own, collective = parts[inner.rank], Differentiable(inner)
        model: Backbone = build_model(own)
        return run_method(METHODS[name], model, problem_of(own, request, collective), SETTINGS[name], tools_of(own))

    for own, found in zip(parts, in_threads(world_size, body), strict=True):
        rows = torch.from_numpy(own.shard.user_rows)
        torch.testing.assert_close(found.users, expected.users[rows], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(found.items, expected.items, rtol=1e-7, atol=1e-9)
        for row, wanted in zip(found.history, expected.history, strict=True):
            for key in set(row) | set(wanted):
                assert key.startswith("seconds") or row[key] == pytest.approx(wanted[key], rel=1e-7), key
