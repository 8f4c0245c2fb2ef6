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
from tru_core.fit import TrainingState, fit, parameter_values
from tru_core.interactions import Regime, make_request
from tru_core.testing import MethodContract
from tru_core.testing.models import build_model, problem_of
from tru_core.unlearning.baselines.gradient_ascent import GradientAscentSettings
from tru_core.unlearning.baselines.mmrecun import MMRecUnSettings
from tru_core.unlearning.baselines.repair_only import RepairOnlySettings
from tru_core.unlearning.method import run_method
from tru_core.unlearning.methods import METHODS
from tru_core.unlearning.passes import plan_forget

every_regime = pytest.mark.parametrize("regime", REGIMES)


class TestEveryMethod(MethodContract):
    methods = METHODS
    settings = SHARDED


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
