"""A snapshot as PyTorch Geometric's graph holds the same users, items, pairs, features and neighbours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_snapshot import write_tiny_snapshot
from tru_core.errors import IntegrityError
from workflows.data.exchange import INTERACTIONS, to_hetero_data
from workflows.data.snapshot import SnapshotManifest, read_features, read_interactions, read_item_graph
from workflows.storage.local import LocalStore


@pytest.fixture
def manifest(local_store: LocalStore) -> SnapshotManifest:
    return write_tiny_snapshot(local_store)


def test_the_graph_is_valid_and_its_counts_are_the_manifests(
    local_store: LocalStore, manifest: SnapshotManifest
) -> None:
    data = to_hetero_data(local_store, manifest)
    assert data.validate()
    assert (data["user"].num_nodes, data["item"].num_nodes) == (manifest.num_users, manifest.num_items)
    counts = [data["user", name, "item"].num_edges for name in INTERACTIONS.values()]
    assert counts == [manifest.counts.train, manifest.counts.valid, manifest.counts.test]
    assert set(data.edge_types) == {
        ("user", "interacts", "item"),
        ("user", "interacts_valid", "item"),
        ("user", "interacts_test", "item"),
        ("item", "near_text", "item"),
        ("item", "near_visual", "item"),
    }
    assert not data["item"].is_deleted.any()


def test_every_table_comes_back_from_the_graph(local_store: LocalStore, manifest: SnapshotManifest) -> None:
    data = to_hetero_data(local_store, manifest)
    table = read_interactions(local_store, manifest, range(manifest.num_user_buckets))
    rows = np.stack([table.user_rows, table.item_rows, table.split])
    back = [
        np.vstack([data["user", name, "item"].edge_index.numpy(), np.full((1, counts), split)])
        for split, name in INTERACTIONS.items()
        for counts in [data["user", name, "item"].num_edges]
    ]
    assert sorted(map(tuple, np.hstack(back).T)) == sorted(map(tuple, rows.T))
    for modality in manifest.features:
        features = read_features(local_store, manifest, modality, range(manifest.num_item_buckets))
        assert data["item"][modality].numpy().dtype == features.dtype
        np.testing.assert_array_equal(data["item"][modality].numpy(), features)
        items, neighbours, similarity = read_item_graph(local_store, manifest, modality)
        edges = data["item", f"near_{modality}", "item"]
        np.testing.assert_array_equal(edges.edge_index.numpy(), [neighbours, items])
        np.testing.assert_array_equal(edges.edge_weight.numpy(), similarity)


def test_messages_flow_from_the_neighbours_to_the_item(local_store: LocalStore, manifest: SnapshotManifest) -> None:
    from torch_geometric.nn import SimpleConv

    data = to_hetero_data(local_store, manifest)
    edges = data["item", "near_text", "item"]
    found = SimpleConv(aggr="sum")(data["item"]["text"], edges.edge_index, edges.edge_weight)
    items, neighbours, similarity = read_item_graph(local_store, manifest, "text")
    table = np.zeros((manifest.num_items, manifest.num_items), dtype=np.float32)
    table[items, neighbours] = similarity
    torch.testing.assert_close(found, torch.from_numpy(table) @ data["item"]["text"])


def test_deleted_items_are_marked(local_store: LocalStore, manifest: SnapshotManifest) -> None:
    data = to_hetero_data(local_store, manifest.model_copy(update={"deleted_item_rows": [3, 17]}))
    assert data["item"].is_deleted.nonzero().flatten().tolist() == [3, 17]


def test_a_changed_file_is_not_exchanged(local_store: LocalStore, manifest: SnapshotManifest) -> None:
    path = Path(local_store.url) / manifest.features["text"].files[0].key
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        to_hetero_data(local_store, manifest)


def test_torch_geometric_is_imported_only_when_it_is_asked_for() -> None:
    code = "import sys, workflows.data.exchange; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
