"""Algorithm 1 as printed: its steps by hand, its targeting, what it forgets and what it keeps."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.test_fit import assert_same, stored
from tru_core.backbones import Backbone
from tru_core.errors import AuditError, ConfigError, NumericsError, PolicyError
from tru_core.fit import FitSettings, TrainingState, fit, parameter_values, pool_for, set_parameters, train_batches
from tru_core.interactions import Request, make_request, select
from tru_core.problem import Problem, candidate_score, evaluate, make_problem
from tru_core.sampling import Batch, iterate_batches, plan_epoch
from tru_core.testing.models import ALONE, build_model, fitted, problem_of
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning.paper import algorithm_one, targeting
from tru_core.unlearning.paper.algorithm_one import AlgorithmOneSettings, mean_gradient_norms, reverse_step
from tru_core.unlearning.paper.algorithm_one import algorithm_one as unlearn
from tru_core.unlearning.paper.targeting import Targeting
from tru_core.unlearning.rows import reset_subject_rows, subjects_removed

USERS, ITEMS = np.array([2, 9, 17]), np.array([4, 11])
FUSION = "project.visual.weight"


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(), 1)[0]


@pytest.fixture(scope="module")
def trained(part: Part) -> dict[str, dict[str, Tensor]]:
    """Weights of Original with frozen and with trainable features, trained until they know their pairs."""
    values = {}
    for trainable in (False, True):
        model = build_model(part, trainable_features=trainable)
        settings = FitSettings(max_epochs=40, patience=40, batch_size=64, learning_rate=0.02)
        values[str(trainable)] = fitted(part, model=model, settings=settings).parameters
    return values


def original(part: Part, trained: dict[str, dict[str, Tensor]], *, trainable_features: bool = False) -> Backbone:
    model = build_model(part, trainable_features=trainable_features)
    set_parameters(model, trained[str(trainable_features)])
    return model


def pairs_request(part: Part, count: int = 12) -> Request:
    train = part.shard.train
    chosen = np.linspace(0, len(train) - 1, count).astype(int)
    return make_request(pair_users=train.users[chosen], pair_items=train.items[chosen])


REQUESTS = {
    "user": lambda part: make_request(users=USERS),
    "item": lambda part: make_request(items=ITEMS),
    "interaction": pairs_request,
}
every_regime = pytest.mark.parametrize("regime", list(REQUESTS))


def settings_for(**changes: Any) -> AlgorithmOneSettings:
    """Algorithm 1 with the subjects' rows removed."""
    algorithm = {
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 0.01,
        "min_parameter_share": 0.0,
    }
    return AlgorithmOneSettings(**algorithm | changes)


def forget_batch(part: Part, problem: Problem) -> Batch:
    pool = pool_for(part.shard.train, ALONE)
    plan = plan_epoch(problem.forget, part.shard, pool, ALONE, batch_size=1000, seed=0, epoch=0)
    return next(iter(iterate_batches(plan)))


def targeting_of(model: Backbone, chosen: set[str] | None = None, **scales: float) -> Any:
    branches = dict.fromkeys(model.anatomy.branch.values(), 1.0)
    modules = frozenset(model.anatomy.modules) if chosen is None else frozenset(chosen)
    return Targeting(scales=branches | scales, sensitivity={}, chosen=modules)


def take_reverse_step(
    model: Backbone, problem: Problem, batch: Batch, settings: AlgorithmOneSettings, targeting: Any
) -> dict[str, Tensor]:
    """One step of a fresh optimizer; gives each parameter's change."""
    before = parameter_values(model)
    optimizer = algorithm_one._make_reverse_optimizer(model, settings)
    reverse_step(model, problem.graph_with, batch, optimizer, targeting, settings)
    return {name: value - before[name] for name, value in parameter_values(model).items()}


def ranking_gradients(model: Backbone, problem: Problem, batch: Batch, objective: str) -> dict[str, Tensor]:
    terms = model.loss(problem.graph_with, batch)
    loss = terms.ranking if objective == "ranking" else terms.total()
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


# ---- One reverse step


@pytest.mark.parametrize("objective", ["ranking", "full"])
@pytest.mark.parametrize(("sign", "direction"), [("shrink", -1.0), ("literal", 1.0)])
@pytest.mark.parametrize("own_rate", [None, 0.5])
def test_sgd_is_equation_seven_verbatim(
    part: Part, trained: dict, objective: str, sign: str, direction: float, own_rate: float | None
) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    batch = forget_batch(part, problem)
    settings = settings_for(
        reverse_optimizer="sgd",
        reverse_ratio=0.3,
        gate_weight=0.02,
        gate_sign=sign,
        reverse_objective=objective,
        ascent_learning_rate=own_rate,
    )
    scales = {"id": 0.5, "visual": 0.25, "text": 1.0, "shared": 1.0}
    chosen = set(model.anatomy.modules) - {"prefer.text", "item_table"}
    gradients = ranking_gradients(model, problem, batch, objective)
    expected, before = {}, parameter_values(model)
    module_of = {name: module for module, group in model.anatomy.modules.items() for name in group}
    for name, gradient in gradients.items():
        penalty = direction * 0.02 * before[name].sign() if name in model.anatomy.fusion else 0.0
        gamma, z = scales[model.anatomy.branch[name]], float(module_of[name] in chosen)
        eta = 0.01 if own_rate is None else own_rate
        expected[name] = eta * 0.3 * z * gamma * (gradient + penalty)
    changes = take_reverse_step(model, problem, batch, settings, targeting_of(model, chosen, **scales))
    for name, change in changes.items():
        torch.testing.assert_close(change, expected[name], rtol=1e-8, atol=1e-14, msg=lambda m, n=name: f"{n}: {m}")


def test_the_reverse_step_raises_the_forget_loss(part: Part, trained: dict) -> None:
    for optimizer in ("sgd", "adam"):
        model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
        batch = forget_batch(part, problem)
        before = model.loss(problem.graph_with, batch).ranking.item()
        settings = settings_for(reverse_optimizer=optimizer, gate=False, learning_rate=1e-3)
        take_reverse_step(model, problem, batch, settings, targeting_of(model))
        assert model.loss(problem.graph_with, batch).ranking.item() > before


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_heavy_gate_shrinks_fusion_weights_and_grows_them_when_read_literally(
    part: Part, trained: dict, optimizer: str
) -> None:
    problem = problem_of(part, make_request(users=USERS))
    batch, norms = forget_batch(part, problem), {}
    for sign in ("shrink", "literal"):
        model = original(part, trained)
        before = model.get_parameter(FUSION).detach().abs().sum().item()
        settings = settings_for(reverse_optimizer=optimizer, gate_weight=10.0, gate_sign=sign, learning_rate=1e-3)
        changes = take_reverse_step(model, problem, batch, settings, targeting_of(model))
        norms[sign] = model.get_parameter(FUSION).detach().abs().sum().item() - before
        assert changes["project.visual.bias"].any()
    assert norms["shrink"] < 0 < norms["literal"]


def test_the_gate_touches_fusion_weights_alone_and_can_be_turned_off(part: Part, trained: dict) -> None:
    problem = problem_of(part, make_request(users=USERS))
    batch, changes = forget_batch(part, problem), {}
    for name, changed in {"on": {"gate_weight": 1.0}, "zero": {"gate_weight": 0.0}, "off": {"gate": False}}.items():
        model = original(part, trained)
        settings = settings_for(reverse_optimizer="sgd", **changed)
        changes[name] = take_reverse_step(model, problem, batch, settings, targeting_of(model))
    assert_same(changes["zero"], changes["off"])
    for name, change in changes["on"].items():
        assert torch.equal(change, changes["off"][name]) == (name not in model.anatomy.fusion), name


def test_adam_s_update_is_scaled_and_would_not_be_if_gradients_were(part: Part, trained: dict) -> None:
    problem = problem_of(part, make_request(users=USERS))
    batch, settings = forget_batch(part, problem), settings_for(gate=False, reverse_ratio=0.2)
    model = original(part, trained)
    gradient = ranking_gradients(model, problem, batch, "ranking")["item_table"]
    targeting = targeting_of(model, id=0.25)
    change = take_reverse_step(model, problem, batch, settings, targeting)["item_table"]
    # The first update of Adam is the sign of the gradient: what is left is eta * alpha * gamma.
    moved = gradient.abs() > 1e-4
    assert moved.any()
    torch.testing.assert_close(change[moved], 0.01 * 0.2 * 0.25 * gradient[moved].sign(), rtol=1e-3, atol=0.0)
    steps = []
    for factor in (1.0, 0.2 * 0.25):
        parameter = torch.nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient * factor
        torch.optim.Adam([parameter], lr=0.01).step()
        steps.append(parameter.detach())
    torch.testing.assert_close(steps[0][moved], steps[1][moved], rtol=1e-2, atol=0.0)


def test_masked_modules_stand_still_in_reverse_though_momentum_is_there_and_move_in_repair(
    part: Part, trained: dict
) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    batch, settings = forget_batch(part, problem), settings_for()
    optimizer = algorithm_one._make_reverse_optimizer(model, settings)
    reverse_step(model, problem.graph_with, batch, optimizer, targeting_of(model), settings)  # momentum everywhere
    before, chosen = parameter_values(model), {"item_table", "query"}
    reverse_step(model, problem.graph_with, batch, optimizer, targeting_of(model, chosen), settings)
    may_move = {name for module in chosen for name in model.anatomy.modules[module]}
    for name, value in parameter_values(model).items():
        assert torch.equal(value, before[name]) == (name not in may_move), name
    before = parameter_values(model)
    plan = plan_epoch(
        problem.retain, part.shard, pool_for(problem.retain, ALONE), ALONE, batch_size=64, seed=0, epoch=0
    )
    repair = algorithm_one.make_adam(model, 0.01)
    train_batches(model, problem.graph_without, iterate_batches(plan), repair)
    assert not any(torch.equal(value, before[name]) for name, value in parameter_values(model).items())


def test_a_long_reverse_gradient_is_clipped_to_its_norm(part: Part, trained: dict) -> None:
    problem = problem_of(part, make_request(users=USERS))
    batch, changes = forget_batch(part, problem), []
    for clip in (None, 1e-3):
        model = original(part, trained)
        settings = settings_for(reverse_optimizer="sgd", max_gradient_norm=clip, gate_weight=0.01)
        changes.append(take_reverse_step(model, problem, batch, settings, targeting_of(model)))
    norms = [math.sqrt(sum(change.square().sum().item() for change in group.values())) for group in changes]
    assert norms[1] == pytest.approx(0.01 * 0.2 * 1e-3, rel=1e-6)
    assert norms[0] > norms[1]
    for name, change in changes[0].items():
        torch.testing.assert_close(changes[1][name] * (norms[0] / norms[1]), change, rtol=1e-6, atol=1e-13)


def test_a_reverse_gradient_that_is_not_finite_is_not_taken(part: Part, trained: dict) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    model.get_parameter("item_table").data[3] = math.nan
    before = parameter_values(model)["user_table"]
    with pytest.raises(NumericsError, match="The step was not taken"):
        take_reverse_step(model, problem, forget_batch(part, problem), settings_for(), targeting_of(model))
    assert torch.equal(parameter_values(model)["user_table"], before)


# ---- Measuring and choosing


def test_energies_are_mean_norms_of_whole_batches_without_the_gate(part: Part, trained: dict) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    pool = pool_for(part.shard.train, ALONE)
    plan = plan_epoch(problem.forget, part.shard, pool, ALONE, batch_size=6, seed=0, epoch=0)
    batches = list(iterate_batches(plan, limit=2))
    settings = settings_for(gate_weight=100.0)
    branches, modules = mean_gradient_norms(model, problem.graph_with, batches, settings)
    for names, found in ((model.anatomy.modules["project.text"], modules["project.text"]),):
        norms = []
        for batch in batches:
            gradients = ranking_gradients(model, problem, batch, "ranking")
            norms.append(math.sqrt(sum(gradients[name].square().sum().item() for name in names)))
        assert found == pytest.approx(np.mean(norms), rel=1e-9)
    assert branches["id"] ** 2 > 0
    assert set(branches) == {"id", "visual", "text", "shared"}
    assert set(modules) == set(model.anatomy.modules)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scales_compare_retained_with_forgotten_batches_on_the_graph_with_the_edges(part: Part, trained: dict) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=np.array([0, 1, 2])))
    settings, energies = settings_for(energy_batches=2, scale_floor=0.01), []
    for pairs, history in ((problem.retain, problem.retain), (problem.forget, part.shard.train)):
        plan = plan_epoch(pairs, part.shard, pool_for(history, ALONE), ALONE, batch_size=16, seed=0, epoch=0)
        batches = iterate_batches(plan, limit=2)
        energies.append(mean_gradient_norms(model, problem.graph_with, batches, settings))
    row = unlearn(model, problem, settings).history[0]
    for branch in ("id", "visual", "text"):
        retain, forget = energies[0][0][branch], energies[1][0][branch]
        assert retain < 0.9 * forget  # these users are fitted worse than others: the brake acts
        assert row[f"scale/{branch}"] == pytest.approx(retain / forget, rel=1e-5)
    for module, value in energies[1][1].items():
        assert row[f"sensitivity/{module}"] == pytest.approx(value, rel=1e-12)


def test_history_says_what_was_measured_chosen_and_left_out(part: Part, trained: dict) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    state = unlearn(model, problem, settings_for(module_share=0.3, excluded_modules=("item_table", "query")))
    for row in state.history:
        chosen = {name.removeprefix("chosen/") for name, value in row.items() if name.startswith("chosen/") and value}
        allowed = {
            name.removeprefix("sensitivity/"): value
            for name, value in row.items()
            if name.startswith("sensitivity/") and name.split("/")[1] not in ("item_table", "query")
        }
        best = sorted(allowed, key=lambda name: -allowed[name])[: math.ceil(0.3 * len(allowed))]
        assert chosen == set(best)
        assert row["scale/shared"] == 1.0
        assert row["num_rows_visited"] == problem.num_forget == len(problem.forget)


def test_an_excluded_module_never_moves_in_reverse(part: Part, trained: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithm_one, "train_batches", lambda *_: (0.0, 0))
    model, problem = original(part, trained), problem_of(part, pairs_request(part))
    before = parameter_values(model)
    unlearn(model, problem, settings_for(isolation=False, excluded_modules=("item_table", "project.text")))
    still = {name for name, value in parameter_values(model).items() if torch.equal(value, before[name])}
    assert still == {"item_table", "project.text.weight", "project.text.bias"}


def test_excluding_what_does_not_exist_or_everything_is_refused(part: Part, trained: dict) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    with pytest.raises(ConfigError, match="excluded_modules names 'no_such'"):
        unlearn(model, problem, settings_for(excluded_modules=("item_table", "no_such")))
    with pytest.raises(ConfigError, match="every module"):
        unlearn(model, problem, settings_for(excluded_modules=tuple(model.anatomy.modules)))


def test_without_scaling_and_isolation_every_module_takes_the_full_step(part: Part, trained: dict) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    row = unlearn(model, problem, settings_for(branch_scaling=False, isolation=False, epochs=1)).history[0]
    assert {value for name, value in row.items() if name.startswith(("scale/", "chosen/"))} == {1.0}


# ---- Structural removal


@pytest.mark.parametrize("trainable_features", [False, True])
@every_regime
def test_rows_of_deleted_subjects_are_fresh_and_all_others_as_they_were(
    part: Part, trained: dict, regime: str, trainable_features: bool
) -> None:
    model = original(part, trained, trainable_features=trainable_features)
    request, before = REQUESTS[regime](part), parameter_values(model)
    num_rows = reset_subject_rows(model, part.shard, request, seed=8)
    gone = {"user": request.users, "item": request.items, "item_block": request.items}
    total = 0
    for name, value in parameter_values(model).items():
        axis = model.anatomy.tables.get(name)
        rows = np.zeros(0, dtype=np.int64) if axis is None else gone[axis]
        kept = np.setdiff1d(np.arange(len(value)), rows)
        assert torch.equal(value[kept], before[name][kept]), name
        if len(rows):
            fresh = torch.zeros(1) if axis == "item_block" else model.fresh_rows(name, rows, seed=8)
            assert (value[rows] == fresh).all()
            assert not (value[rows] == before[name][rows]).any()
        total += len(rows)
    assert num_rows == total
    assert (num_rows == 0) == (regime == "interaction")


@every_regime
def test_subjects_removed_puts_every_bit_back_even_after_an_error(part: Part, trained: dict, regime: str) -> None:
    model, request = original(part, trained, trainable_features=True), REQUESTS[regime](part)
    before, expected = parameter_values(model), original(part, trained, trainable_features=True)
    reset_subject_rows(expected, part.shard, request, seed=8)
    with subjects_removed(model, part.shard, request, seed=8):
        assert_same(parameter_values(model), parameter_values(expected))
    assert_same(parameter_values(model), before)
    with pytest.raises(RuntimeError, match="inside"), subjects_removed(model, part.shard, request, seed=8):
        raise RuntimeError("inside")
    assert_same(parameter_values(model), before)


@every_regime
def test_the_unlearned_model_has_fresh_rows_and_keeps_those_of_retained_users(
    part: Part, trained: dict, regime: str
) -> None:
    model = original(part, trained, trainable_features=True)
    before, request = parameter_values(model), REQUESTS[regime](part)
    state = unlearn(model, problem_of(part, request), settings_for())
    after = parameter_values(model)
    for name, axis in model.anatomy.tables.items():
        rows = request.users if axis == "user" else request.items
        assert not (after[name][rows] == before[name][rows]).any()
        assert not (after[name][rows] == state.best[name][rows]).any()
        if axis == "item_block":
            assert not after[name][rows].any()
        kept = np.setdiff1d(np.arange(len(after[name])), rows)
        assert torch.equal(after[name][kept], state.best[name][kept])
    if regime == "interaction":
        assert_same(after, state.best)


def test_without_resetting_the_rows_stay_as_the_steps_left_them(part: Part, trained: dict) -> None:
    model = original(part, trained)
    state = unlearn(model, problem_of(part, make_request(users=USERS)), settings_for(reset_subjects=False))
    assert_same(parameter_values(model), state.best)


def test_a_deleted_item_is_cut_from_both_graphs_and_its_features_are_zero(part: Part, trained: dict) -> None:
    model = original(part, trained, trainable_features=True)
    problem = problem_of(part, make_request(items=ITEMS))
    for graph, touched in ((problem.graph_with, True), (problem.graph_without, False)):
        for matrix in (graph.user_item, *graph.item_item.values()):
            assert bool(matrix.forward.to_dense()[:, ITEMS].any()) == touched
    for matrix in problem.graph_without.item_item.values():
        assert not matrix.forward.to_dense()[ITEMS].any()
    unlearn(model, problem, settings_for())
    assert not model.get_parameter("features.text")[ITEMS].any()


def test_a_deleted_item_whose_pairs_left_earlier_is_cut_from_the_item_graph_too(part: Part) -> None:
    train = part.shard.train
    rest = select(train, ~np.isin(train.items, ITEMS))
    problem = problem_of(replace(part, shard=replace(part.shard, train=rest)), make_request(items=ITEMS))
    assert problem.num_forget == 0
    for matrix in problem.graph_without.item_item.values():
        assert not matrix.forward.to_dense()[:, ITEMS].any()


# ---- Forgetting and keeping


def forget_level(part: Part, model: Backbone, problem: Problem) -> float:
    """Recall of the forgotten pairs, mean over twenty draws of the deleted users' fresh rows."""
    recalls = []
    for seed in range(100, 120):
        with subjects_removed(model, part.shard, problem.request, seed=seed):
            recalls.append(evaluate(model, problem).forget.recall)
    return float(np.mean(recalls))


def test_in_the_user_regime_forgotten_pairs_fall_to_the_level_of_never_seen_and_the_rest_is_kept() -> None:
    part = shards_of(tiny_world(num_users=60, num_items=80), 1)[0]
    problem = problem_of(part, make_request(users=np.arange(0, 60, 6)))
    settings = FitSettings(max_epochs=20, patience=20, batch_size=128, learning_rate=0.03)
    model, retrained = build_model(part), build_model(part)
    trained = fitted(part, model=model, settings=settings).parameters
    fit(retrained, problem.graph_without, part.shard, problem.retain, settings, valid=problem.valid)
    never_seen = forget_level(part, retrained, problem)
    assert 0.15 < never_seen < 0.45  # 20 of 80 items by chance are a quarter

    set_parameters(model, trained)
    before = evaluate(model, problem, edges_in=True)
    assert before.forget.recall > 0.9
    assert evaluate(model, problem).forget.recall > 0.8  # without the edges, but with the rows
    unlearn(model, problem, settings_for(batch_size=64))
    after = evaluate(model, problem)
    # Twenty draws on ten users have a standard error of 0.02.
    assert abs(forget_level(part, model, problem) - never_seen) < 0.08
    assert after.forget.recall < 0.6
    assert after.test.recall > before.test.recall - 0.08
    assert after.valid.num_users == before.valid.num_users == 50

    set_parameters(model, trained)
    unlearn(model, problem, settings_for(batch_size=64, reset_subjects=False))
    assert evaluate(model, problem).forget.recall > 0.8  # what this test would see if rows were left


def test_pairs_of_users_who_stay_are_forgotten_by_the_reverse_step(part: Part, trained: dict) -> None:
    problem, losses = problem_of(part, pairs_request(part)), []
    batch = forget_batch(part, problem)
    for rate in (1e-9, 1.0, 3.0):
        model = original(part, trained)
        unlearn(model, problem, settings_for(epochs=1, ascent_learning_rate=rate, module_share=0.9))
        losses.append(model.loss(problem.graph_without, batch).ranking.item())
    assert losses[1] > 1.2 * losses[0]
    assert losses[2] > 1.2 * losses[1]


@every_regime
def test_the_best_epoch_is_the_one_with_the_best_score(part: Part, trained: dict, regime: str) -> None:
    model, problem = original(part, trained), problem_of(part, REQUESTS[regime](part))
    state = unlearn(model, problem, settings_for(epochs=3))
    scores = [candidate_score(row["valid_recall20"], row["forget_recall20"]) for row in state.history]
    assert state.best_epoch == int(np.argmax(scores)) + 1
    assert state.best_score == max(scores)
    outcome = evaluate(model, problem)
    row = state.history[state.best_epoch - 1]
    assert (outcome.valid.recall, outcome.forget.recall) == (row["valid_recall20"], row["forget_recall20"])


def test_forgetting_too_much_is_scored_like_forgetting_too_little() -> None:
    assert candidate_score(0.3, 0.3) == 0.3
    assert candidate_score(0.3, 0.2) == pytest.approx(candidate_score(0.3, 0.4))


def test_subjects_whose_pairs_left_earlier_lose_their_rows_and_nothing_else_moves(part: Part, trained: dict) -> None:
    train = part.shard.train
    rest = select(train, ~np.isin(train.users, USERS))
    model, before = original(part, trained), trained["False"]
    problem = problem_of(replace(part, shard=replace(part.shard, train=rest)), make_request(users=USERS))
    assert problem.graph_without is problem.graph_with
    state = unlearn(model, problem, settings_for())
    assert (state.epoch, state.history) == (0, [])
    after, kept = parameter_values(model), np.setdiff1d(np.arange(24), USERS)
    assert_same(
        {**after, "user_table": after["user_table"][kept]}, {**before, "user_table": before["user_table"][kept]}
    )
    assert not (after["user_table"][USERS] == before["user_table"][USERS]).any()


# ---- What must fail


def test_a_forget_row_that_is_skipped_fails_the_run(part: Part, trained: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = algorithm_one.iterate_batches

    def skipping(plan: Any, *, limit: int | None = None) -> Iterator[Batch]:
        for number, batch in enumerate(whole(plan, limit=limit)):
            if number or len(batch.users) < 2:
                yield batch
            else:
                yield replace(
                    batch, users=batch.users[1:], positives=batch.positives[1:], negatives=batch.negatives[1:]
                )

    monkeypatch.setattr(algorithm_one, "iterate_batches", skipping)
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    states: list[TrainingState] = []
    with pytest.raises(AuditError, match=f"{problem.num_forget - 1} of {problem.num_forget} requested"):
        unlearn(model, problem, settings_for(), on_epoch=states.append)
    assert not states


def test_a_count_that_differs_from_the_planner_s_is_refused(part: Part) -> None:
    request, count = make_request(users=USERS), int(np.isin(part.shard.train.users, USERS).sum())
    make_problem(part.shard, request, part.item_neighbours, ALONE, expected_num_forget=count)
    with pytest.raises(AuditError, match=f"{count} of the {count + 1} interactions"):
        make_problem(part.shard, request, part.item_neighbours, ALONE, expected_num_forget=count + 1)


def test_a_request_for_everything_is_refused(part: Part) -> None:
    with pytest.raises(PolicyError, match="nothing would be left"):
        problem_of(part, make_request(users=np.arange(24)))


def test_a_loss_that_is_not_finite_fails_the_run(part: Part, trained: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    with pytest.raises(NumericsError):
        unlearn(model, problem, settings_for(ascent_learning_rate=1e200))
    model = original(part, trained)
    model.get_parameter("item_table").data[3] = math.nan
    with pytest.raises(NumericsError, match="norm of"):
        unlearn(model, problem, settings_for())


# ---- Going on after an interruption


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(
    part: Part, trained: dict, monkeypatch: pytest.MonkeyPatch, optimizer: str, stop: int
) -> None:
    """Even when the chosen modules change, so that Adam took other numbers of steps on each."""
    problem = problem_of(part, make_request(users=USERS, items=ITEMS))
    settings = settings_for(epochs=4, patience=4, reverse_optimizer=optimizer)
    choices = [{"item_table"}, {"item_table", "query"}, {"query", "purify.text"}, {"item_table", "purify.text"}]
    saved: list[TrainingState] = []

    def run(model: Backbone, state: TrainingState | None) -> TrainingState:
        script = iter(choices[0 if state is None else state.epoch :])
        monkeypatch.setattr(targeting, "select_modules", lambda *_, **__: frozenset(next(script)))

        def save(current: TrainingState) -> None:
            if current.epoch == stop and state is None:
                saved.append(stored(current))

        return unlearn(model, problem, settings, state=state, on_epoch=save)

    whole_model, model = original(part, trained), build_model(part, seed=77)
    whole = run(whole_model, None)
    resumed = run(model, saved[0])
    for group in ("parameters", "moments", "best"):
        assert_same(getattr(resumed, group), getattr(whole, group))
    assert_same(parameter_values(model), parameter_values(whole_model))
    assert resumed.history == whole.history
    if optimizer == "adam":
        assert len(set(whole.moments["reverse.steps"].tolist())) > 2


def test_a_finished_run_that_is_resumed_does_nothing_more(part: Part, trained: dict) -> None:
    model, problem = original(part, trained), problem_of(part, make_request(users=USERS))
    state = unlearn(model, problem, settings_for())
    after, again = parameter_values(model), original(part, trained)
    resumed = unlearn(again, problem, settings_for(), state=stored(state))
    assert resumed.history == state.history
    assert_same(parameter_values(again), after)


def test_runs_repeat_to_the_bit_and_seeds_differ(part: Part, trained: dict) -> None:
    problem, values = problem_of(part, make_request(users=USERS)), []
    for seed in (0, 0, 1):
        model = original(part, trained)
        unlearn(model, problem, settings_for(seed=seed))
        values.append(parameter_values(model))
    assert_same(values[0], values[1])
    assert not torch.equal(values[0]["item_table"], values[2]["item_table"])


def test_repair_can_be_cut_short(part: Part, trained: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original_train = algorithm_one.train_batches

    def spy(model: Any, graph: Any, batches: Any, optimizer: Any) -> tuple[float, int]:
        listed = list(batches)
        seen.append(len(listed))
        rates = {group["lr"] for group in optimizer.param_groups}
        assert rates == {0.01 * (1 - 0.2)}
        assert graph is problem.graph_without
        return original_train(model, graph, listed, optimizer)

    monkeypatch.setattr(algorithm_one, "train_batches", spy)
    problem = problem_of(part, make_request(users=USERS))
    for limit in (1, None):
        unlearn(original(part, trained), problem, settings_for(epochs=1, repair_batches=limit))
    assert seen[0] == 1
    assert seen[1] == -(-len(problem.retain) // 16)


def test_repair_trains_on_retained_pairs_only(part: Part, trained: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def spy(model: Any, graph: Any, batches: Any, optimizer: Any) -> tuple[float, int]:
        for batch in batches:
            seen.extend(zip(batch.users.tolist(), batch.positives.tolist(), strict=True))
        return 0.0, 0

    monkeypatch.setattr(algorithm_one, "train_batches", spy)
    problem = problem_of(part, make_request(items=ITEMS))
    unlearn(original(part, trained), problem, settings_for(epochs=1))
    train = part.shard.train
    kept = select(train, ~np.isin(train.items, ITEMS))
    assert sorted(seen) == list(zip(kept.users.tolist(), kept.items.tolist(), strict=True))
