"""A snapshot as the data type of PyTorch Geometric, so that other people's models and tools can read it.

The exported file is safetensors: every tensor under the place where ``HeteroData`` has it, parts joined by ``/``
(``item/text``, ``user/interacts/item/edge_index``), and under ``about`` in the file's metadata a JSON object that says
of which snapshot it is and how many users and items there are. ``examples/pyg_lightgcn.py`` has a loader of ten lines.
"""

import json
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch

from tru_core.errors import DataError
from workflows.data.snapshot import (
    TEST,
    TRAIN,
    VALID,
    SnapshotManifest,
    read_features,
    read_interactions,
    read_item_graph,
)
from workflows.storage import ObjectStore

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

EXPORT_KIND, EXPORT_SCHEMA_VERSION = "tru.export.pyg", 1
_OF_ITEMS = {"num_nodes", "is_deleted"}
INTERACTIONS = {TRAIN: "interacts", VALID: "interacts_valid", TEST: "interacts_test"}


def to_hetero_data(store: ObjectStore, manifest: SnapshotManifest) -> "HeteroData":
    """Read a whole snapshot into this process as one heterogeneous graph. Node i is vocabulary row i.

    ==================================  =====================================================================
    ``data["user"].num_nodes``          Users have no features.
    ``data["item"].num_nodes``
    ``data["item"].is_deleted``         bool (item): rows of deleted items, whose features are zeros.
    ``data["item"][modality]``          (item, column): raw features, in the stored dtype.
    ``("user", "interacts", "item")``   Training pairs. Held-out pairs are edge types of their own,
                                        ``interacts_valid`` and ``interacts_test``, so that no model that is
                                        given the training edges sees them.
    ``("item", "near_<modality>", "item")``  Edges from a neighbour to the item that it is near to, the
                                        direction of messages, with the cosine as ``edge_weight``. An item is
                                        its own neighbour.
    ==================================  =====================================================================

    Raises:
        IntegrityError: A file differs from its digest, or its rows break the snapshot's rules.
        DataError: A modality has the name of something else that items have.
    """
    if taken := sorted(_OF_ITEMS & set(manifest.features)):
        raise DataError(
            f"data set {manifest.dataset} has a modality {taken[0]!r}, a name that the graph uses for something else. "
            f"Nothing was written. Rename the feature file and import again."
        )
    from torch_geometric.data import HeteroData  # takes seconds, and nothing else in the workflows needs it

    data = HeteroData()
    data["user"].num_nodes = manifest.num_users
    data["item"].num_nodes = manifest.num_items
    data["item"].is_deleted = torch.from_numpy(np.isin(np.arange(manifest.num_items), manifest.deleted_item_rows))
    table = read_interactions(store, manifest, range(manifest.num_user_buckets))
    for split, name in INTERACTIONS.items():
        chosen = table.split == split
        pairs = np.stack([table.user_rows[chosen], table.item_rows[chosen]])
        data["user", name, "item"].edge_index = torch.from_numpy(pairs)
    for modality in manifest.features:
        features = read_features(store, manifest, modality, range(manifest.num_item_buckets))
        data["item"][modality] = torch.from_numpy(features)
    for modality in manifest.item_graphs:
        items, neighbours, similarity = read_item_graph(store, manifest, modality)
        edges = data["item", f"near_{modality}", "item"]
        edges.edge_index = torch.from_numpy(np.stack([neighbours, items]))
        edges.edge_weight = torch.from_numpy(similarity)
    return data


def pack_hetero_data(data: "HeteroData", manifest: SnapshotManifest) -> bytes:
    """Write a snapshot's graph as the bytes of one safetensors file. No pickle; no outside id is in it."""
    tensors = {
        "/".join([*_place(store._key), name]): value.contiguous()
        for store in (*data.node_stores, *data.edge_stores)
        for name, value in store.items()
        if isinstance(value, torch.Tensor)
    }
    about = {
        "kind": EXPORT_KIND,
        "schema_version": EXPORT_SCHEMA_VERSION,
        "dataset": manifest.dataset,
        "snapshot_id": manifest.snapshot_id,
        "created_at": manifest.created_at,
        "num_nodes": {"user": manifest.num_users, "item": manifest.num_items},
        "num_pairs": manifest.counts.model_dump(),
    }
    return safetensors.torch.save(tensors, metadata={"about": json.dumps(about)})


def _place(key: str | tuple[str, str, str]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key
