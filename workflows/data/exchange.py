"""A snapshot as the data type of PyTorch Geometric, so that other people's models and tools can read it."""

from typing import TYPE_CHECKING

import numpy as np
import torch

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
    """
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
