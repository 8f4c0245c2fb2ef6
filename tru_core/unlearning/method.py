"""What an unlearning method is: the Original, what to forget and what to retain in; a candidate out.

A method may be one model (most) or several whose scores are added (shards): what everybody is measured on
is therefore a candidate's output vectors on the graph without the deleted edges. A score is their inner product.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.fit import FitSettings, OnEpoch, TrainingState
from tru_core.interactions import IntArray
from tru_core.problem import Problem
from tru_core.settings import Settings


@runtime_checkable
class NewModel(Protocol):
    """Builds the untrained backbone of the job on this worker."""

    def __call__(self, seed: int, *, user_rows: IntArray | None = None) -> Backbone:
        """Build it.

        Args:
            seed: Decides every initial value.
            user_rows: int64 [user], vocabulary rows of the users that it holds, ascending; None: all of this worker's.
        """
        ...


@dataclass(frozen=True)
class Tools:
    """What a method may need besides the Original and the problem.

    Attributes:
        new_model: Builds the untrained backbone of the job on this worker.
        fit: How the Original was trained: schedule, batch size, seed.
        state: Where an interrupted run of a method that can resume stood; None starts afresh.
        on_epoch: Called on every worker after each epoch of a method that can resume.
    """

    new_model: NewModel
    fit: FitSettings
    state: TrainingState | None = None
    on_epoch: OnEpoch | None = None


@dataclass(frozen=True)
class Candidate:
    """What a method gives.

    Attributes:
        users, items: Output vectors of this worker's users and of all items, without the deleted edges.
        model: The single model that gives them; None where several models' scores are added.
        history: One row of numbers for each epoch or step that the method reports, the same on every worker.
        seconds: Wall time of the method itself, an interrupted run's earlier part included, ``seconds_before`` not.
        seconds_before: The part of the method's time that a deletion does not cost: what is prepared once, before
            any request (clusters of users, models of shards that the request leaves alone).
        best_epoch: The epoch or round whose model it is; None where the method keeps the last one.
    """

    users: Float[Tensor, "user dim"]
    items: Float[Tensor, "item dim"]
    model: Backbone | None
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    seconds_before: float = 0.0
    best_epoch: int | None = None


@dataclass(frozen=True)
class Method:
    """A way to forget, by name in :data:`tru_core.unlearning.methods.METHODS`.

    Attributes:
        title: What a table calls it.
        settings_type: Its settings, with a reason for each default.
        forget: The method itself. May change the Original that it is given.
        has_one_model: Whether a candidate is one model, which can be published as a version; False where the scores
            of several are added.
    """

    title: str
    settings_type: type[Settings]
    forget: Callable[[Backbone, Problem, Any, Tools], Candidate]
    has_one_model: bool = True


def candidate_of(
    model: Backbone,
    problem: Problem,
    history: list[dict[str, float]] | None = None,
    *,
    best_epoch: int | None = None,
) -> Candidate:
    """Take a single model's output vectors on the graph without the deleted edges."""
    with torch.no_grad():
        users, items = model.embeddings(problem.graph_without)
    return Candidate(users=users, items=items, model=model, history=history or [], best_epoch=best_epoch)


def run_method(method: Method, original: Backbone, problem: Problem, settings: Settings, tools: Tools) -> Candidate:
    """Run a method and take its time, less what it prepared before any request. The Original may be changed by it."""
    before = 0.0 if tools.state is None else tools.state.seconds
    started = time.perf_counter()
    candidate = method.forget(original, problem, settings, tools)
    seconds = before + time.perf_counter() - started - candidate.seconds_before
    return replace(candidate, seconds=seconds)
