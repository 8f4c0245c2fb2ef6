"""TRU's sequence: what each part moves, when it stops, what it forgets and what it keeps."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.test_fit import assert_same, stored
from tru_core.backbones import BACKBONES, Backbone
from tru_core.errors import AuditError, ConfigError, NumericsError
from tru_core.fit import FitSettings, TrainingState, fit, parameter_values, set_parameters
from tru_core.interactions import Request, make_request
from tru_core.measures.residue import make_probe, measure_residue
from tru_core.problem import Problem, evaluate
from tru_core.testing.models import build_model, fitted, problem_of
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning.paper.algorithm_one import AlgorithmOneSettings, algorithm_one
from tru_core.unlearning.rows import fresh_seed, reset_subject_rows
from tru_core.unlearning.tru import method as tru
from tru_core.unlearning.tru import reverse, stop_rule
from tru_core.unlearning.tru.item_rows import touched_items
from tru_core.unlearning.tru.method import unlearn
from tru_core.unlearning.tru.settings import TRUSettings
from tru_core.unlearning.tru.stop_rule import Statistics, work_left

USERS, ITEMS = np.array([2, 9, 17]), np.array([4, 11])
Values = dict[str, Tensor]


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(num_users=40, num_items=40), 1)[0]


@pytest.fixture(scope="module")
def trained(part: Part) -> Values:
    """Weights of an Original that knows its pairs."""
    settings = FitSettings(max_epochs=40, patience=40, batch_size=64, learning_rate=0.02)
    return fitted(part, model=build_model(part), settings=settings).parameters


def original(part: Part, trained: Values) -> Backbone:
    model = build_model(part)
    set_parameters(model, trained)
    return model


def pairs_request(part: Part, count: int = 16) -> Request:
    train = part.shard.train
    chosen = np.linspace(0, len(train) - 1, count).astype(int)
    return make_request(pair_users=train.users[chosen], pair_items=train.items[chosen])


REQUESTS = {
    "user": lambda part: make_request(users=USERS),
    "item": lambda part: make_request(items=ITEMS),
    "interaction": pairs_request,
}
every_regime = pytest.mark.parametrize("regime", list(REQUESTS))


def settings_for(**changes: Any) -> TRUSettings:
    return TRUSettings(**{"batch_size": 32, "reverse_steps": 4, "tolerance": 0.0, "max_quality_loss": 1.0} | changes)


@pytest.fixture
def never_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Statistics, "unsettled", lambda *_, **__: frozenset({"forget", "residue"}))


def changed_rows(before: Values, model: Backbone, table: str) -> list[int]:
    return (before[table] != parameter_values(model)[table]).any(dim=1).nonzero().flatten().tolist()


# ---- What may move


@every_regime
def test_only_touched_rows_move(part: Part, trained: Values, never_settled: None, regime: str) -> None:
    model, problem = original(part, trained), problem_of(part, REQUESTS[regime](part))
    state = unlearn(model, problem, settings_for())
    assert state.epoch == 2
    request, forget = problem.request, problem.forget
    touched = set(request.users.tolist()) | set(forget.users.tolist())
    assert set(changed_rows(trained, model, "user_table")) <= touched
    pairs = make_probe(problem, seed=1).forgotten.pairs
    asked = set(pairs.first.tolist()) | set(pairs.second.tolist()) if regime != "item" else set()
    asked |= set(touched_items(problem).tolist())
    moved = set(changed_rows(trained, model, "item_table"))
    assert moved <= asked | set(request.items.tolist())
    assert (len(moved - set(request.items.tolist())) > 0) == (regime != "item")
    after = parameter_values(model)
    for name in after:
        if name not in model.anatomy.tables:
            assert torch.equal(after[name], trained[name]), name
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_without_steps_and_replaced_rows_the_sequence_is_structural_removal(part: Part, trained: Values) -> None:
    problem = problem_of(part, make_request(users=USERS, items=ITEMS))
    model, by_hand = original(part, trained), original(part, trained)
    unlearn(model, problem, settings_for(reverse_steps=0, replace_rows="none", replace_items="none", seed=3))
    reset_subject_rows(by_hand, part.shard, problem.request, seed=fresh_seed(3))
    assert_same(parameter_values(model), parameter_values(by_hand))


def test_rows_of_subjects_stay_only_where_asked(part: Part, trained: Values) -> None:
    problem = problem_of(part, make_request(users=USERS))
    for resets in (True, False):
        model = original(part, trained)
        unlearn(model, problem, settings_for(reverse_steps=0, reset_subjects=resets))
        assert changed_rows(trained, model, "user_table") == (USERS.tolist() if resets else [])


def test_shared_modules_move_by_their_own_step_size(part: Part, trained: Values, never_settled: None) -> None:
    problem = problem_of(part, pairs_request(part))
    model = original(part, trained)
    unlearn(model, problem, settings_for(reverse_steps=1, isolation=False, shared_learning_rate=1e-3))
    after = parameter_values(model)
    shifts = {name: float((after[name] - trained[name]).abs().max()) for name in after if name.startswith("project")}
    # The first step of Adam is the step size in every entry with a gradient.
    assert all(shift == pytest.approx(1e-3, rel=1e-3) for shift in shifts.values())


def test_rows_step_in_units_of_their_table(part: Part, trained: Values, never_settled: None) -> None:
    problem = problem_of(part, make_request(users=USERS))
    scale = float(trained["item_table"].square().mean().sqrt())
    for rate in (0.08, 0.01):
        model = original(part, trained)
        unlearn(model, problem, settings_for(reverse_steps=1, reverse_learning_rate=rate, replace_items="none"))
        shift = (parameter_values(model)["item_table"] - trained["item_table"]).abs().max()
        assert float(shift) == pytest.approx(rate * scale, rel=1e-3)


def test_an_excluded_module_does_not_move(part: Part, trained: Values, never_settled: None) -> None:
    problem = problem_of(part, make_request(users=USERS))
    model = original(part, trained)
    unlearn(model, problem, settings_for(excluded_modules=("item_table",), replace_items="none"))
    assert changed_rows(trained, model, "item_table") == []
    with pytest.raises(ConfigError, match="no_such"):
        unlearn(model, problem, settings_for(excluded_modules=("no_such",)))


def test_the_mask_never_holds_a_table_of_touched_rows_still(part: Part, never_settled: None) -> None:
    """LightGCN has two modules; half of them is one."""
    model, problem = build_model(part, "lightgcn"), problem_of(part, pairs_request(part))
    before = parameter_values(model)
    unlearn(
        model,
        problem,
        settings_for(reverse_steps=1, replace_rows="none", replace_items="none", module_share=0.5),
    )
    assert changed_rows(before, model, "user_table")
    assert changed_rows(before, model, "item_table")


def test_repair_takes_the_retained_loss_into_the_step(
    part: Part, trained: Values, never_settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On retained pairs around what is touched: no forgotten pair is among them."""
    seen: list[tuple[int, int]] = []
    whole = reverse._retained_loss

    def watched(model: Backbone, problem: Problem, batch: Any) -> Tensor:
        seen.extend(zip(batch.users.tolist(), batch.positives.tolist(), strict=True))
        return whole(model, problem, batch)

    monkeypatch.setattr(reverse, "_retained_loss", watched)
    problem, ends = problem_of(part, pairs_request(part)), []
    for repair in (False, True):
        model = original(part, trained)
        unlearn(model, problem, settings_for(repair=repair))
        assert bool(seen) == repair
        ends.append(parameter_values(model)["user_table"])
    assert not torch.equal(*ends)
    retained = set(zip(problem.retain.users.tolist(), problem.retain.items.tolist(), strict=True))
    assert set(seen) <= retained


# ---- When it stops


@pytest.mark.parametrize(
    ("forget", "residue", "noise", "unsettled"),
    [
        (0.5, 0.5, 0.0, set()),
        (0.54, 0.5, 0.0, {"forget"}),
        (0.46, 0.5, 0.0, {"forget"}),
        (0.5, 0.53, 0.0, {"residue"}),
        (0.54, 0.44, 0.0, {"forget", "residue"}),
        (0.53, 0.48, 0.0, set()),
        (0.6, 0.4, 0.1, set()),
    ],
)
def test_both_statistics_must_be_near_a_half_from_either_side(
    forget: float, residue: float, noise: float, unsettled: set[str]
) -> None:
    statistics = Statistics(forget=forget, residue=residue, forget_noise=noise, residue_noise=noise)
    start = {"forget_auc": 0.7, "residue_auc": 0.7}
    assert statistics.unsettled(0.02 + 1e-9, start=start) == unsettled


def test_what_the_removal_of_rows_left_low_is_not_lifted() -> None:
    statistics = Statistics(forget=0.45, residue=0.41, forget_noise=0.0, residue_noise=0.0)
    starts = {"residue": {"forget_auc": 0.46, "residue_auc": 0.44}, "forget": {"forget_auc": 0.49, "residue_auc": 0.42}}
    for name, start in starts.items():
        assert statistics.unsettled(0.02, start=start) == {name}
        assert work_left(statistics, start, settings_for(tolerance=0.02)) == {name}


def test_a_settled_loss_goes_on_beside_the_other_and_one_without_weight_never() -> None:
    statistics = Statistics(forget=0.7, residue=0.7, forget_noise=0.0, residue_noise=0.0)
    start = statistics.row()
    assert work_left(statistics, start, settings_for()) == {"forget", "residue"}
    assert work_left(statistics, start, settings_for(forget_weight=0.0)) == {"residue"}
    half = replace(statistics, residue=0.5)
    assert work_left(half, start, settings_for()) == {"forget", "residue"}
    assert work_left(half, start, settings_for(forget_weight=0.0)) == set()
    assert work_left(replace(half, forget=0.5), start, settings_for()) == set()


def test_rounds_end_when_settled_or_when_steps_run_out(
    part: Part, trained: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, looks = problem_of(part, pairs_request(part)), []

    def settled(self: Statistics, tolerance: float, *, start: Mapping[str, float]) -> frozenset[str]:
        looks.append(tolerance)
        return frozenset({"forget"} if len(looks) < 3 else ())

    monkeypatch.setattr(Statistics, "unsettled", settled)
    state = unlearn(original(part, trained), problem, settings_for(reverse_steps=9, tolerance=0.07))
    assert (state.epoch, looks) == (2, [0.07] * 3)
    monkeypatch.setattr(Statistics, "unsettled", lambda *_, **__: frozenset({"forget", "residue"}))
    steps: list[int] = []
    step = reverse._step
    monkeypatch.setattr(reverse, "_step", lambda *a, **k: (steps.append(1), step(*a, **k))[1])
    state = unlearn(original(part, trained), problem, settings_for(reverse_steps=5, round_steps=2))
    assert (state.epoch, len(steps), len(state.history)) == (3, 5, 4)
    assert [row["epoch"] for row in state.history] == [0, 1, 2, 3]


@pytest.mark.parametrize("backbone", ["mgcn", "mig_gt"])
def test_the_first_step_after_a_look_goes_back_from_the_looks_vectors(
    backbone: str, part: Part, never_settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, given = reverse._step, []

    def computing(*a: Any, vectors: Any) -> Any:
        given.append(vectors is not None)
        return step(*a, vectors=None)

    found = []
    for how in (step, computing):
        monkeypatch.setattr(reverse, "_step", how)
        model = build_model(part, backbone, dtype=torch.float64)
        unlearn(model, problem_of(part, pairs_request(part)), settings_for(reverse_steps=5, round_steps=2))
        found.append(parameter_values(model))
    assert given == [True, False, True, False, True]
    for name, values in found[0].items():
        torch.testing.assert_close(values, found[1][name])


def test_a_round_that_costs_too_much_is_taken_back_and_is_the_last(
    part: Part, trained: Values, never_settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, hits = problem_of(part, pairs_request(part)), [0.4, 0.39, 0.35, 0.4]
    monkeypatch.setattr(stop_rule, "_hits", lambda *_: hits[len(looked)])
    looked: list[int] = []
    look_at = tru.look_at
    monkeypatch.setattr(tru, "look_at", lambda *a: (look_at(*a), looked.append(1))[0])
    model, kept = original(part, trained), original(part, trained)
    rounds = {}

    def keep(state: TrainingState) -> None:
        rounds[state.epoch] = state.parameters

    state = unlearn(model, problem, settings_for(reverse_steps=8, max_quality_loss=0.1), on_epoch=keep)
    assert (state.epoch, state.best_epoch, [row["valid_hits20"] for row in state.history]) == (2, 1, hits[:3])
    assert_same(parameter_values(model), rounds[1])
    resumed = unlearn(kept, problem, settings_for(reverse_steps=8, max_quality_loss=0.1), state=stored(state))
    assert (resumed.epoch, len(resumed.history)) == (2, 3)
    assert_same(parameter_values(kept), rounds[1])


def test_deleted_items_need_no_step(part: Part, trained: Values) -> None:
    """Their rows and edges are gone, and their buyers' rows are replaced whole."""
    problem = problem_of(part, make_request(items=ITEMS))
    state = unlearn(original(part, trained), problem, settings_for())
    assert (state.epoch, state.history[0]["forget_auc"], state.history[0]["residue_auc"]) == (0, 0.5, 0.5)


def test_subjects_whose_pairs_left_earlier_lose_their_rows_and_nothing_else_moves(part: Part, trained: Values) -> None:
    gone = np.setdiff1d(np.arange(40), part.shard.train.users)
    request = make_request(users=gone) if len(gone) else make_request(items=cold_items(part))
    problem = problem_of(part, request)
    model, by_hand = original(part, trained), original(part, trained)
    state = unlearn(model, problem, settings_for())
    reset_subject_rows(by_hand, part.shard, request, seed=fresh_seed(0))
    assert (problem.num_forget, state.history) == (0, [])
    assert_same(parameter_values(model), parameter_values(by_hand))


def cold_items(part: Part) -> np.ndarray:
    found = np.setdiff1d(np.arange(40), part.shard.train.items)
    assert len(found)
    return found


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_shared_modules_move_by_themselves_only_where_no_table_holds_items(
    part: Part, never_settled: None, backbone: str
) -> None:
    model, problem = build_model(part, backbone), problem_of(part, make_request(users=USERS))
    before = parameter_values(model)
    unlearn(model, problem, settings_for(isolation=False))
    moved = {name for name, value in parameter_values(model).items() if not torch.equal(value, before[name])}
    has_table = "item" in model.anatomy.tables.values()
    assert has_table == (not moved - set(model.anatomy.tables))
    before = parameter_values(model)
    unlearn(model, problem, settings_for(isolation=False, shared_learning_rate=0.0))
    moved = {name for name, value in parameter_values(model).items() if not torch.equal(value, before[name])}
    assert not moved - set(model.anatomy.tables)


# ---- What is forgotten and what is kept


def test_forgotten_interactions_come_to_retraining_s_level_and_the_rest_is_kept() -> None:
    part = shards_of(tiny_world(num_users=80, num_items=160), 1)[0]
    model, retrained = build_model(part), build_model(part)
    settings = FitSettings(max_epochs=30, patience=30, batch_size=128, learning_rate=0.03)
    trained = fitted(part, model=model, settings=settings).parameters
    problem = problem_of(part, pairs_request(part, 60))
    fit(retrained, problem.graph_without, part.shard, problem.retain, settings, valid=problem.valid)
    wanted, found = evaluate(retrained, problem), {}
    set_parameters(model, trained)
    algorithm_one(model, problem, AlgorithmOneSettings(batch_size=128, epochs=1))
    found["printed"] = evaluate(model, problem)
    set_parameters(model, trained)
    unlearn(model, problem, TRUSettings(batch_size=128, max_quality_loss=0.1))
    found["sequence"] = evaluate(model, problem)
    assert found["printed"].forget.recall > wanted.forget.recall + 0.15
    assert abs(found["sequence"].forget.recall - wanted.forget.recall) < 0.08
    assert found["sequence"].test.recall > wanted.test.recall - 0.05


def test_items_that_only_deleted_users_had_together_are_as_alike_as_after_retraining() -> None:
    part = shards_of(tiny_world(num_users=80, num_items=160), 1)[0]
    settings = FitSettings(max_epochs=20, patience=20, batch_size=128, learning_rate=0.03)
    model, retrained = build_model(part), build_model(part)
    trained = fitted(part, model=model, settings=settings).parameters
    problem = problem_of(part, make_request(users=np.arange(0, 80, 4)))
    fit(retrained, problem.graph_without, part.shard, problem.retain, settings, valid=problem.valid)
    probe = make_probe(problem, seed=99)

    def residue(model: Backbone) -> float:
        _, items = model.embeddings(problem.graph_without)
        return measure_residue(items.detach(), probe.forgotten).overall

    found = []
    for steps in (0, 16):
        set_parameters(model, trained)
        unlearn(model, problem, settings_for(reverse_steps=steps, tolerance=0.02, replace_items="none"))
        found.append(residue(model))
    assert found[0] > residue(retrained) + 0.05
    assert found[1] == pytest.approx(residue(retrained), abs=0.03)


@pytest.mark.parametrize("backbone", list(BACKBONES))
@pytest.mark.parametrize(
    "request_",
    [
        make_request(users=USERS, items=ITEMS),
        make_request(users=np.array([3]), items=np.array([7]), pair_users=np.array([5]), pair_items=np.array([0])),
        make_request(items=np.array([7])),
    ],
    ids=["users-and-items", "one-of-each", "one-item"],
)
def test_every_backbone_unlearns_any_request_and_counts_its_pairs(part: Part, backbone: str, request_: Request) -> None:
    train = part.shard.train
    if len(request_.pair_users):
        request_ = make_request(
            users=request_.users, items=request_.items, pair_users=train.users[-1:], pair_items=train.items[-1:]
        )
    model, problem = build_model(part, backbone), problem_of(part, request_)
    state = unlearn(model, problem, settings_for())
    assert state.history[-1]["num_rows_visited"] == problem.num_forget
    assert all(torch.isfinite(value).all() for value in parameter_values(model).values())


def test_a_forgotten_pair_that_nothing_takes_on_fails_the_run(
    part: Part, trained: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(part, pairs_request(part))
    whole = tru.touched_users
    monkeypatch.setattr(tru, "touched_users", lambda problem: whole(problem)[1:])
    with pytest.raises(AuditError, match="of 16 requested"):
        unlearn(original(part, trained), problem, settings_for())


def test_a_gradient_that_is_not_finite_fails_the_run(part: Part, trained: Values) -> None:
    model, problem = original(part, trained), problem_of(part, pairs_request(part))
    model.get_parameter("item_table").data[3] = math.nan
    with pytest.raises(NumericsError):
        unlearn(model, problem, settings_for())


# ---- Going on after an interruption


@every_regime
@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(
    part: Part, trained: Values, never_settled: None, regime: str, stop: int
) -> None:
    problem = problem_of(part, REQUESTS[regime](part))
    settings = settings_for(reverse_steps=5, repair=True, shared_learning_rate=1e-3)
    saved: list[TrainingState] = []

    def save(current: TrainingState) -> None:
        if current.epoch == stop:
            saved.append(stored(current))

    whole_model, model = original(part, trained), original(part, trained)
    whole = unlearn(whole_model, problem, settings, on_epoch=save)
    resumed = unlearn(model, problem, settings, state=saved[0])
    for group in ("parameters", "moments", "best"):
        assert_same(getattr(resumed, group), getattr(whole, group))
    assert_same(parameter_values(model), parameter_values(whole_model))
    assert resumed.history == whole.history
    assert len(whole.history) == 4


def test_runs_repeat_to_the_bit_and_seeds_differ(part: Part, trained: Values) -> None:
    problem, ends = problem_of(part, pairs_request(part)), []
    for seed in (1, 1, 2):
        model = original(part, trained)
        unlearn(model, problem, settings_for(seed=seed))
        ends.append(parameter_values(model))
    assert_same(ends[0], ends[1])
    assert not torch.equal(ends[0]["user_table"], ends[2]["user_table"])
