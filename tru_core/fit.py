"""Ordinary training with early stopping on validation recall: what makes Original and Retrain.

Everything a run needs to go on after an interruption is in :class:`TrainingState`: parameters,
optimizer moments, the best parameters so far and where it stands. Since batches and negatives are
functions of the epoch, a resumed run ends with the same numbers as an unbroken one.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from tru_core.backbones.base import Backbone, complete_gradients
from tru_core.collective import Collective, all_sum_number
from tru_core.errors import DataError, NumericsError
from tru_core.graph import Graph
from tru_core.interactions import Pairs, Shard, item_degrees
from tru_core.ranking import rank_metrics
from tru_core.sampling import Batch, NegativePool, iterate_batches, make_pool, plan_epoch
from tru_core.settings import Settings

OnEpoch = Callable[["TrainingState"], None]


class FitSettings(Settings):
    """How to train. Defaults: the common settings of the paper (A.1) and MGCN's schedule.

    Attributes:
        max_epochs: Epochs at most.
        patience: Stop after so many epochs without a better validation recall@20.
        batch_size: Rows of a batch over all workers, on average.
        learning_rate: Adam's step size.
        decay_factor, decay_epochs: The step size is multiplied by ``decay_factor ** (epoch / decay_epochs)``.
        learning_rate_floor: The step size that the decay does not go below.
        seed: Decides initial values, batches and negatives.
    """

    max_epochs: PositiveInt = 1000
    patience: PositiveInt = 20
    batch_size: PositiveInt = 2048
    learning_rate: PositiveFloat = 1e-3
    decay_factor: float = Field(default=0.96, gt=0, le=1)
    decay_epochs: PositiveFloat = 50.0
    learning_rate_floor: NonNegativeFloat = 0.0
    seed: NonNegativeInt = 0


@dataclass
class TrainingState:
    """Where a run stands, after ``epoch`` whole epochs.

    Attributes:
        parameters: The current values by parameter name (this worker's rows of local tables).
        moments: Adam's ``exp_avg/<name>`` and ``exp_avg_sq/<name>``, and ``steps``, as :func:`adam_moments` gives.
        best: The values at the best validation recall so far.
        best_score: That recall@20; -1 before the first validation.
        history: One row of numbers for each epoch, the same on every worker.
    """

    epoch: int = 0
    optimizer_steps: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    seconds: float = 0.0
    parameters: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def parameter_values(model: Backbone) -> dict[str, Tensor]:
    """Copy the parameters' values by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _some(names: list[str]) -> str:
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "nothing"


def set_parameters(model: Backbone, values: Mapping[str, Tensor]) -> None:
    """Set every parameter.

    Raises:
        DataError: If names or shapes differ from the model's.
    """
    own = dict(model.named_parameters())
    missing, unexpected = sorted(set(own) - set(values)), sorted(set(values) - set(own))
    if missing or unexpected:
        raise DataError(
            f"the saved model is another backbone's: missing {_some(missing)}; unexpected {_some(unexpected)}. Nothing "
            "was changed. Use the backbone and settings that it was trained with."
        )
    for name, parameter in own.items():
        if parameter.shape != values[name].shape:
            raise DataError(
                f"parameter {name}: expected shape {tuple(parameter.shape)}, found {tuple(values[name].shape)} in the "
                "saved model. Check embedding_size, the feature columns and the data set."
            )
        parameter.data.copy_(values[name])


def parameter_groups(model: Backbone) -> list[dict[str, Any]]:
    """An optimizer group of its own for every parameter, with its name, in the model's order."""
    return [{"params": [parameter], "name": name} for name, parameter in model.named_parameters()]


def make_adam(model: Backbone, learning_rate: float) -> torch.optim.Adam:
    """Make Adam over every parameter, one group each."""
    return torch.optim.Adam(parameter_groups(model), lr=learning_rate, fused=True)


def adam_moments(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Take Adam's moments by ``<kind>/<parameter>``, and its ``steps``: int64 [parameter], in the groups' order.

    Steps differ between parameters where some were masked in some steps.
    """
    moments, steps = {}, []
    for group in optimizer.param_groups:
        state = optimizer.state.get(group["params"][0], {})
        steps.append(int(state.get("step", 0)))
        for kind in ("exp_avg", "exp_avg_sq"):
            if kind in state:
                moments[f"{kind}/{group['name']}"] = state[kind].clone()
    return moments | {"steps": torch.tensor(steps)}


def restore_adam(optimizer: torch.optim.Adam, moments: Mapping[str, Tensor]) -> None:
    """Put back what :func:`adam_moments` took.

    Raises:
        DataError: If the state of a parameter that was stepped is missing: going on without it would be another run.
    """
    if len(moments["steps"]) != len(optimizer.param_groups):
        raise DataError(
            f"the checkpoint has optimizer state of {len(moments['steps'])} parameters, the model has "
            f"{len(optimizer.param_groups)}. Nothing was changed. Resume with the job file that it was made with."
        )
    for group, steps in zip(optimizer.param_groups, moments["steps"].tolist(), strict=True):
        missing = [kind for kind in ("exp_avg", "exp_avg_sq") if f"{kind}/{group['name']}" not in moments]
        if steps and missing:
            raise DataError(
                f"the checkpoint lacks {missing[0]} of parameter {group['name']} after {steps} steps: training cannot "
                "go on where it stood. Nothing was changed. Delete the run's checkpoints to start it afresh."
            )
        if not missing:
            optimizer.state[group["params"][0]] = {
                "step": torch.tensor(float(steps)),
                "exp_avg": moments[f"exp_avg/{group['name']}"].clone(),
                "exp_avg_sq": moments[f"exp_avg_sq/{group['name']}"].clone(),
            }


def train_step(model: Backbone, graph: Graph, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
    """Take one descent step on a batch of the job; return this worker's share of the loss, detached."""
    optimizer.zero_grad(set_to_none=True)
    loss = model.loss(graph, batch).total()
    loss.backward()
    complete_gradients(model, graph.collective)
    optimizer.step()
    return loss.detach()


def train_batches(
    model: Backbone, graph: Graph, batches: Iterable[Batch], optimizer: torch.optim.Optimizer
) -> tuple[float, int]:
    """Take one step on each batch.

    Returns:
        The mean loss of the batches, the same on every worker, and the rows that this worker visited.

    Raises:
        NumericsError: If the loss is not finite.
    """
    total, num_batches, num_rows = torch.zeros((), dtype=torch.float64), 0, 0
    for batch in batches:
        total += train_step(model, graph, batch, optimizer)
        num_batches += 1
        num_rows += len(batch.users)
    mean = all_sum_number(float(total), graph.collective) / max(1, num_batches)
    if not math.isfinite(mean):
        raise NumericsError(
            f"the training loss is {mean} after {num_batches} steps of this epoch. The last checkpoint is kept and "
            "nothing was published. Lower the learning rate."
        )
    return mean, num_rows


def validation_recall(model: Backbone, graph: Graph, targets: Pairs, masked: Pairs) -> float:
    """Recall@20 of held-out pairs, training items masked."""
    with torch.no_grad():
        users, items = model.some_embeddings(graph, np.unique(targets.users))
    return rank_metrics(users, items, targets, masked, graph.collective).recall


def pool_for(pairs: Pairs, collective: Collective) -> NegativePool:
    """Make the negative pool of a training set: its items, minus each user's own."""
    return make_pool(pairs, item_degrees(pairs, collective))


def fit(
    model: Backbone,
    graph: Graph,
    shard: Shard,
    train: Pairs,
    settings: FitSettings,
    *,
    valid: Pairs,
    state: TrainingState | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingState:
    """Train until validation recall@20 stops rising; leave the model at its best epoch.

    Args:
        graph: The graph of ``train``.
        train: The pairs to train on: all for Original, the retained for Retrain.
        valid: Held-out pairs for early stopping.
        state: Where an interrupted run stood; None starts afresh.
        on_epoch: Called on every worker after each epoch, for checkpoints and progress.

    Returns:
        The final state. ``model`` holds ``state.best``.

    Raises:
        DataError: If there is nothing to train on.
        NumericsError: If the loss is not finite.
    """
    collective = graph.collective
    if not all_sum_number(len(train), collective):
        raise DataError("there is no training interaction left: nothing can be trained. Use another split or request.")
    state = TrainingState() if state is None else state
    optimizer = make_adam(model, settings.learning_rate)
    if state.parameters:
        set_parameters(model, state.parameters)
        restore_adam(optimizer, state.moments)
    pool = pool_for(train, collective)
    while state.epoch < settings.max_epochs and state.epoch - state.best_epoch < settings.patience:
        started = time.perf_counter()
        decayed = settings.learning_rate * settings.decay_factor ** (state.epoch / settings.decay_epochs)
        for group in optimizer.param_groups:
            group["lr"] = max(decayed, settings.learning_rate_floor)
        plan = plan_epoch(
            train, shard, pool, collective, batch_size=settings.batch_size, seed=settings.seed, epoch=state.epoch
        )
        loss, _ = train_batches(model, graph, iterate_batches(plan), optimizer)
        recall = validation_recall(model, graph, valid, train)
        state.epoch += 1
        state.parameters = parameter_values(model)
        state.moments = adam_moments(optimizer)
        state.optimizer_steps = int(state.moments["steps"].max())
        if recall > state.best_score:
            state.best_score, state.best_epoch, state.best = recall, state.epoch, state.parameters
        state.seconds += time.perf_counter() - started
        state.history.append({"epoch": state.epoch, "loss": loss, "valid_recall20": recall})
        if on_epoch is not None:
            on_epoch(state)
    if state.best:
        set_parameters(model, state.best)
    return state
