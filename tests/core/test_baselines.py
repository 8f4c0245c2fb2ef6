"""What every unlearning method must do, whatever its formula; each method's own claims stand in the files beside."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.methods import (
    FIT,
    REGIMES,
    SHARDED,
    forgotten,
    mean_margin,
    original_of,
    request_of,
    settings_of,
    tools_of,
    trained_values,
    whole,
)
from tests.core.models import build_model, problem_of
from tests.core.thread_workers import Differentiable, in_threads
from tests.worlds import shards_of, tiny_world
from tru_core.backbones import BACKBONES
from tru_core.collective import Collective
from tru_core.fit import TrainingState, fit, parameter_values
from tru_core.interactions import Regime, make_request
from tru_core.unlearning.gradient_ascent import GradientAscentSettings
from tru_core.unlearning.method import Candidate, run_method
from tru_core.unlearning.methods import METHODS
from tru_core.unlearning.mmrecun import MMRecUnSettings
from tru_core.unlearning.passes import plan_forget
from tru_core.unlearning.problem import Problem
from tru_core.unlearning.repair_only import RepairOnlySettings

every_method = pytest.mark.parametrize("name", list(METHODS))
every_regime = pytest.mark.parametrize("regime", REGIMES)
every_single_model = pytest.mark.parametrize("name", [name for name in METHODS if name not in SHARDED])


def arrays_of(problem: Problem) -> list[bytes]:
    """Every number of a problem."""
    pairs = [problem.forget, problem.retain, problem.valid, problem.test, problem.shard.train]
    arrays = [array for part in pairs for array in (part.users, part.items)]
    arrays += [problem.request.users, problem.request.items, problem.request.pair_users, problem.request.pair_items]
    for graph in (problem.graph_with, problem.graph_without):
        for matrix in (graph.user_item, *graph.item_item.values()):
            arrays += [matrix.forward.values().numpy(), matrix.transposed.values().numpy()]
    return [array.tobytes() for array in arrays]


# ---- The contract


@every_regime
@every_method
def test_a_method_gives_finite_vectors_twice_the_same_and_leaves_the_problem_alone(name: str, regime: Regime) -> None:
    part = whole()
    problem = problem_of(part, request_of(part, regime))
    before = arrays_of(problem)
    one, two = (forgotten(name, problem, part) for _ in range(2))
    assert arrays_of(problem) == before
    assert len(one.users) == 24
    assert len(one.items) == 30
    assert one.users.shape[1] == one.items.shape[1]
    assert not one.users.requires_grad
    assert not one.items.requires_grad
    assert torch.isfinite(one.users).all()
    assert torch.isfinite(one.items).all()
    assert torch.equal(one.users, two.users)
    assert torch.equal(one.items, two.items)
    assert one.seconds > 0
    assert (one.model is not None) == METHODS[name].has_one_model == (name not in SHARDED)
    if one.model is not None:
        with torch.no_grad():
            users, items = one.model.embeddings(problem.graph_without)
        assert torch.equal(users, one.users)
        assert torch.equal(items, one.items)


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "mgcn"])
@every_method
def test_a_method_works_on_every_backbone(name: str, backbone: str) -> None:
    part = whole()
    candidate = forgotten(name, problem_of(part, request_of(part, "item")), part, backbone)
    assert torch.isfinite(candidate.users).all()
    assert torch.isfinite(candidate.items).all()


@pytest.mark.parametrize("regime", ["user", "interaction"])
@every_single_model
def test_two_workers_give_the_candidate_of_one(name: str, regime: Regime) -> None:
    request, parts = request_of(whole(), regime), shards_of(tiny_world(), 2)
    expected = forgotten(name, problem_of(whole(), request), whole())

    def body(inner: Collective) -> Candidate:
        part = parts[inner.rank]
        return forgotten(name, problem_of(part, request, Differentiable(inner)), part)

    for part, found in zip(parts, in_threads(2, body), strict=True):
        rows = torch.from_numpy(part.shard.user_rows)
        torch.testing.assert_close(found.users, expected.users[rows], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found.items, expected.items, rtol=1e-6, atol=1e-8)
        for row, wanted in zip(found.history, expected.history, strict=True):
            assert row == pytest.approx(wanted, rel=1e-6)


@every_single_model
def test_an_item_whose_pairs_left_earlier_can_still_be_asked_for(name: str) -> None:
    """A request that names no training pair: nothing to reverse, and nothing to stumble over."""
    part, gone = whole(), 4
    train = part.shard.train
    kept = replace(train, users=train.users[train.items != gone], items=train.items[train.items != gone])
    part = replace(part, shard=replace(part.shard, train=kept))
    problem = problem_of(part, make_request(items=np.array([gone])))
    assert not problem.num_forget
    candidate = forgotten(name, problem, part)
    assert torch.isfinite(candidate.items).all()


# ---- What the names promise


def test_retrain_is_a_training_on_the_retained_pairs_and_can_go_on() -> None:
    part = whole()
    problem = problem_of(part, request_of(part, "user"))
    model = build_model(part, seed=FIT.seed)
    states: list[TrainingState] = []

    def keep(state: TrainingState) -> None:
        states.append(replace(state, history=list(state.history)))

    fit(model, problem.graph_without, part.shard, problem.retain, FIT, valid=problem.valid, on_epoch=keep)
    users, items = model.embeddings(problem.graph_without)
    for state, epochs in ((None, [1, 2, 3]), (states[1], [3])):
        trained: list[int] = []
        tools = replace(
            tools_of(part), state=state, on_epoch=lambda state, trained=trained: trained.append(state.epoch)
        )
        found = run_method(METHODS["retrain"], build_model(part, seed=9), problem, settings_of("retrain"), tools)
        assert torch.equal(found.users, users.detach())
        assert torch.equal(found.items, items.detach())
        assert [row["epoch"] for row in found.history] == [1, 2, 3]
        assert trained == epochs


@pytest.mark.parametrize("name", ["row_reset", "row_refit"])
def test_rows_of_deleted_subjects_are_untrained_and_no_shared_parameter_moves(name: str) -> None:
    part = whole()
    request = make_request(users=np.array([3, 16]), items=np.array([7]))
    original = original_of(part)
    before = parameter_values(original)
    problem = problem_of(part, request)
    other_values = run_method(METHODS[name], original, problem, settings_of(name), tools_of(part)).model
    assert other_values is original
    after = parameter_values(original)
    moved = {name: (before[name] != after[name]) for name in before}
    assert [name for name, where in moved.items() if where.any()] == ["user_table", "item_table"]
    assert moved["item_table"].any(dim=1).nonzero().flatten().tolist() == [7]
    lost = np.unique(problem.forget.users).tolist() if name == "row_refit" else [3, 16]
    assert moved["user_table"].any(dim=1).nonzero().flatten().tolist() == lost
    # Untrained: the same whatever the row was, and not where the Original's training began.
    strange = build_model(part, seed=8)
    run_method(METHODS[name], strange, problem, settings_of(name), tools_of(part))
    assert torch.equal(strange.get_parameter("user_table")[[3, 16]], after["user_table"][[3, 16]])
    assert torch.equal(strange.get_parameter("item_table")[7], after["item_table"][7])
    assert not torch.equal(build_model(part, seed=FIT.seed).get_parameter("user_table")[3], after["user_table"][3])


def test_resetting_rows_is_only_deleting_edges_where_single_pairs_are_deleted() -> None:
    part = whole()
    problem = problem_of(part, request_of(part, "interaction"))
    reset, edges = (forgotten(name, problem, part) for name in ("row_reset", "edge_deletion"))
    assert torch.equal(reset.users, edges.users)
    assert torch.equal(reset.items, edges.items)


def test_more_training_leaves_a_deleted_users_row_what_it_was_and_removal_does_not() -> None:
    part = whole()
    request = request_of(part, "user")
    problem = problem_of(part, request)
    margins = {n: mean_margin(forgotten(n, problem, part), problem) for n in ("edge_deletion", "row_reset")}
    repaired = RepairOnlySettings(learning_rate=0.02)
    margins["repair_only"] = mean_margin(forgotten("repair_only", problem, part, settings=repaired), problem)
    assert margins["edge_deletion"] > 0
    assert margins["repair_only"] > 0.7 * margins["edge_deletion"]
    assert margins["row_reset"] < 0.2 * margins["edge_deletion"]


def test_repair_takes_the_batches_that_its_budget_says() -> None:
    part = whole()
    problem = problem_of(part, request_of(part, "user"))
    original = original_of(part)
    calls: list[bool] = []
    inner, retained = original.loss, problem.graph_without
    original.loss = lambda graph, batch: calls.append(graph is retained) or inner(graph, batch)
    settings = RepairOnlySettings(epochs=3, repair_batches=2)
    run_method(METHODS["repair_only"], original, problem, settings, tools_of(part))
    assert calls == [True] * 6


def test_a_pair_to_forget_meets_no_item_that_its_user_had() -> None:
    """Also none of the other deleted ones: ascent against such a negative would teach it anew."""
    part = whole()
    train = part.shard.train
    own = train.users == 5
    problem = problem_of(part, make_request(pair_users=train.users[own], pair_items=train.items[own]))
    for epoch in range(20):
        assert not np.isin(plan_forget(problem, FIT, epoch=epoch).negatives, train.items[own]).any()


@every_regime
def test_ascent_lowers_what_is_to_be_forgotten_further_with_every_pass(regime: Regime) -> None:
    part = whole()
    problem = problem_of(part, request_of(part, regime))
    margins = [mean_margin(forgotten("edge_deletion", problem, part), problem)]
    for epochs in (1, 4):
        settings = GradientAscentSettings(epochs=epochs, learning_rate=0.02)
        margins.append(mean_margin(forgotten("gradient_ascent", problem, part, settings=settings), problem))
    assert margins[0] > margins[1] > margins[2]


def test_a_clipped_step_of_ascent_is_no_longer_than_asked() -> None:
    part = whole()
    problem = problem_of(part, request_of(part, "user"))
    lengths = []
    for clip in (None, 1e-3):
        settings = GradientAscentSettings(epochs=1, optimizer="sgd", learning_rate=0.5, max_gradient_norm=clip)
        model = forgotten("gradient_ascent", problem, part, settings=settings).model
        assert model is not None
        moved = [
            (value.detach() - trained_values("mgcn")[name]).square().sum() for name, value in model.named_parameters()
        ]
        lengths.append(float(torch.stack(moved).sum().sqrt()))
    steps = -(-problem.num_forget // FIT.batch_size)
    assert lengths[0] > 10 * lengths[1]
    assert 0 < lengths[1] <= steps * 0.5e-3 * (1 + 1e-9)


def test_mmrecun_scales_its_two_sides_by_alpha_and_one_minus_alpha() -> None:
    """Adam's first step has the length of its rate in every coordinate that has a gradient."""
    part = whole()
    problem = problem_of(part, request_of(part, "interaction"))
    sides: dict[bool, list[Tensor]] = {True: [], False: []}
    original = original_of(part)
    inner = original.loss

    def watched(graph, batch):
        sides[graph is problem.graph_with].append(original.get_parameter("item_table").detach().clone())
        return inner(graph, batch)

    original.loss = watched
    tools = replace(tools_of(part), fit=FIT.model_copy(update={"batch_size": 10**6}))
    settings = MMRecUnSettings(epochs=1, learning_rate=0.01)
    found = run_method(METHODS["mmrecun"], original, problem, settings, tools).model
    assert found is not None
    (start,), (between,) = sides[True], sides[False]
    assert float((between - start).abs().max()) == pytest.approx(0.2 * 0.01, rel=1e-3)
    assert float((found.get_parameter("item_table").detach() - between).abs().max()) == pytest.approx(
        0.8 * 0.01, rel=1e-3
    )


def test_mmrecun_keeps_its_best_epoch_and_stops_after_its_patience() -> None:
    part = whole()
    problem = problem_of(part, request_of(part, "user"))
    settings = MMRecUnSettings(epochs=30, patience=2, learning_rate=0.05)
    candidate = forgotten("mmrecun", problem, part, settings=settings)
    recalls = [row["valid_recall20"] for row in candidate.history]
    best = int(np.argmax(recalls))
    assert len(recalls) == best + 1 + 2 < 30
    assert all(row["num_rows_visited"] == problem.num_forget for row in candidate.history)
    shorter = settings.model_copy(update={"epochs": best + 1})
    assert torch.equal(forgotten("mmrecun", problem, part, settings=shorter).users, candidate.users)
