"""Do MGCN and MIG-GT learn what plain dense versions of them learn, under the same seed and schedule?

    python benchmarks/parity.py --data ../shared/data/tiktok --backbone mgcn --seed 0 --max-epochs 80 --json FILE

The dense versions are written from the formulas (sections 2.1 and 2.2 of the method notes) with full matrices, no
sparse products, no sharding, no evaluation of only the rows that a batch needs, and PyTorch's own gradients through
all of it. Initial values, batches, negatives and dropout draws are the job's, so that every epoch can be compared:
a surprise would be a best validation Recall@20 that differs by more than two seeds do (about 0.01). A dense epoch of
TikTok takes about a minute on one thread; ``--max-epochs`` cuts both runs alike.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from machine import write_figures
from results_plan import BACKBONE_SETTINGS
from torch import Tensor
from torch.nn import functional

from tru_core.backbones import BACKBONES, MGCN, Backbone, BackboneInputs
from tru_core.backbones.base import LossTerms
from tru_core.backbones.diffusion import Key, dropout_factors
from tru_core.backbones.mig_gt import MIGGT, memory_draws
from tru_core.collective import LocalCollective
from tru_core.fit import FitSettings, TrainingState, fit
from tru_core.graph import Graph, build_graph, entry_rows
from tru_core.hashing import text_key
from tru_core.ranking import rank_metrics
from tru_core.sampling import Batch
from workflows.config.compare import BackboneConfig
from workflows.config.job import ScalingConfig
from workflows.data.snapshot import current_snapshot_entry
from workflows.ingest import IngestConfig, import_dataset
from workflows.running.cluster import connected
from workflows.running.worker_data import WorkerData, load_data
from workflows.storage import StorageConfig, open_store


def dense(graph: Graph) -> Tensor:
    """The user-by-item adjacency of 0 and 1 as a full matrix."""
    matrix = torch.zeros(len(graph.user_degrees), len(graph.item_degrees))
    matrix[entry_rows(graph.user_item), graph.user_item.forward.col_indices()] = 1.0
    return matrix


class DenseMGCN(MGCN):
    """MGCN's parameters, and its formulas with full matrices."""

    adjacency: Tensor | None = None
    item_graphs: dict[str, Tensor]

    def views(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Content and side vectors of all nodes, users first."""
        if self.adjacency is None:
            edges = dense(graph)
            by_user, by_item = edges.sum(dim=1).clamp_min(1.0), edges.sum(dim=0).clamp_min(1.0)
            self.adjacency = edges / by_user[:, None].sqrt() / by_item[None, :].sqrt()
            self.item_graphs = {name: matrix.forward.to_dense() for name, matrix in graph.item_item.items()}
        layers = [torch.cat([self.user_table, self.item_table])]
        for _ in range(self.settings.user_item_layers):
            users, items = layers[-1][: len(self.user_table)], layers[-1][len(self.user_table) :]
            layers.append(torch.cat([self.adjacency @ items, self.adjacency.T @ users]))
        content = torch.stack(layers).mean(dim=0)
        modal = []
        for name in self.modalities:
            view = self.item_table * torch.sigmoid(self.purify[name](self.project[name](self.raw[name])))
            for _ in range(self.settings.item_item_layers):
                view = self.item_graphs[name] @ view
            modal.append(torch.cat([self.adjacency @ view, view]))
        scores = torch.cat([self.query_score(torch.tanh(self.query_hidden(view))) for view in modal], dim=1)
        weights = torch.softmax(scores, dim=1)
        common = torch.stack([weights[:, [place]] * view for place, view in enumerate(modal)]).sum(dim=0)
        side = common
        for name, view in zip(self.modalities, modal, strict=True):
            side = side + torch.sigmoid(self.prefer[name](content)) * (view - common)
        return content, side / (len(modal) + 1)

    def embeddings(self, graph: Graph) -> tuple[Tensor, Tensor]:
        content, side = self.views(graph)
        return (content + side)[: len(self.user_table)], (content + side)[len(self.user_table) :]

    def loss(self, graph: Graph, batch: Batch) -> LossTerms:
        content, side = self.views(graph)
        out, first_item, count = content + side, len(self.user_table), len(batch.users)
        users, positives, negatives = (
            out[rows] for rows in (batch.users, first_item + batch.positives, first_item + batch.negatives)
        )
        margin = ((positives - negatives) * users).sum(dim=1)
        squares = users.square().sum() + positives.square().sum() + negatives.square().sum()
        contrast = torch.zeros(())
        for rows in (batch.users, first_item + batch.positives):
            a, b = functional.normalize(side[rows], dim=1), functional.normalize(content[rows], dim=1)
            logits = a @ b.T / self.settings.contrastive_temperature
            contrast = contrast + functional.cross_entropy(logits, torch.arange(count))
        return LossTerms(
            functional.softplus(-margin).mean(),
            self.settings.regulariser_weight * 0.5 * squares / count,
            self.settings.contrastive_weight * contrast,
        )


class DenseMIGGT(MIGGT):
    """MIG-GT's parameters, and its formulas with full matrices."""

    edges: Tensor | None = None

    def nodes(self, graph: Graph, key: Key | None) -> tuple[Tensor, list[Tensor]]:
        """Fused vectors Z of all nodes, users first; then their outputs and, by token, the items in each memory."""
        settings = self.settings
        if self.edges is None:
            self.edges = dense(graph)
        users, items = entry_rows(graph.user_item), graph.user_item.forward.col_indices()
        sizes = [torch.from_numpy(d).float() + 1.0 for d in (graph.user_degrees, graph.item_degrees)]
        num_users, num_items, linked = len(sizes[0]), len(sizes[1]), torch.from_numpy(graph.item_degrees > 0)
        plain = self.edges / sizes[0][:, None].sqrt() / sizes[1][None, :].sqrt()

        def drop(values: Tensor, purpose: str, rate: float, rows: np.ndarray) -> Tensor:
            if key is None or not rate:
                return values
            factors = dropout_factors(
                key, purpose, rows=rows, num_columns=values.shape[1], rate=rate, dtype=torch.float32
            )
            return values * factors

        every_user, every_item = np.arange(num_users), np.arange(num_items)
        starts = [(drop(self.user_table, "user", settings.user_dropout, every_user), None)]
        depths = [settings.user_layers]
        for name in self.modalities:
            values = drop(self.raw[name], f"input-{name}", settings.input_dropout, every_item)
            for block, purpose, rate in (
                (self.hidden[name], f"hidden-{name}", settings.feature_dropout),
                (self.narrow[name], f"item-{name}", settings.item_dropout),
            ):
                raw = block.linear(values)
                mean, variance = raw[linked].mean(dim=0), raw[linked].var(dim=0, correction=0)
                normed = (raw - mean) / (variance + 1e-5).sqrt() * block.scale + block.shift
                values = drop(torch.where(normed > 0, normed, block.slope * normed), purpose, rate, every_item)
            starts.append((None, values))
            depths.append(settings.item_layers.get(name, settings.modality_layers))

        fused = torch.zeros(())
        rate, size = settings.edge_dropout, settings.embedding_size
        edge_numbers = graph.user_rows[users.numpy()] * num_items + items.numpy()
        for place, ((for_users, for_items), depth) in enumerate(zip(starts, depths, strict=True)):
            to_users = to_items = plain
            loops = [1.0 / total[:, None] for total in sizes]
            if key is not None and rate:
                columns = 2 * len(starts)
                kept = dropout_factors(
                    key, "edge", rows=edge_numbers, num_columns=columns, rate=rate, dtype=torch.float32
                )
                to_users, to_items = plain.clone(), plain.clone()
                to_users[users, items] *= kept[:, 2 * place]
                to_items[users, items] *= kept[:, 2 * place + 1]
                for side, (purpose, rows) in enumerate((("loop-user", every_user), ("loop-item", every_item))):
                    factors = dropout_factors(
                        key, purpose, rows=rows, num_columns=len(starts), rate=rate, dtype=torch.float32
                    )
                    loops[side] = loops[side] * factors[:, [place]]
            first = for_users if for_users is not None else torch.zeros(num_users, size)
            second = for_items if for_items is not None else torch.zeros(num_items, size)
            u, i, alpha, beta = first, second, settings.start_weight, settings.spread_weight
            for _ in range(depth):
                u, i = (
                    beta * (loops[0] * u + to_users @ i) + alpha * first,
                    beta * (loops[1] * i + to_items.T @ u) + alpha * second,
                )
            scale = beta**depth + alpha * sum(beta**step for step in range(depth))
            fused = fused + torch.cat([u, i]) / scale
        fused = torch.cat(
            [
                drop(fused[:num_users], "vector-user", settings.vector_dropout, every_user),
                drop(fused[num_users:], "vector-item", settings.vector_dropout, every_item),
            ]
        )
        drawn_by = (settings.evaluation_seed, text_key("evaluation"), 0) if key is None else key
        draws = [
            memory_draws(drawn_by, kind, rows=rows, num_items=num_items, size=settings.memory_items)
            for kind, rows in (("user", every_user), ("item", every_item))
        ]
        return fused, [torch.cat(draws), linked]

    def outputs(self, fused: Tensor, nodes: Tensor, draws: Tensor, linked: Tensor) -> Tensor:
        """O_n[j] of some nodes: [node, 1 + S, column]."""
        num_users = len(fused) - self.num_items
        memory = torch.cat([fused[nodes][:, None, :], fused[num_users + draws[nodes]]], dim=1)
        scores = self.query(memory) @ self.key(memory).transpose(1, 2) * self.settings.attention_size**-0.5
        absent = torch.cat([torch.zeros(len(nodes), 1, dtype=torch.bool), ~linked[draws[nodes]]], dim=1)
        weights = torch.softmax(scores.masked_fill(absent[:, None, :], -torch.inf), dim=2)
        share = self.settings.attention_share
        return (1.0 - share) * memory + share * (weights @ memory)

    def embeddings(self, graph: Graph) -> tuple[Tensor, Tensor]:
        fused, (draws, linked) = self.nodes(graph, None)
        out = self.outputs(fused, torch.arange(len(fused)), draws, linked)[:, 0]
        return out[: len(self.user_table)], out[len(self.user_table) :]

    def loss(self, graph: Graph, batch: Batch) -> LossTerms:
        fused, (draws, linked) = self.nodes(graph, batch.key)
        first_item, settings = len(self.user_table), self.settings
        tokens = self.outputs(fused, torch.arange(len(fused)), draws, linked)
        out = tokens[:, 0]
        users, positives = out[batch.users], tokens[first_item + batch.positives]
        margin = (users * (positives[:, 0] - out[first_item + batch.negatives])).sum(dim=1)
        logits = (positives @ users[:, :, None]).squeeze(2)
        absent = ~linked[draws[first_item + batch.positives]]
        logits = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(absent, -torch.inf)], dim=1)
        unsmooth = functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64), reduction="sum")
        return LossTerms(
            functional.softplus(-margin).sum(),
            settings.regulariser_weight * 0.5 * out.square().sum(),
            settings.unsmooth_weight * unsmooth,
        )


DENSE: dict[str, type[Backbone]] = {"mgcn": DenseMGCN, "mig_gt": DenseMIGGT}


def train(model: Backbone, data: WorkerData, settings: FitSettings, say: Callable[[TrainingState], None]) -> dict:
    """Train a model; its best validation recall@20, that of the test at that epoch, and every epoch's."""
    shard, collective = data.shard, LocalCollective()
    graph = build_graph(shard.train, shard, data.item_neighbours, collective)
    state = fit(model, graph, shard, shard.train, settings, valid=shard.valid, on_epoch=say)
    with torch.no_grad():
        users, items = model.embeddings(graph)
    test = rank_metrics(users, items, shard.test, shard.train, collective).recall
    curve = [row["valid_recall20"] for row in state.history]
    losses = [row["loss"] for row in state.history]
    return {"valid": state.best_score, "test": test, "epochs": state.epoch, "curve": curve, "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a data set")
    parser.add_argument("--backbone", choices=sorted(DENSE), default="mgcn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-epochs", type=int, help="cut both runs; the schedule's own where left out")
    parser.add_argument("--learning-rate", type=float, help="of both runs; larger steps need fewer epochs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    values = BACKBONE_SETTINGS[arguments.backbone]
    asked = {name: getattr(arguments, name) for name in ("seed", "max_epochs", "learning_rate")}
    changes = {name: value for name, value in asked.items() if value is not None}
    settings = FitSettings.model_validate(values["fit"] | changes)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        ingest = IngestConfig.model_validate({"neighbour_features": "standardised"})
        with connected(ScalingConfig()):
            import_dataset(StorageConfig(url=arguments.data), store, "bench", ingest)
        manifest, _ = current_snapshot_entry(store, "bench")
        data = load_data(store, manifest, LocalCollective(), dtype=torch.float32, standardised=True)
    found = {}
    for title, kind in (("ours", BACKBONES[arguments.backbone]), ("dense", DENSE[arguments.backbone])):
        inputs = BackboneInputs(
            user_rows=data.shard.user_rows,
            num_users=manifest.num_users,
            num_items=manifest.num_items,
            features=data.features,
            seed=arguments.seed,
            dtype=torch.float32,
        )

        def say(state: TrainingState, title: str = title) -> None:
            row = state.history[-1]
            sys.stderr.write(
                f"{title}: epoch {state.epoch}, loss {row['loss']:.6f}, recall {row['valid_recall20']:.4f}\n"
            )

        found[title] = train(
            kind(inputs, BackboneConfig.model_validate(values["backbone"]).parsed()), data, settings, say
        )
    shared = min(found["ours"]["epochs"], found["dense"]["epochs"])
    gaps = np.abs(np.subtract(found["ours"]["curve"][:shared], found["dense"]["curve"][:shared]))
    losses = np.subtract(found["ours"]["losses"][:shared], found["dense"]["losses"][:shared])
    figures = {f"{title}_{name}": run[name] for title, run in found.items() for name in ("valid", "test", "epochs")}
    figures |= {"first_loss_gap": float(abs(losses[0])), "mean_curve_gap": float(gaps.mean())}
    figures |= {"largest_curve_gap": float(gaps.max())}
    for name, value in figures.items():
        print(f"{name:<20} {value:.6f}")
    if arguments.json:
        command = f"python benchmarks/parity.py {' '.join(sys.argv[1:])}"
        write_figures(arguments.json, "parity", command=command, figures=figures)


if __name__ == "__main__":
    main()
