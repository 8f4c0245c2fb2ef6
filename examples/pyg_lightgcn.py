"""For those who use PyTorch Geometric: load what `tru data export --format pyg` wrote, and train a model of theirs.

    tru data export shop --format pyg --storage store --out shop.safetensors
    python examples/pyg_lightgcn.py shop.safetensors

`load` is all that is needed to read the file; copy it into your program.
"""

import json
import sys

import torch
from safetensors import safe_open
from torch_geometric.data import HeteroData
from torch_geometric.nn.models import LightGCN

NUM_EPOCHS = 30


def load(path: str) -> tuple[HeteroData, dict]:
    """Read an exported snapshot, and what it is: data set, snapshot, counts."""
    data = HeteroData()
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        for kind, count in about["num_nodes"].items():
            data[kind].num_nodes = count
        for name in file.keys():  # noqa: SIM118, the file is no dict
            *place, attribute = name.split("/")
            data[place[0] if len(place) == 1 else tuple(place)][attribute] = file.get_tensor(name)
    return data, about


def main(path: str) -> None:
    """Train PyTorch Geometric's LightGCN on the training pairs, and print its recall@20 of the test pairs."""
    torch.manual_seed(0)
    data, about = load(path)
    num_users, num_items = data["user"].num_nodes, data["item"].num_nodes
    pairs, held_out = (data["user", name, "item"].edge_index for name in ("interacts", "interacts_test"))
    users, items = pairs[0], pairs[1] + num_users  # one range of nodes: users, then items
    edges = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
    model = LightGCN(num_users + num_items, embedding_dim=32, num_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(NUM_EPOCHS):
        others = torch.randint(num_users, num_users + num_items, items.shape)
        liked, unliked = (model(edges, edge_label_index=torch.stack([users, ends])) for ends in (items, others))
        loss = model.recommendation_loss(liked, unliked, node_id=edges.unique())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vectors = model.get_embedding(edges).detach()
    scores = vectors[:num_users] @ vectors[num_users:].T
    scores[pairs[0], pairs[1]] = -torch.inf
    hits = (scores.topk(20).indices[held_out[0]] == held_out[1][:, None]).any(dim=1)
    print(f"{about['dataset']}, snapshot {about['snapshot_id']}: {num_users} users, {num_items} items")
    print(f"loss {loss.item():.3f} after {NUM_EPOCHS} epochs, hits@20 {hits.float().mean().item():.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FILE")
    main(sys.argv[1])
