"""Ordinary training: Adam by hand, the schedule, early stopping, and a run that goes on where it stood."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core import fit as fit_module
from tru_core.artifact import pack_tensors, unpack_tensors
from tru_core.backbones import Backbone
from tru_core.errors import DataError, NumericsError
from tru_core.fit import (
    FitSettings,
    TrainingState,
    fit,
    make_adam,
    parameter_values,
    restore_adam,
    set_parameters,
    train_batches,
)
from tru_core.graph import Graph
from tru_core.interactions import make_pairs
from tru_core.sampling import Batch
from tru_core.testing.models import batches_of, build_model, fitted, train_graph
from tru_core.testing.worlds import Part, shards_of, tiny_world


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(), 1)[0]


def settings_for(max_epochs: int, **changes: float) -> FitSettings:
    values = {"max_epochs": max_epochs, "patience": 100, "batch_size": 48, "learning_rate": 0.02}
    return FitSettings(**{**values, **changes})


def stored(state: TrainingState) -> TrainingState:
    """A state after it went through files."""
    kinds = {"parameters": state.parameters, "moments": state.moments, "best": state.best}
    body = pack_tensors({f"{kind}/{name}": value for kind, group in kinds.items() for name, value in group.items()})
    found = unpack_tensors(body, key="state")
    groups = {
        kind: {n.removeprefix(f"{kind}/"): value for n, value in found.items() if n.startswith(f"{kind}/")}
        for kind in kinds
    }
    return replace(state, history=[dict(row) for row in state.history], **groups)


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_steps_are_those_of_adam_by_hand(part: Part) -> None:
    """Gradients are of one batch each: none is left over from the step before."""
    model, by_hand, graph = build_model(part), build_model(part), train_graph(part)
    batches, optimizer = batches_of(part), make_adam(model, 0.01)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in by_hand.named_parameters()}
    for step, batch in enumerate(batches[:3], start=1):
        loss = fit_module.train_step(model, graph, batch, optimizer)
        parameters = dict(by_hand.named_parameters())
        expected = by_hand.loss(graph, batch).total()
        gradients = torch.autograd.grad(expected, list(parameters.values()))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            mean, square = moments[name]
            mean.mul_(0.9).add_(gradient, alpha=0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
            parameter.data.sub_(update, alpha=0.01)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, by_hand.get_parameter(name), rtol=1e-9, atol=1e-11)


def test_an_epoch_trains_on_every_pair_once_and_reports_the_mean_loss(part: Part) -> None:
    model, graph = build_model(part), train_graph(part)
    batches = batches_of(part)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    loss, num_rows = train_batches(model, graph, batches, optimizer)
    assert num_rows == len(part.shard.train)
    expected = np.mean([model.loss(graph, batch).total().item() for batch in batches])
    assert loss == pytest.approx(expected, rel=1e-6)


def test_fit_sees_every_pair_in_every_epoch(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = fit_module.train_step

    def spy(model: Backbone, graph: Graph, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        seen.extend((batch.users * 30 + batch.positives).tolist())
        return original(model, graph, batch, optimizer)

    monkeypatch.setattr(fit_module, "train_step", spy)
    fitted(part, model=build_model(part), settings=settings_for(3))
    assert sorted(seen) == sorted(part.shard.train.keys.tolist() * 3)


@pytest.mark.parametrize(("floor", "expected"), [(0.0, [0.5, 0.25, 0.125]), (0.2, [0.5, 0.25, 0.2])])
def test_the_step_size_decays_as_the_settings_say(
    floor: float, expected: list[float], part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def spy(
        model: Backbone, graph: Graph, batches: Iterable[Batch], optimizer: torch.optim.Optimizer
    ) -> tuple[float, int]:
        rates.extend({group["lr"] for group in optimizer.param_groups})
        return 0.5, 0

    monkeypatch.setattr(fit_module, "train_batches", spy)
    settings = settings_for(3, learning_rate=0.5, decay_factor=0.25, decay_epochs=2, learning_rate_floor=floor)
    graph, train = train_graph(part), part.shard.train
    monkeypatch.setattr(fit_module, "adam_moments", lambda _: {"steps": torch.tensor([0])})
    fit(build_model(part), graph, part.shard, train, settings, valid=part.shard.valid)
    assert rates == pytest.approx(expected)


def recalls(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    script = iter(values)
    monkeypatch.setattr(fit_module, "validation_recall", lambda *_: next(script))


def test_training_stops_when_recall_no_longer_rises_and_keeps_the_best_epoch(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalls(monkeypatch, [0.1, 0.3, 0.3, 0.2, 0.29, 0.9])
    model, graph = build_model(part), train_graph(part)
    kept: list[dict[str, Tensor]] = []
    state = fit(
        model,
        graph,
        part.shard,
        part.shard.train,
        settings_for(50, patience=3),
        valid=part.shard.valid,
        on_epoch=lambda s: kept.append(s.parameters),
    )
    assert (state.epoch, state.best_epoch, state.best_score) == (5, 2, 0.3)
    assert_same(parameter_values(model), kept[1])
    assert_same(state.best, kept[1])
    assert not torch.equal(kept[1]["item_table"], kept[4]["item_table"])
    assert [row["valid_recall20"] for row in state.history] == [0.1, 0.3, 0.3, 0.2, 0.29]


def test_training_stops_at_the_last_epoch(part: Part) -> None:
    state = fitted(part, model=build_model(part), settings=settings_for(4))
    assert state.epoch == len(state.history) == 4
    assert state.optimizer_steps == sum(len(batches_of(part, batch_size=48, epoch=epoch)) for epoch in range(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(part: Part, stop: int, dtype: torch.dtype) -> None:
    saved: list[TrainingState] = []
    graph, shard, settings = train_graph(part, dtype=dtype), part.shard, settings_for(5)

    def save(state: TrainingState) -> None:
        if state.epoch == stop:
            saved.append(stored(state))

    whole_model, model = build_model(part, dtype=dtype), build_model(part, dtype=dtype, seed=99)
    whole = fit(whole_model, graph, shard, shard.train, settings, valid=shard.valid, on_epoch=save)
    resumed = fit(model, graph, shard, shard.train, settings, valid=shard.valid, state=saved[0])
    for group in ("parameters", "moments", "best"):
        assert_same(getattr(resumed, group), getattr(whole, group))
    assert_same(parameter_values(model), parameter_values(whole_model))
    assert resumed.history == whole.history
    assert resumed.best_epoch == whole.best_epoch
    assert resumed.optimizer_steps == whole.optimizer_steps


def test_a_state_that_was_handed_out_does_not_change_later(part: Part) -> None:
    handed: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def take(state: TrainingState) -> None:
        handed.append((state.parameters, {name: value.clone() for name, value in state.parameters.items()}))

    graph, shard = train_graph(part), part.shard
    fit(build_model(part), graph, shard, shard.train, settings_for(3), valid=shard.valid, on_epoch=take)
    for given, copy in handed:
        assert_same(given, copy)


def test_nothing_to_train_on_is_an_error(part: Part) -> None:
    nothing = make_pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), num_items=30)
    with pytest.raises(DataError, match="no training interaction left"):
        fit(build_model(part), train_graph(part), part.shard, nothing, settings_for(1), valid=nothing)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_fails_the_run_before_anything_is_saved(part: Part, bad: float) -> None:
    model = build_model(part)
    model.get_parameter("item_table").data[3] = bad
    states: list[TrainingState] = []
    with pytest.raises(NumericsError, match="Lower the learning rate"):
        fit(
            model,
            train_graph(part),
            part.shard,
            part.shard.train,
            settings_for(2),
            valid=part.shard.valid,
            on_epoch=states.append,
        )
    assert not states


def test_values_of_another_model_are_refused(part: Part) -> None:
    model = build_model(part)
    values = parameter_values(model)
    with pytest.raises(DataError, match="item_table"):
        set_parameters(model, {name: value for name, value in values.items() if name != "item_table"})
    with pytest.raises(DataError, match="unknown"):
        set_parameters(model, values | {"unknown": torch.zeros(1)})
    with pytest.raises(DataError, match=r"item_table: expected shape \(30, 6\), found \(31, 6\)"):
        set_parameters(model, values | {"item_table": torch.zeros(31, 6)})


@pytest.mark.parametrize(
    "wrong",
    [{"max_epochs": 0}, {"learning_rate": 0}, {"decay_factor": 1.1}, {"learning_rate": float("nan")}, {"epochs": 3}],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FitSettings(**wrong)  # type: ignore[arg-type]


def test_a_checkpoint_that_lacks_optimizer_state_is_not_resumed(part: Part) -> None:
    state = fitted(part, model=build_model(part), settings=settings_for(2))
    rest = {name: value for name, value in state.moments.items() if name != "exp_avg_sq/user_table"}
    fewer = state.moments | {"steps": state.moments["steps"][:-1]}
    for moments, words in ((rest, "lacks exp_avg_sq of parameter user_table"), (fewer, "optimizer state of")):
        with pytest.raises(DataError, match=words) as caught:
            restore_adam(make_adam(build_model(part), 0.02), moments)
        assert caught.value.exit_code == 3
