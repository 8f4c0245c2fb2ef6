"""Shadow models of an audit: small trainings on the retained pairs and half of the subjects, and what is kept of them.

Output vectors, vectors by branch and the rows of users and items: what attacks compare. Wide feature tables and the
rest of the network are dropped, which makes a shadow model a few megabytes.

Who is in which follows from the auditor's seed and the model's number (``tru_core.audits.shadows``), so a model is
named by its number, and each is made once. They know deleted people: whoever purges takes ``runs/shadow-*`` too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tru_core.artifact import sha256_hex
from tru_core.audits.shadows import draw_members, shadow_train_pairs
from tru_core.backbones import Backbone
from tru_core.collective import Collective
from tru_core.fit import FitSettings, fit
from tru_core.graph import Graph, ItemNeighbours, build_graph
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import IntArray
from tru_core.problem import Problem
from workflows.storage import FileEntry, ObjectStore, read_verified
from workflows.storage.state_files import parse_state_manifest, read_state, write_state
from workflows.tasks import Shadow

Vectors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Look:
    """What is kept of a system that is not kept whole.

    Attributes:
        vectors: Output vectors of this worker's users and of all items.
        branches: The same before fusion, by branch; empty where several models' scores are added.
        user_tables, item_tables: Rows of this worker's users and of all items, by parameter.
        members_sha256: Of a shadow model: :func:`members_digest` of those that it was trained on.
    """

    vectors: Vectors
    branches: Mapping[str, Vectors] = field(default_factory=dict)
    user_tables: Mapping[str, Tensor] = field(default_factory=dict)
    item_tables: Mapping[str, Tensor] = field(default_factory=dict)
    members_sha256: str = ""


def look_at(model: Backbone, graph: Graph) -> Look:
    """Take what is kept of a model, as it stands on a graph."""
    with torch.no_grad():
        vectors, branches = model.embeddings(graph), model.branch_embeddings(graph)

    def tables(axis: str) -> dict[str, Tensor]:
        names = [name for name, found in model.anatomy.tables.items() if found == axis]
        return {name: model.get_parameter(name).detach() for name in names}

    return Look(vectors, branches, user_tables=tables("user"), item_tables=tables("item"))


def train_shadow(
    asked: Shadow,
    problem: Problem,
    item_neighbours: Mapping[str, ItemNeighbours],
    *,
    new_model: Callable[[int], Backbone],
    settings: FitSettings,
) -> tuple[Look, dict[str, Any]]:
    """Train one shadow model and look at it on the graph without the deleted edges, as every system is looked at.

    Its initial values, batches and negatives have a seed of their own.

    Returns:
        What is kept of it, and what the training was.
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
    figures = {"seconds": state.seconds, "epochs": state.epoch, "valid_recall20": state.best_score}
    return look_at(model, problem.graph_without), figures | {"members_sha256": members_digest(problem, members)}


def members_digest(problem: Problem, members: NDArray[np.bool_]) -> str:
    """Name who a shadow model knows, so that a look is never read with another draw than it was trained with.

    Args:
        members: bool [forget pair of this worker].

    Returns:
        The same on any number of workers.
    """
    rows, items = problem.shard.user_rows[problem.forget.users], problem.forget.items
    own = torch.from_numpy(np.stack([rows, items, members.astype(np.int64)], axis=1))
    known = torch.cat(problem.graph_without.collective.all_gather(own)).numpy()
    known = known[np.lexsort((known[:, 1], known[:, 0]))]
    return sha256_hex(np.packbits(known[:, 2].astype(bool)).tobytes())


def write_look(
    store: ObjectStore,
    prefix: str,
    look: Look,
    *,
    user_rows: IntArray,
    meta: Mapping[str, Any],
    collective: Collective,
) -> FileEntry:
    """Keep a look at a system, every worker its users' part. Returns the manifest's entry, on every worker."""
    parts = {"vectors": look.vectors} | {f"branches/{name}": pair for name, pair in look.branches.items()}
    tensors = {f"{name}/users": users.detach() for name, (users, _) in parts.items()}
    tensors |= {f"{name}/items": items.detach() for name, (_, items) in parts.items()}
    tensors |= {f"user_tables/{name}": table for name, table in look.user_tables.items()}
    tensors |= {f"item_tables/{name}": table for name, table in look.item_tables.items()}
    rows = {"users": user_rows} | dict.fromkeys(look.user_tables, user_rows)
    meta = dict(meta) | {"branches": sorted(look.branches), "user_tables": sorted(look.user_tables)}
    return write_state(store, prefix, tensors, local_rows=rows, meta=meta, collective=collective)


def read_look(store: ObjectStore, entry: FileEntry, *, user_rows: IntArray, collective: Collective) -> Look:
    """Read what any number of workers wrote with :func:`write_look`.

    Raises:
        DataError: If a wanted user's row is in no file.
        IntegrityError: If a file differs from its digest.
    """
    manifest = parse_state_manifest(read_verified(store, entry), entry.key)
    rows = {"users": user_rows} | dict.fromkeys(manifest.meta["user_tables"], user_rows)
    tensors = read_state(store, manifest, local_rows=rows, collective=collective)

    def pair(name: str) -> Vectors:
        return tensors[f"{name}/users"], tensors[f"{name}/items"]

    def tables(part: str) -> dict[str, Tensor]:
        return {n.removeprefix(f"{part}/"): value for n, value in tensors.items() if n.startswith(f"{part}/")}

    branches = {name: pair(f"branches/{name}") for name in manifest.meta["branches"]}
    members = str(manifest.meta["members_sha256"])
    return Look(pair("vectors"), branches, tables("user_tables"), tables("item_tables"), members)
