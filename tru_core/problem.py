"""What every unlearning method is given, and how every system is measured on it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.collective import Collective, all_sum_number
from tru_core.errors import AuditError, PolicyError
from tru_core.fit import validation_recall
from tru_core.graph import Graph, ItemNeighbours, build_graph
from tru_core.interactions import Pairs, Request, Shard, split_by_request, without_subjects
from tru_core.ranking import RankingMetrics, rank_metrics


@dataclass(frozen=True)
class Problem:
    """A request against a data set, as one worker sees it.

    Attributes:
        shard: This worker's users and their pairs.
        request: What is to be forgotten.
        forget, retain: The training pairs parted by the request: D_f and D_r.
        num_forget: Pairs to forget over all workers.
        graph_with: The graph of all training pairs: where the reverse step works.
        graph_without: The graph of the retained pairs: where repair and evaluation work.
        valid, test: Held-out pairs without deleted users and items: one list for all systems.
    """

    shard: Shard
    request: Request
    forget: Pairs
    retain: Pairs
    num_forget: int
    graph_with: Graph
    graph_without: Graph
    valid: Pairs
    test: Pairs


def make_problem(
    shard: Shard,
    request: Request,
    item_neighbours: Mapping[str, ItemNeighbours],
    collective: Collective,
    *,
    dtype: torch.dtype = torch.float32,
    expected_num_forget: int | None = None,
) -> Problem:
    """Part the training pairs by the request and build both graphs.

    Args:
        expected_num_forget: Pairs that the request names, counted by someone else (the planner of a
            deletion); None when the request was drawn from the data itself.

    Raises:
        AuditError: If the workers together hold another number of pairs to forget than expected.
        PolicyError: If it names all of them.
    """
    forget, retain = split_by_request(shard.train, shard, request)
    num_forget = int(all_sum_number(len(forget), collective))
    num_retain = int(all_sum_number(len(retain), collective))
    if expected_num_forget is not None and num_forget != expected_num_forget:
        raise AuditError(
            f"the workers hold {num_forget} of the {expected_num_forget} interactions that the request names. "
            "Nothing was changed. The snapshot and the request disagree: plan the batch again."
        )
    if not num_retain:
        raise PolicyError(
            "the request names every training interaction: nothing would be left to retain. Nothing was changed. "
            "Withdraw the model instead."
        )
    graph_with = build_graph(shard.train, shard, item_neighbours, collective, dtype=dtype)
    graph_without = graph_with
    if num_forget or len(request.items):
        graph_without = build_graph(
            retain, shard, item_neighbours, collective, deleted_items=request.items, dtype=dtype
        )
    return Problem(
        shard=shard,
        request=request,
        forget=forget,
        retain=retain,
        num_forget=num_forget,
        graph_with=graph_with,
        graph_without=graph_without,
        valid=without_subjects(shard.valid, shard, request),
        test=without_subjects(shard.test, shard, request),
    )


@dataclass(frozen=True)
class Outcome:
    """How a model does after a request, on the graph without the deleted edges.

    Attributes:
        test: Test pairs of retained users and items, retained training pairs masked.
        valid: The same for validation pairs.
        forget: The forgotten training pairs themselves, retained training pairs masked and the
            forgotten ones *not* masked: high means that the model still recommends what it was
            asked to forget; the level of never-seen pairs is that of ``valid``.
    """

    test: RankingMetrics
    valid: RankingMetrics
    forget: RankingMetrics


def measure(
    users: Float[Tensor, "user dim"], items: Float[Tensor, "item dim"], problem: Problem, collective: Collective
) -> Outcome:
    """Measure output vectors. Every system is measured with the same lists and masks.

    Args:
        users, items: Output vectors of this worker's users and of all items.
    """
    return Outcome(
        test=rank_metrics(users, items, problem.test, problem.retain, collective),
        valid=rank_metrics(users, items, problem.valid, problem.retain, collective),
        forget=rank_metrics(users, items, problem.forget, problem.retain, collective),
    )


def evaluate(model: Backbone, problem: Problem, *, edges_in: bool = False) -> Outcome:
    """Measure a model.

    Args:
        edges_in: Leave the deleted edges in the graph: what Original is before anything is done.
    """
    graph = problem.graph_with if edges_in else problem.graph_without
    with torch.no_grad():
        users, items = model.embeddings(graph)
    return measure(users, items, problem, graph.collective)


def recall_without(model: Backbone, problem: Problem) -> float:
    """Validation recall@20 of everybody who stays, on the graph without the deleted edges: what quality costs."""
    return validation_recall(model, problem.graph_without, problem.valid, problem.retain)


def candidate_score(valid_recall: float, forget_recall: float) -> float:
    """Judge a candidate from validation and forget pairs only: higher is better.

    ``valid - |forget - valid|``: useful, and forgotten pairs are recommended as often as pairs that
    the model never saw. Both sides count: fewer than never seen is as visible as more.
    """
    return valid_recall - abs(forget_recall - valid_recall)
