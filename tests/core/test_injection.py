"""What is planted is in nobody's data and goes with the request; what is left is a model that never saw it."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.audits.base import System
from tru_core.audits.binomial import alarm_threshold, chance_of_at_least, chance_of_at_most, rate_interval
from tru_core.audits.injection import (
    LIST_LENGTH,
    NEAR_SHARE,
    Planting,
    PlantingSettings,
    count_hits,
    hit_test,
    injection_measurement,
    plant,
)
from tru_core.backbones import BACKBONES, Backbone
from tru_core.collective import Collective
from tru_core.errors import ConfigError, DataError
from tru_core.fit import FitSettings, fit
from tru_core.interactions import Pairs, make_pairs, make_request
from tru_core.problem import Problem, make_problem
from tru_core.testing.models import ALONE, small_settings
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import Part, World, backbone_inputs, shards_of, tiny_world

USERS = PlantingSettings(regime="user", num_probes=60, users_per_pair=6, pairs_per_user=5)
INTERACTIONS = PlantingSettings(regime="interaction", num_probes=80)
REGIMES = pytest.mark.parametrize("settings", [USERS, INTERACTIONS], ids=["users", "interactions"])


@cache
def world() -> World:
    return tiny_world(num_users=120, num_items=300)


@cache
def whole() -> Part:
    return shards_of(world(), 1)[0]


@cache
def planted(settings: PlantingSettings) -> Planting:
    return plant(whole().shard, settings, ALONE)


def problem_of(planting: Planting) -> Problem:
    return make_problem(planting.shard, planting.request, whole().item_neighbours, ALONE, dtype=torch.float64)


def histories(pairs: list[Pairs]) -> dict[int, set[int]]:
    """The items of each user, by position."""
    found: dict[int, set[int]] = {}
    for part in pairs:
        for user, item in zip(part.users.tolist(), part.items.tolist(), strict=True):
            found.setdefault(user, set()).add(item)
    return found


# --- what is planted ----------------------------------------------------------------------------


def test_nobody_has_a_planted_pair_of_items_but_the_planted_users_and_they_have_it_so_often() -> None:
    shard, planting = whole().shard, planted(USERS)
    real = histories([shard.train, shard.valid, shard.test])
    new = {user: items for user, items in histories([planting.shard.train]).items() if user >= len(shard.user_rows)}
    pairs = list(zip(planting.first.tolist(), planting.second.tolist(), strict=True))
    assert len(set(planting.first) | set(planting.second)) == 2 * USERS.num_probes
    for pair in pairs:
        assert not any(set(pair) <= items for items in real.values())
        assert sum(set(pair) <= items for items in new.values()) == USERS.users_per_pair
    assert all(len(items) == 2 * USERS.pairs_per_user for items in new.values())


def test_nothing_but_a_pair_itself_is_repeated_among_planted_users() -> None:
    new = [items for user, items in histories([planted(USERS).shard.train]).items() if user >= world().num_users]
    together = [frozenset((a, b)) for items in new for a in items for b in items if a < b]
    asked = {frozenset(pair) for pair in zip(planted(USERS).first, planted(USERS).second, strict=True)}
    often = {pair for pair in together if together.count(pair) == USERS.users_per_pair}
    assert often == asked


def test_a_planted_interaction_is_with_an_item_that_the_user_never_had() -> None:
    shard, planting = whole().shard, planted(INTERACTIONS)
    real = histories([shard.train, shard.valid, shard.test])
    assert len(planting.first) == len(set(planting.first)) == INTERACTIONS.num_probes
    assert not any(item in real[user] for user, item in zip(planting.first, planting.second, strict=True))


@REGIMES
def test_the_request_takes_away_what_was_planted_and_nothing_else(settings: PlantingSettings) -> None:
    shard, planting = whole().shard, planted(settings)
    problem = problem_of(planting)
    assert np.array_equal(problem.retain.users, shard.train.users)
    assert np.array_equal(problem.retain.items, shard.train.items)
    assert problem.num_forget == len(planting.shard.train) - len(shard.train)
    assert len(problem.valid) == len(shard.valid)
    assert len(problem.test) == len(shard.test)


def test_planted_users_have_rows_behind_all_others() -> None:
    planting = planted(USERS)
    assert planting.request.users.min() == world().num_users
    assert planting.shard.num_users == world().num_users + len(planting.request.users)
    assert np.array_equal(planting.shard.user_rows[: world().num_users], whole().shard.user_rows)


@REGIMES
def test_two_workers_plant_what_one_plants(settings: PlantingSettings) -> None:
    parts = shards_of(world(), 2)

    def body(collective: Collective) -> set[tuple[int, int]]:
        planting = plant(parts[collective.rank].shard, settings, collective)
        train = planting.shard.train
        rows = planting.shard.user_rows[train.users]
        return set(zip(rows.tolist(), train.items.tolist(), strict=True))

    alone = planted(settings).shard
    expected = set(zip(alone.user_rows[alone.train.users].tolist(), alone.train.items.tolist(), strict=True))
    first, second = in_threads(2, body)
    assert first | second == expected
    assert not first & second


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (USERS.model_copy(update={"num_probes": 151}), "pairs of items that nobody has together"),
        (INTERACTIONS.model_copy(update={"num_probes": 121}), "room for 120"),
    ],
)
def test_more_probes_than_the_data_has_room_for_are_refused(settings: PlantingSettings, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plant(whole().shard, settings, ALONE)


# --- hits ---------------------------------------------------------------------------------------


def with_alike(planting: Planting, num_alike: int) -> Tensor:
    """Item vectors at random angles, but for the first pairs, whose two items point the same way."""
    items = torch.randn(world().num_items, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    items[torch.from_numpy(planting.second[:num_alike])] = 2 * items[torch.from_numpy(planting.first[:num_alike])]
    return items


def test_a_planted_pair_is_a_hit_where_its_vectors_point_the_same_way() -> None:
    planting = planted(USERS)
    hits = count_hits(
        planting, torch.zeros(1, 64, dtype=torch.float64), with_alike(planting, 9), masked=whole().shard.train
    )
    assert hits[:9].all()
    assert hits[9:].mean() < 2 * NEAR_SHARE


def test_a_planted_interaction_is_a_hit_where_it_is_in_the_list() -> None:
    planting = planted(INTERACTIONS)
    users = torch.zeros(world().num_users, world().num_items, dtype=torch.float64)
    listed = slice(0, 7)
    users[torch.from_numpy(planting.first[listed]), torch.from_numpy(planting.second[listed])] = 1.0
    hits = count_hits(
        planting,
        users - 1e-3 * torch.arange(world().num_items),
        torch.eye(world().num_items).double(),
        masked=whole().shard.train,
    )
    expected = np.zeros(INTERACTIONS.num_probes, dtype=bool)
    expected[listed] = True
    early = planting.second < 2 * LIST_LENGTH  # first by the order of rows, whatever was planted
    assert np.array_equal(hits[~early], expected[~early])


def test_hiding_outputs_hides_planted_interactions_and_no_planted_pair() -> None:
    for settings in (USERS, INTERACTIONS):
        planting = planted(settings)
        items = with_alike(planting, len(planting.first))
        users = items[torch.from_numpy(planting.second[np.arange(world().num_users) % len(planting.second)])]
        if settings is INTERACTIONS:
            users[torch.from_numpy(planting.first)] = items[torch.from_numpy(planting.second)]
        hidden = make_pairs(planting.first, planting.second, num_items=world().num_items)
        bare, masked = System("bare", 0, users, items), System("masked", 0, users, items, hidden=hidden)
        found = [
            injection_measurement(
                planting, original=bare, candidate=system, never_seen=[bare], masked=whole().shard.train
            )
            for system in (bare, masked)
        ]
        values = [measurement.value for [measurement] in found]
        assert values[0] >= 0.9
        assert values[1] == (0.0 if settings is INTERACTIONS else values[0])


# --- a model that never saw it ------------------------------------------------------------------


FIT = FitSettings(max_epochs=12, patience=12, batch_size=128, learning_rate=0.05, seed=5)


def model_of(part: Part, *, embedding_size: int, seed: int) -> Backbone:
    """A model whose other initial values do not depend on whether there are planted users."""
    inputs = replace(backbone_inputs(part, seed=seed), num_users=world().num_users)
    return BACKBONES["mgcn"](inputs, small_settings("mgcn", embedding_size=embedding_size))


@REGIMES
def test_retraining_without_what_was_planted_is_the_training_that_never_saw_it(settings: PlantingSettings) -> None:
    planting, part = planted(settings), whole()
    problem = problem_of(planting)
    larger = Part(shard=planting.shard, features=part.features, item_neighbours=part.item_neighbours)
    vectors = []
    for of, graph in ((larger, problem.graph_without), (part, problem_of_nothing().graph_with)):
        model = model_of(of, embedding_size=6, seed=FIT.seed)
        fit(model, graph, of.shard, part.shard.train, FIT.model_copy(update={"max_epochs": 3}), valid=part.shard.valid)
        vectors.append(model.embeddings(graph))
    (users, items), (real_users, real_items) = vectors
    torch.testing.assert_close(items, real_items, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(users[: len(real_users)], real_users, rtol=1e-9, atol=1e-12)


@cache
def problem_of_nothing() -> Problem:
    return make_problem(whole().shard, make_request(), whole().item_neighbours, ALONE, dtype=torch.float64)


@REGIMES
def test_a_model_that_was_trained_on_it_gives_alarm_and_others_do_not(settings: PlantingSettings) -> None:
    planting, part = planted(settings), whole()
    problem = problem_of(planting)
    larger = Part(shard=planting.shard, features=part.features, item_neighbours=part.item_neighbours)

    def system(of: Part, train: Pairs, seed: int) -> System:
        graphs = (problem.graph_with, problem.graph_without) if of is larger else (problem_of_nothing().graph_with,) * 2
        model = model_of(of, embedding_size=16, seed=seed)
        fit(model, graphs[0], of.shard, train, FIT.model_copy(update={"seed": seed}), valid=part.shard.valid)
        with torch.no_grad():
            users, items = model.embeddings(graphs[1])
        return System(f"seed {seed}", seed, users, items)

    original = system(larger, planting.shard.train, 0)
    never = [system(part, part.shard.train, seed) for seed in range(3)]
    [nothing] = injection_measurement(
        planting, original=original, candidate=original, never_seen=never, masked=problem.retain
    )
    [other] = injection_measurement(
        planting,
        original=original,
        candidate=system(part, part.shard.train, 9),
        never_seen=never,
        masked=problem.retain,
    )
    assert nothing.details["gives_alarm"] == "yes"
    assert nothing.details["power"] > 0.9
    assert other.details["gives_alarm"] == "no"
    assert nothing.value > max(nothing.references) + 0.2


# --- exact binomial figures ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "num_probes", "rate"), [(0, 5, 0.3), (3, 7, 0.2), (7, 7, 0.9), (4, 9, 0.0), (2, 4, 1.0)]
)
def test_tails_are_sums_of_all_ways(hits: int, num_probes: int, rate: float) -> None:
    ways = [math.comb(num_probes, k) * rate**k * (1 - rate) ** (num_probes - k) for k in range(num_probes + 1)]
    assert chance_of_at_least(hits, num_probes, rate) == pytest.approx(sum(ways[hits:]))
    assert chance_of_at_most(hits, num_probes, rate) == pytest.approx(sum(ways[: hits + 1]))


def test_the_interval_of_no_hit_is_the_textbooks() -> None:
    low, high = rate_interval(0, 300)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 300))
    assert rate_interval(300, 300) == pytest.approx((0.025 ** (1 / 300), 1.0))


def test_the_interval_covers_the_true_rate_as_often_as_it_says() -> None:
    num_probes = 40
    intervals = [rate_interval(hits, num_probes) for hits in range(num_probes + 1)]
    for rate in np.linspace(0.02, 0.98, 25):
        missed = [hits for hits, (low, high) in enumerate(intervals) if not low <= rate <= high]
        chances = [
            chance_of_at_least(hits, num_probes, rate) - chance_of_at_least(hits + 1, num_probes, rate)
            for hits in missed
        ]
        assert sum(chances) <= 0.05 + 1e-9


def test_the_threshold_is_the_least_count_that_is_so_unlikely() -> None:
    threshold = alarm_threshold(300, 0.01, false_alarm=1e-3)
    assert chance_of_at_least(threshold, 300, 0.01) <= 1e-3 < chance_of_at_least(threshold - 1, 300, 0.01)
    assert alarm_threshold(3, 0.5, false_alarm=1e-3) == 4


def test_the_stated_power_of_three_hundred_probes() -> None:
    found = hit_test(20, 300, original_hits=15, never_seen_hits=[3, 2, 2])
    assert found.gives_alarm
    assert found.never_seen_rate == 0.01
    assert found.power == pytest.approx(chance_of_at_least(found.threshold, 300, 0.05))
    assert found.power == pytest.approx(0.89, abs=0.005)


def test_a_test_without_a_model_that_never_saw_it_is_refused() -> None:
    with pytest.raises(DataError, match="never saw"):
        hit_test(1, 300, original_hits=15, never_seen_hits=[])
    with pytest.raises(ConfigError, match="no more hits than probes"):
        rate_interval(4, 3)
