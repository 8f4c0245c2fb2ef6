"""MIG-GT: modality-independent receptive fields with a sampled global transformer (AAAI 2025).

The mathematics of section 2.2 of the method notes on sharded users: a diffusion of its own depth for user ids
and for each modality, their plain sum, and an attention of every node over itself and a few items drawn
uniformly. Everything drawn (dropout, items) is a hash of a batch's key and of vocabulary rows.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from tru_core.backbones.base import (
    Anatomy,
    Backbone,
    BackboneInputs,
    LossTerms,
    check_modalities,
    initialise_linear,
)
from tru_core.backbones.diffusion import Key, Vectors, diffuse, dropout_factors, looped_links
from tru_core.collective import Collective
from tru_core.errors import ConfigError
from tru_core.graph import Graph
from tru_core.hashing import hash_below, hash_normal, text_key
from tru_core.interactions import IntArray
from tru_core.objective import bpr, half_squared_norm
from tru_core.sampling import Batch
from tru_core.settings import Settings

_NORM_EPSILON = 1e-5
UNSEEN_LENGTH = 0.05
"""Length of a user's row that no pair held, where it was drawn at about 1: the L2 term is over all nodes and Adam takes
its whole step size however small the weight, so that such a row shrinks until it takes back what attention adds on
average (TikTok: its mean lies at cosine -0.95 to -0.99 with that of the items), and the jitter of the steps. Measured
in Retrains (5 % of users, TikTok and MovieLens): 0.02 to 0.08, when the rows of others are 1.6 to 11 long. The draw
keeps a direction of its own. Forget Recall@20 of TikTok's deleted users (one seed): Retrain's is 0.059 with its rows,
0.060 with zeros and 0.066 with the draw; TRU's 0.044 with the draw, 0.024 to 0.038 with rows made like Retrain's."""


class MIGGTSettings(Settings):
    """Settings of MIG-GT; the defaults are those of the published code for the Baby data.

    Attributes:
        embedding_size: Columns of every vector.
        user_layers: Diffusion steps of the user table, K_E.
        modality_layers: Diffusion steps of a modality that ``item_layers`` does not name.
        item_layers: Diffusion steps by modality, K_m. With 0 users get nothing from that modality.
        hidden_size: Columns between the two layers of a modality's perceptron, H.
        projected_columns: Wider features are projected to so many columns at random and scaled to length 1 by
            row; None: never.
        start_weight, spread_weight: alpha and beta of the diffusion ``beta A h + alpha h_0``.
        memory_items: Items drawn for each node, S.
        attention_size: Columns of queries and keys.
        attention_share: Share of the attended vector in the output; the rest is the node's own.
        input_dropout, feature_dropout: On raw features and on the hidden layer.
        user_dropout, item_dropout: On the user table and on the perceptrons' output.
        edge_dropout, vector_dropout: On edge weights, self-loops too, and on the sum of branches.
        regulariser_weight: Weight of the L2 term on the output vectors of all nodes.
        unsmooth_weight: Weight of the term that tells a pair's item from the items drawn for it.
        evaluation_seed: Decides the items drawn outside training.
        projection_seed: Decides the random projection. Not the job's seed: a saved model must be read the same.
    """

    embedding_size: PositiveInt = 64
    user_layers: NonNegativeInt = 4
    modality_layers: NonNegativeInt = 2
    item_layers: dict[str, NonNegativeInt] = Field(default_factory=dict)
    hidden_size: PositiveInt = 512
    projected_columns: PositiveInt | None = 384
    start_weight: PositiveFloat = 0.1
    spread_weight: PositiveFloat = 0.9
    memory_items: NonNegativeInt = 10
    attention_size: PositiveInt = 4
    attention_share: float = Field(default=0.1, ge=0, le=1)
    input_dropout: float = Field(default=0.3, ge=0, lt=1)
    feature_dropout: float = Field(default=0.3, ge=0, lt=1)
    user_dropout: float = Field(default=0.3, ge=0, lt=1)
    item_dropout: float = Field(default=0.3, ge=0, lt=1)
    edge_dropout: float = Field(default=0.2, ge=0, lt=1)
    vector_dropout: float = Field(default=0.2, ge=0, lt=1)
    regulariser_weight: NonNegativeFloat = 1e-5
    unsmooth_weight: NonNegativeFloat = 1.0
    evaluation_seed: NonNegativeInt = 0
    projection_seed: NonNegativeInt = 0


def memory_draws(key: Key, kind: str, *, rows: IntArray, num_items: int, size: int) -> Int64[Tensor, "row draw"]:
    """Draw the items that nodes attend to, uniformly from all items, with repetition.

    Args:
        kind: ``user`` or ``item``: what the vocabulary rows are of.
    """
    draws = np.arange(size)[None, :]
    return torch.from_numpy(hash_below(num_items, *key, text_key(f"memory-{kind}"), rows[:, None], draws))


def project_features(
    values: Float[Tensor, "item column"], modality: str, *, num_columns: int | None, seed: int
) -> Float[Tensor, "item narrow"]:
    """Project wide features by a Gaussian matrix and scale rows to length 1; leave narrow ones as they are."""
    width = values.shape[1]
    if num_columns is None or width <= num_columns:
        return values
    keys = (seed, text_key(f"projection-{modality}"))
    matrix = hash_normal(*keys, np.arange(width)[:, None], np.arange(num_columns)[None, :])
    return functional.normalize(values @ torch.from_numpy(matrix).to(values.dtype), dim=1)


class _Block(nn.Module):
    """Linear layer, batch norm over all items of the job, PReLU.

    The linear layer has no bias: the norm would take it out again, and its gradient would be rounding noise.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_outputs, bias=False, dtype=dtype)
        self.scale = nn.Parameter(torch.ones(num_outputs, dtype=dtype))
        self.shift = nn.Parameter(torch.zeros(num_outputs, dtype=dtype))
        self.slope = nn.Parameter(torch.full((1,), 0.25, dtype=dtype))

    def forward(
        self, inputs: Float[Tensor, "own column"], weights: Float[Tensor, " own"], collective: Collective
    ) -> Float[Tensor, "own out"]:
        """Normalise by the mean and variance over the items of all workers, each with its weight; they sum to 1."""
        raw = self.linear(inputs)
        centred = raw - collective.all_sum(weights @ raw)
        variance = collective.all_sum(weights @ centred.square())
        return functional.prelu(centred * ((variance + _NORM_EPSILON).rsqrt() * self.scale) + self.shift, self.slope)


class MIGGT(Backbone):
    """Modality-independent graph transformer. Formulas: section 2.2 of the method notes.

    ``H_id = diffuse([drop(U); 0])``, ``H_m = diffuse([0; drop(MLP_m(drop(features)))])`` with
    ``h <- beta A h + alpha h_0`` over the normalised adjacency with self-loops, divided by
    ``beta^K + alpha sum_(j<K) beta^j``; ``Z = drop(H_id + sum H_m)``; each node attends over its own Z and that of S
    items, ``out = 0.9 Z + 0.1 attended``; score = inner product. Each branch and each direction of an edge has its own
    edge dropout, the same in all steps.

    Loss: *sums* over the batch, unlike the other backbones: BPR; ``weight / 2 |out|^2`` over all nodes; and the
    cross-entropy of a pair's item among the items drawn for it. Published fit for Baby: ``learning_rate`` 1e-2,
    ``decay_factor`` 0.99, ``decay_epochs`` 1, ``batch_size`` 8000. The L2 weight depends on the data and on the batch:
    on TikTok with these, validation recall@20 stopped at 0.084 with 1e-5, 0.099 with 1e-2 (``hidden_size`` 128), and
    at batches of 4096 at 0.113 with 3e-2 and 0.100 with 1e-1.

    Where it differs from the published code:

    * Batch norm keeps no running averages: statistics are of all items at every call, so scores are a function of
      the parameters.
    * An item without an edge in the graph (new, or deleted) takes no part in these statistics and in no node's
      memory. So nothing of a deleted item stays in other nodes' vectors. A deleted one has no vector itself.
    * Biases without effect (before a norm; of the keys) and the unused item table are left out.
    * Negatives are the job's: one training item that the user does not have. Evaluation draws from a fixed seed.
    """

    settings_type = MIGGTSettings
    sums_over_batch = True

    def __init__(self, inputs: BackboneInputs, settings: Settings) -> None:
        super().__init__(inputs, settings)
        if not isinstance(settings, MIGGTSettings):
            raise ConfigError(f"backbone mig_gt takes MIGGTSettings, found {type(settings).__name__}")
        check_modalities("mig_gt", inputs.features)
        self.settings, self.modalities = settings, tuple(sorted(inputs.features))
        unknown = sorted(set(settings.item_layers) - set(self.modalities))
        if unknown:
            raise ConfigError(f"item_layers names {unknown[0]!r}; the data has {', '.join(self.modalities)}")
        self.num_items, self.dtype = inputs.num_items, inputs.dtype
        self.item_rows = {name: features.item_rows for name, features in inputs.features.items()}
        self.raw = {
            name: project_features(
                inputs.features[name].values.to(inputs.dtype),
                name,
                num_columns=settings.projected_columns,
                seed=settings.projection_seed,
            )
            for name in self.modalities
        }
        self.user_table = nn.Parameter(self.fresh_rows("user_table", inputs.user_rows, seed=inputs.seed))

        def blocks(num_inputs: Mapping[str, int], num_outputs: int) -> nn.ModuleDict:
            return nn.ModuleDict({n: _Block(num_inputs[n], num_outputs, dtype=inputs.dtype) for n in self.modalities})

        self.hidden = blocks({name: values.shape[1] for name, values in self.raw.items()}, settings.hidden_size)
        self.narrow = blocks(dict.fromkeys(self.modalities, settings.hidden_size), settings.embedding_size)
        self.query = nn.Linear(settings.embedding_size, settings.attention_size, dtype=inputs.dtype)
        self.key = nn.Linear(settings.embedding_size, settings.attention_size, bias=False, dtype=inputs.dtype)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                initialise_linear(layer, name, seed=inputs.seed)
        self.anatomy = self._describe()

    def _describe(self) -> Anatomy:
        modules: dict[str, tuple[str, ...]] = {"user_table": ("user_table",)}
        branch, fusion = {"user_table": "id"}, []
        for modality in self.modalities:
            for layer in (f"hidden.{modality}", f"narrow.{modality}"):
                modules[layer] = tuple(f"{layer}.{part}" for part in ("linear.weight", "scale", "shift", "slope"))
                branch |= dict.fromkeys(modules[layer], modality)
            fusion.append(f"narrow.{modality}.linear.weight")
        modules |= {"query": ("query.weight", "query.bias"), "key": ("key.weight",)}
        branch |= dict.fromkeys((*modules["query"], *modules["key"]), "shared")
        fusion += ["query.weight", "key.weight"]
        return Anatomy(branch=branch, modules=modules, fusion=tuple(fusion), tables={"user_table": "user"})

    def fresh_rows(self, table: str, rows: IntArray, *, seed: int) -> Float[Tensor, "row column"]:
        size = self.settings.embedding_size
        normal = hash_normal(seed, text_key(table), rows[:, None], np.arange(size)[None, :])
        return torch.from_numpy(normal * size**-0.5).to(self.dtype)

    def unseen_rows(self, table: str, rows: IntArray, *, seed: int) -> Float[Tensor, "row column"]:
        fresh = self.fresh_rows(table, rows, seed=seed)
        return fresh * UNSEEN_LENGTH if self.settings.regulariser_weight else fresh

    def held_items(self, table: str) -> IntArray:
        raise ConfigError(f"backbone mig_gt has no table {table} that is sharded by item")

    def _drop(self, values: Tensor, key: Key | None, purpose: str, *, rows: IntArray, rate: float) -> Tensor:
        if key is None or not rate:
            return values
        columns = values.shape[1]
        return values * dropout_factors(key, purpose, rows=rows, num_columns=columns, rate=rate, dtype=self.dtype)

    def _item_vectors(self, graph: Graph, key: Key | None) -> list[Tensor]:
        """Send each worker's own feature rows through the perceptrons and gather the narrow result.

        What is deleted has no vector, nor has an item without features in a modality (zeros, as a deleted item's are
        in the next snapshot): without an edge its self-loop would keep a vector of full length, which nothing trained
        pushes down, at the top of everybody's list.
        """
        settings, collective, gathered = self.settings, graph.collective, []
        linked = torch.from_numpy(graph.item_degrees > 0).to(self.dtype)
        weights = linked / linked.sum().clamp_min(1.0)
        there = torch.ones_like(linked)
        there[torch.from_numpy(graph.deleted_items)] = 0.0
        for modality in self.modalities:
            rows = self.item_rows[modality]
            place = torch.from_numpy(rows)
            values = self._drop(self.raw[modality], key, f"input-{modality}", rows=rows, rate=settings.input_dropout)
            values = self.hidden[modality](values, weights[place], collective)
            values = self._drop(values, key, f"hidden-{modality}", rows=rows, rate=settings.feature_dropout)
            values = self.narrow[modality](values, weights[place], collective)
            values = self._drop(values, key, f"item-{modality}", rows=rows, rate=settings.item_dropout)
            values = values * (there[place] * self.raw[modality].any(dim=1))[:, None]
            whole = values.new_zeros((self.num_items, settings.embedding_size))
            gathered.append(whole.index_copy(0, place, values))
        return list(collective.all_sum(torch.cat(gathered, dim=1)).split(settings.embedding_size, dim=1))

    def _branches(self, graph: Graph, key: Key | None) -> list[Vectors]:
        """Diffuse the user table, then each modality's item vectors."""
        settings, rows = self.settings, graph.user_rows
        users = self._drop(self.user_table, key, "user", rows=rows, rate=settings.user_dropout)
        no_users, no_items = torch.zeros_like(users), users.new_zeros((self.num_items, users.shape[1]))
        starts = [Vectors(users, no_items), *(Vectors(no_users, x) for x in self._item_vectors(graph, key))]
        depths = [settings.item_layers.get(name, settings.modality_layers) for name in self.modalities]
        links = looped_links(graph, key, num_branches=len(starts), rate=settings.edge_dropout, dtype=self.dtype)
        return [
            diffuse(
                start,
                own,
                graph.collective,
                num_layers=depth,
                start_weight=settings.start_weight,
                spread_weight=settings.spread_weight,
            )
            for start, own, depth in zip(starts, links, [settings.user_layers, *depths], strict=True)
        ]

    def _fuse(self, graph: Graph, key: Key | None) -> Vectors:
        branches, rate = self._branches(graph, key), self.settings.vector_dropout
        users = torch.stack([branch.users for branch in branches]).sum(dim=0)
        items = torch.stack([branch.items for branch in branches]).sum(dim=0)
        return Vectors(
            self._drop(users, key, "vector-user", rows=graph.user_rows, rate=rate),
            self._drop(items, key, "vector-item", rows=np.arange(self.num_items), rate=rate),
        )

    def _attend(
        self, nodes: Tensor, items: Tensor, tokens: Int64[Tensor, "node draw"], linked: Bool[Tensor, " item"]
    ) -> Tensor:
        """Let each node attend over itself and its drawn items; give ``O_n[0]``, the only output a score uses."""
        settings, query = self.settings, self.query(nodes)
        own = (query * self.key(nodes)).sum(dim=1, keepdim=True)
        drawn = (query[:, None, :] * self.key(items)[tokens]).sum(dim=2).masked_fill(~linked[tokens], -torch.inf)
        weights = torch.softmax(torch.cat([own, drawn], dim=1) * settings.attention_size**-0.5, dim=1)
        share, mixed = settings.attention_share, weights[:, :1] * nodes
        if settings.memory_items and len(nodes):
            per_draw = weights[:, 1:].contiguous()
            mixed = mixed + functional.embedding_bag(tokens, items, per_sample_weights=per_draw, mode="sum")
        return (1.0 - share) * nodes + share * mixed

    def _draws(self, kind: str, rows: IntArray, key: Key | None) -> Tensor:
        settings = self.settings
        drawn_by = (settings.evaluation_seed, text_key("evaluation"), 0) if key is None else key
        return memory_draws(drawn_by, kind, rows=rows, num_items=self.num_items, size=settings.memory_items)

    def _outputs(self, graph: Graph, fused: Vectors, key: Key | None) -> tuple[Vectors, Tensor]:
        """Give the output vectors, and the items drawn for each item."""
        linked = torch.from_numpy(graph.item_degrees > 0)
        for_users = self._draws("user", graph.user_rows, key)
        for_items = self._draws("item", np.arange(self.num_items), key)
        users = self._attend(fused.users, fused.items, for_users, linked)
        return Vectors(users, self._attend(fused.items, fused.items, for_items, linked)), for_items

    def embeddings(self, graph: Graph) -> tuple[Float[Tensor, "user dim"], Float[Tensor, "item dim"]]:
        vectors, _ = self._outputs(graph, self._fuse(graph, None), None)
        return vectors.users, vectors.items

    def branch_embeddings(self, graph: Graph) -> dict[str, tuple[Float[Tensor, "user dim"], Float[Tensor, "item dim"]]]:
        branches = self._branches(graph, None)
        return {n: (b.users, b.items) for n, b in zip(("id", *self.modalities), branches, strict=True)}

    def _unsmooth(self, users: Tensor, items: Tensor, tokens: Tensor, linked: Tensor) -> Tensor:
        """Sum the cross-entropy of logits ``out_u . O_i[j]``, j = 0..S, with class 0 (the item itself) correct.

        Args:
            users: Output vector of each pair's user. items: All items' vectors before attention.
            tokens: int64 [pair, 1 + S], each pair's item and the items drawn for it.
        """
        settings = self.settings
        missing = ~linked[tokens]
        missing[:, 0] = False
        dots = (items[tokens] @ users[:, :, None]).squeeze(2)
        query, key = self.query(items)[tokens], self.key(items)[tokens]
        scores = (query @ key.transpose(1, 2)) * settings.attention_size**-0.5
        weights = torch.softmax(scores.masked_fill(missing[:, None, :], -torch.inf), dim=2)
        share = settings.attention_share
        logits = (1.0 - share) * dots + share * (weights @ dots[:, :, None]).squeeze(2)
        return -torch.log_softmax(logits.masked_fill(missing, -torch.inf), dim=1)[:, 0].sum()

    def loss(self, graph: Graph, batch: Batch) -> LossTerms:
        settings, fused = self.settings, self._fuse(graph, batch.key)
        out, for_items = self._outputs(graph, fused, batch.key)
        users = out.users.index_select(0, batch.users)
        positive = (users * out.items.index_select(0, batch.positives)).sum(dim=1)
        negative = (users * out.items.index_select(0, batch.negatives)).sum(dim=1)
        # Items are replicated: each worker counts them for its share of the batch's rows, so once in all.
        share = len(batch.users) / batch.num_rows
        penalty = half_squared_norm(out.users) + share * half_squared_norm(out.items)
        unsmooth = penalty.new_zeros(())
        if settings.unsmooth_weight and settings.memory_items:
            tokens = torch.cat([batch.positives[:, None], for_items[batch.positives]], dim=1)
            linked = torch.from_numpy(graph.item_degrees > 0)
            unsmooth = self._unsmooth(users, fused.items, tokens, linked) * settings.unsmooth_weight
        return LossTerms(bpr(positive, negative), penalty * settings.regulariser_weight, unsmooth)
