"""Requests that come in one after the other: a method applied to its own result, batch after batch.

A deployed system deletes every week, not once. What one batch costs in accuracy the next one starts from, so
errors may add up: the history is that drift. Not in the paper; the protocol is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tru_core.backbones.base import Backbone
from tru_core.errors import AuditError, ConfigError
from tru_core.graph import ItemNeighbours
from tru_core.interactions import IntArray, Request, contains, select
from tru_core.problem import Problem, make_problem, measure
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of, run_method


def without_items(item_neighbours: Mapping[str, ItemNeighbours], deleted: IntArray) -> Mapping[str, ItemNeighbours]:
    """Drop the entries from or to deleted items, so that no graph built from the rest knows them."""
    if not len(deleted):
        return item_neighbours
    kept = {
        modality: ~(np.isin(entries.items, deleted) | np.isin(entries.neighbours, deleted))
        for modality, entries in item_neighbours.items()
    }
    return {
        modality: ItemNeighbours(
            items=entries.items[kept[modality]],
            neighbours=entries.neighbours[kept[modality]],
            similarity=entries.similarity[kept[modality]],
        )
        for modality, entries in item_neighbours.items()
    }


def next_problem(
    before: Problem, request: Request, item_neighbours: Mapping[str, ItemNeighbours], *, deleted: IntArray
) -> Problem:
    """Put a request to what is left after an earlier one.

    Args:
        before: The earlier problem: what it retained is all the training data of the new one, its held-out pairs
            without deleted users and items are all the held-out ones.
        deleted: int64 [item], items of all earlier requests: both item-item graphs are without them.
    """
    shard = replace(before.shard, train=before.retain, valid=before.valid, test=before.test)
    return make_problem(
        shard,
        request,
        without_items(item_neighbours, deleted),
        before.graph_with.collective,
        dtype=before.graph_with.user_item.forward.dtype,
    )


def forget_in_sequence(
    method: Method,
    original: Backbone,
    requests: Sequence[Request],
    problem: Problem,
    settings: Settings,
    tools: Tools,
    *,
    item_neighbours: Mapping[str, ItemNeighbours],
) -> Candidate:
    """Apply a method to the first batch of a request, to its result with the second batch, and so on.

    Args:
        original: The model that was trained on everything. May be changed.
        requests: The batches, as :func:`tru_core.forget_sets.split_request` gives them.
        problem: The whole request: all batches merged.
        settings: The method's, the same for every batch.
        tools: ``state`` and ``on_epoch`` are not passed on: an interrupted sequence starts again with batch 1.
        item_neighbours: The same that ``problem`` was made from.

    Returns:
        The last model's vectors on the graph without any of the batches' pairs; the seconds of all batches; and
        one row of ``history`` for each batch: ``batch`` (from 1), ``valid_recall20`` and ``test_recall20`` of users
        and items not deleted so far, ``forget_recall20`` of all pairs forgotten so far, retained ones masked, and
        the batch's own ``seconds``.

    Raises:
        ConfigError: If there is no batch, or the method gives no single model to go on from.
        AuditError: If the batches together do not name what the whole request names.
        Whatever the method or :func:`make_problem` raises.
    """
    if not requests:
        raise ConfigError("a sequence needs at least one batch of requests; found none")
    tools, model, history, num_forget = replace(tools, state=None, on_epoch=None), original, [], 0
    seconds, seconds_before = 0.0, 0.0
    empty = np.zeros(0, dtype=np.int64)
    step, deleted = (
        replace(problem, retain=problem.shard.train, valid=problem.shard.valid, test=problem.shard.test),
        empty,
    )
    for batch, request in enumerate(requests, start=1):
        step = next_problem(step, request, item_neighbours, deleted=deleted)
        deleted = np.union1d(deleted, request.items)
        num_forget += step.num_forget
        candidate = run_method(method, model, step, settings, tools)
        if candidate.model is None:
            raise ConfigError(
                f"{method.title} adds the scores of several models: a sequence of requests needs one model to go on "
                "from. Nothing was published. Leave it out of the sequence."
            )
        model = candidate.model
        seconds, seconds_before = seconds + candidate.seconds, seconds_before + candidate.seconds_before
        forgotten = select(
            problem.shard.train, ~contains(step.retain, problem.shard.train.users, problem.shard.train.items)
        )
        outcome = measure(candidate.users, candidate.items, replace(step, forget=forgotten), step.graph_with.collective)
        history.append(
            {
                "batch": float(batch),
                "valid_recall20": outcome.valid.recall,
                "test_recall20": outcome.test.recall,
                "forget_recall20": outcome.forget.recall,
                "seconds": candidate.seconds,
            }
        )
    if num_forget != problem.num_forget or not np.array_equal(deleted, problem.request.items):
        raise AuditError(
            f"the batches of the sequence name {num_forget} interactions and {len(deleted)} items, the whole request "
            f"{problem.num_forget} and {len(problem.request.items)}. Nothing was published. Part the same request."
        )
    return replace(candidate_of(model, problem, history), seconds=seconds, seconds_before=seconds_before)
