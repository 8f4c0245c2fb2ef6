"""Shadow models of an audit: small trainings on the retained pairs and half of the subjects; only vectors are kept.

Who is in which follows from the auditor's seed and the model's number (``tru_core.audits.shadows``), so a model is
named by its number, and each is made once. They know deleted people: whoever purges takes ``runs/shadow-*`` too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from tru_core.audits.shadows import draw_members, shadow_train_pairs
from tru_core.backbones import Backbone
from tru_core.collective import Collective
from tru_core.fit import FitSettings, fit
from tru_core.graph import ItemNeighbours, build_graph
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import IntArray
from tru_core.settings import Settings
from tru_core.unlearning.problem import Problem
from workflows.state_files import parse_state_manifest, read_state, write_state
from workflows.storage import FileEntry, ObjectStore, read_verified

Vectors = tuple[Tensor, Tensor]


class ShadowSettings(Settings):
    """Which of the shadow models a stage trains.

    Attributes:
        number: From 0.
        num_shadows: Of the whole set: each subject is in half of them.
        seed: The auditor's.
    """

    number: NonNegativeInt
    num_shadows: PositiveInt
    seed: NonNegativeInt


def train_shadow(
    asked: ShadowSettings,
    problem: Problem,
    item_neighbours: Mapping[str, ItemNeighbours],
    *,
    new_model: Callable[[int], Backbone],
    settings: FitSettings,
) -> tuple[Vectors, dict[str, Any]]:
    """Train one shadow model and look at it on the graph without the deleted edges, as every system is looked at.

    Its initial values, batches and negatives have a seed of their own.

    Returns:
        Output vectors of this worker's users and of all items, and what the training was.
    """
    shard, collective = problem.shard, problem.graph_without.collective
    members = draw_members(problem, num_shadows=asked.num_shadows, seed=asked.seed)[asked.number]
    pairs = shadow_train_pairs(problem, members)
    graph = build_graph(
        pairs,
        shard,
        item_neighbours,
        collective,
        deleted_items=np.setdiff1d(problem.request.items, pairs.items),
        dtype=problem.graph_without.user_item.forward.dtype,
    )
    seed = int(hash_below(2**31, asked.seed, text_key("shadow-model"), asked.number))
    model = new_model(seed)
    state = fit(model, graph, shard, pairs, settings.model_copy(update={"seed": seed}), valid=problem.valid)
    with torch.no_grad():
        vectors = model.embeddings(problem.graph_without)
    return vectors, {"seconds": state.seconds, "epochs": state.epoch, "valid_recall20": state.best_score}


def write_vectors(
    store: ObjectStore,
    prefix: str,
    vectors: Vectors,
    *,
    user_rows: IntArray,
    meta: Mapping[str, Any],
    collective: Collective,
) -> FileEntry:
    """Keep output vectors, every worker its users'. Returns the manifest's entry, on every worker."""
    tensors = {"vectors/users": vectors[0].detach(), "vectors/items": vectors[1].detach()}
    rows = {"users": user_rows}
    return write_state(store, prefix, tensors, local_rows=rows, meta=meta, collective=collective)


def read_vectors(store: ObjectStore, entry: FileEntry, *, user_rows: IntArray, collective: Collective) -> Vectors:
    """Read what any number of workers wrote with :func:`write_vectors`.

    Raises:
        DataError: If a wanted user's vector is in no file.
        IntegrityError: If a file differs from its digest.
    """
    manifest = parse_state_manifest(read_verified(store, entry), entry.key)
    tensors = read_state(store, manifest, local_rows={"users": user_rows}, collective=collective)
    return tensors["vectors/users"], tensors["vectors/items"]
