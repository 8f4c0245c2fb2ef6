"""MultiDelete: part the modalities of deleted pairs, keep everything else as the Original has it (ECCV 2024).

Three mean squared errors, with the weights that the paper of TRU gives them (A.1 of arXiv:2604.02183v1: 1, 1, 1):

* *Decoupling*: the fused vector of a deleted pair goes where the Original has the user paired with a random item.
* *Multimodal retention*: the fused vector of a retained pair stays where the Original has it.
* *Unimodal retention*: so do its vectors in each modality, read out together (``readout = concat``, stated).

RECONSTRUCTED, since the source has images with captions and no graph: a pair is a user and an item; its fused vector
is both output vectors side by side, its read-out the vectors of all branches (id and modalities) of both; the random
item is the pair's negative, never one that the user had. Decoupling works on the graph with the deleted edges,
retention on that without; each holds the Original on the same graph. Each step takes a batch to forget and a batch
to retain. Rows of deleted subjects stay as the steps leave them.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.fit import make_adam
from tru_core.problem import Problem
from tru_core.sampling import Batch, check_all_visited, iterate_batches
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.passes import plan_forget, plan_retain, step_on

Tables = tuple[Tensor, Tensor]


class MultiDeleteSettings(Settings):
    """Settings of MultiDelete.

    Attributes:
        decoupling_weight, multimodal_weight, unimodal_weight: The lambdas of the three terms, stated as 1.
        epochs: Passes over the pairs to forget; not stated. A pass of a 5 % request is two or three batches.
        learning_rate: Adam's step size; training's.
    """

    decoupling_weight: NonNegativeFloat = 1.0
    multimodal_weight: NonNegativeFloat = 1.0
    unimodal_weight: NonNegativeFloat = 1.0
    epochs: PositiveInt = 10
    learning_rate: PositiveFloat = 1e-3


def pair_vectors(
    tables: Tables, users: Int64[Tensor, " row"], items: Int64[Tensor, " row"]
) -> Float[Tensor, "row wide"]:
    """Lay the vectors of each pair's user and item side by side."""
    return torch.cat([tables[0].index_select(0, users), tables[1].index_select(0, items)], dim=1)


def mean_square(
    found: Float[Tensor, "row wide"], wanted: Float[Tensor, "row wide"], *, num_rows: int
) -> Float[Tensor, ""]:
    """This worker's share of the mean squared difference over a batch of ``num_rows`` rows and all columns."""
    return (found - wanted).square().sum() / (num_rows * found.shape[1])


def read_out(branches: Mapping[str, Tables]) -> Tables:
    """Lay the branches' vectors side by side, in the order of their names."""
    users, items = zip(*(branches[name] for name in sorted(branches)), strict=True)
    return torch.cat(users, dim=1), torch.cat(items, dim=1)


@dataclass(frozen=True)
class Views:
    """Vectors of users and items: fused with and without the deleted edges, and read out without them."""

    fused_with: Tables
    fused_without: Tables
    single_without: Tables


def views_of(model: Backbone, problem: Problem) -> Views:
    """Look at a model on both graphs."""
    return Views(
        fused_with=model.embeddings(problem.graph_with),
        fused_without=model.embeddings(problem.graph_without),
        single_without=read_out(model.branch_embeddings(problem.graph_without)),
    )


def loss_share(now: Views, before: Views, lost: Batch, kept: Batch, settings: MultiDeleteSettings) -> Float[Tensor, ""]:
    """This worker's share of the three weighted terms.

    Args:
        now, before: The model that learns, and the Original.
        lost, kept: A batch of pairs to forget and one of retained pairs.
    """
    found = pair_vectors(now.fused_with, lost.users, lost.positives)
    wanted = pair_vectors(before.fused_with, lost.users, lost.negatives)
    share = settings.decoupling_weight * mean_square(found, wanted, num_rows=lost.num_rows)
    for weight, new, old in (
        (settings.multimodal_weight, now.fused_without, before.fused_without),
        (settings.unimodal_weight, now.single_without, before.single_without),
    ):
        found = pair_vectors(new, kept.users, kept.positives)
        wanted = pair_vectors(old, kept.users, kept.positives)
        share = share + weight * mean_square(found, wanted, num_rows=kept.num_rows)
    return share


def forget(original: Backbone, problem: Problem, settings: MultiDeleteSettings, tools: Tools) -> Candidate:
    """Pull deleted pairs to random ones, and hold the rest, epoch after epoch."""
    with torch.no_grad():
        before = views_of(original, problem)
    optimizer, history = make_adam(original, settings.learning_rate), []
    for epoch in range(settings.epochs):
        forgotten = plan_forget(problem, tools.fit, epoch=epoch)
        retained = iterate_batches(plan_retain(problem, tools.fit, epoch=epoch), limit=forgotten.num_batches)
        num_visited = 0
        for lost, kept in zip(iterate_batches(forgotten), itertools.cycle(retained), strict=False):
            share = loss_share(views_of(original, problem), before, lost, kept, settings)
            step_on(original, share, optimizer, problem)
            num_visited += len(lost.users)
        num_visited = check_all_visited(num_visited, problem.num_forget, problem.graph_with.collective)
        history.append({"epoch": epoch + 1.0, "num_rows_visited": float(num_visited)})
    return candidate_of(original, problem, history)


MULTI_DELETE = Method(title="MultiDelete", settings_type=MultiDeleteSettings, forget=forget)
