"""MGCN: multi-view graph convolution for multimodal recommendation (Yu et al., ACM MM 2023).

The mathematics of the published model, organised for speed and for several workers: propagation
runs on sharded compressed rows, and the fuser is evaluated only at the rows a batch needs. Any
number of modalities with any names. One choice is a switch: ``trainable_features`` makes the raw
feature tables parameters, as the authors' code does; frozen, they are constants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tru_core.backbones.base import (
    Anatomy,
    Backbone,
    BackboneInputs,
    LossTerms,
    TableAxis,
    check_modalities,
    gather_batch_rows,
    initialise_linear,
    uniform_rows,
)
from tru_core.collective import Collective
from tru_core.errors import ConfigError
from tru_core.graph import Graph, items_from_users, multiply, users_from_items
from tru_core.interactions import IntArray
from tru_core.objective import bpr, half_squared_norm, info_nce
from tru_core.sampling import Batch
from tru_core.settings import Settings


class MGCNSettings(Settings):
    """Settings of MGCN; the defaults are those of the published code.

    Attributes:
        embedding_size: Columns of every vector, d.
        user_item_layers: Propagation layers of the user-item view.
        item_item_layers: Propagation layers of each modality's item-item view.
        contrastive_weight: Weight of the InfoNCE terms (``cl_loss``).
        contrastive_temperature: Temperature of InfoNCE; the published code passes 0.2.
        regulariser_weight: Weight of the L2 term on a batch's output vectors.
        trainable_features: Train the raw feature tables too.
    """

    embedding_size: PositiveInt = 64
    user_item_layers: NonNegativeInt = 2
    item_item_layers: NonNegativeInt = 1
    contrastive_weight: NonNegativeFloat = 0.01
    contrastive_temperature: PositiveFloat = 0.2
    regulariser_weight: NonNegativeFloat = 1e-4
    trainable_features: bool = False


@dataclass(frozen=True)
class _Views:
    """Vectors of this worker's users and all items before fusion: content view, and one view per modality."""

    user_content: Tensor
    item_content: Tensor
    user_modal: Sequence[Tensor]
    item_modal: Sequence[Tensor]


class MGCN(Backbone):
    """Multi-view graph convolutional network. Parameters and formulas: section 2.1 of the method notes.

    Purifier ``v0 = E_id * sigmoid(gate(project(features)))``; user-item view = mean over layers 0..2
    of the propagated tables; modality view = S_m v0 on items, R v on users; fusion by an attention
    over modalities with a preference gate; ``out = content + side``, score = inner product.
    """

    settings_type = MGCNSettings

    def __init__(self, inputs: BackboneInputs, settings: Settings) -> None:
        super().__init__(inputs, settings)
        if not isinstance(settings, MGCNSettings):
            raise ConfigError(f"backbone mgcn takes MGCNSettings, found {type(settings).__name__}")
        self.settings = settings
        check_modalities("mgcn", inputs.features)
        self.modalities = tuple(sorted(inputs.features))
        self.num_users, self.num_items, self.dtype = inputs.num_users, inputs.num_items, inputs.dtype
        size, dtype, seed = self.settings.embedding_size, inputs.dtype, inputs.seed
        self.item_rows = {name: features.item_rows for name, features in inputs.features.items()}
        self._place = {name: torch.from_numpy(rows) for name, rows in self.item_rows.items()}
        every_row = np.arange(self.num_items)
        self._in_order = {name: np.array_equal(rows, every_row) for name, rows in self.item_rows.items()}

        self.user_table = nn.Parameter(self.fresh_rows("user_table", inputs.user_rows, seed=seed))
        self.item_table = nn.Parameter(self.fresh_rows("item_table", np.arange(self.num_items), seed=seed))
        self.features = nn.ParameterDict() if self.settings.trainable_features else None
        self.raw = {}
        for name in self.modalities:
            values = inputs.features[name].values.to(dtype)
            self.raw[name] = values
            if self.features is not None:
                self.features[name] = nn.Parameter(values.clone())

        def layers(num_inputs: Mapping[str, int]) -> nn.ModuleDict:
            return nn.ModuleDict({n: nn.Linear(num_inputs[n], size, dtype=dtype) for n in self.modalities})

        widths = {name: inputs.features[name].values.shape[1] for name in self.modalities}
        self.project = layers(widths)
        self.purify = layers(dict.fromkeys(self.modalities, size))
        self.prefer = layers(dict.fromkeys(self.modalities, size))
        self.query_hidden = nn.Linear(size, size, dtype=dtype)
        self.query_score = nn.Linear(size, 1, bias=False, dtype=dtype)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                initialise_linear(layer, name, seed=seed)
        self.anatomy = self._describe()

    def _describe(self) -> Anatomy:
        branch = {"user_table": "id", "item_table": "id"}
        tables: dict[str, TableAxis] = {"user_table": "user", "item_table": "item"}
        modules: dict[str, tuple[str, ...]] = {"user_table": ("user_table",), "item_table": ("item_table",)}
        fusion = []
        for modality in self.modalities:
            if self.features is not None:
                name = f"features.{modality}"
                branch[name], tables[name], modules[name] = modality, "item_block", (name,)
            for layer in (f"project.{modality}", f"purify.{modality}", f"prefer.{modality}"):
                modules[layer] = (f"{layer}.weight", f"{layer}.bias")
                branch |= dict.fromkeys(modules[layer], modality)
                fusion.append(f"{layer}.weight")
        modules["query"] = ("query_hidden.weight", "query_hidden.bias", "query_score.weight")
        branch |= dict.fromkeys(modules["query"], "shared")
        fusion += ["query_hidden.weight", "query_score.weight"]
        return Anatomy(branch=branch, modules=modules, fusion=tuple(fusion), tables=tables)

    def fresh_rows(self, table: str, rows: IntArray, *, seed: int) -> Float[Tensor, "row column"]:
        num_rows = self.num_users if table == "user_table" else self.num_items
        size = self.settings.embedding_size
        bound = (6.0 / (num_rows + size)) ** 0.5
        return uniform_rows(table, rows, size, bound=bound, seed=seed, dtype=self.dtype)

    def held_items(self, table: str) -> IntArray:
        return self.item_rows[table.removeprefix("features.")]

    def _purified(self, collective: Collective) -> list[Tensor]:
        """Project each worker's own feature rows, gather the narrow result, gate the item table with it."""
        size = self.settings.embedding_size
        narrow = []
        for modality in self.modalities:
            values = self.raw[modality] if self.features is None else self.features[modality]
            local = self.project[modality](values)
            if collective.world_size > 1 or not self._in_order[modality]:
                whole = local.new_zeros((self.num_items, size))
                local = whole.index_copy(0, self._place[modality], local)
            narrow.append(local)
        if collective.world_size > 1:
            narrow = collective.all_sum(torch.cat(narrow, dim=1)).split(size, dim=1)
        return [
            self.item_table * torch.sigmoid(self.purify[modality](projected))
            for modality, projected in zip(self.modalities, narrow, strict=True)
        ]

    def _propagate(self, graph: Graph) -> _Views:
        users, items = self.user_table, self.item_table
        user_sum, item_sum = users, items
        for _ in range(self.settings.user_item_layers):
            users, items = users_from_items(graph, items), items_from_users(graph, users)
            user_sum, item_sum = user_sum + users, item_sum + items
        num_views = self.settings.user_item_layers + 1
        modal = []
        for modality, purified in zip(self.modalities, self._purified(graph.collective), strict=True):
            view = purified
            for _ in range(self.settings.item_item_layers):
                view = multiply(graph.item_item[modality], view)
            modal.append(view)
        user_modal = users_from_items(graph, torch.cat(modal, dim=1)).split(self.settings.embedding_size, dim=1)
        return _Views(user_sum / num_views, item_sum / num_views, user_modal, modal)

    def _fuse(self, content: Tensor, modal: Sequence[Tensor]) -> Tensor:
        """The behaviour-aware fuser: side vectors of some rows from their content and modality vectors."""
        scores = [self.query_score(torch.tanh(self.query_hidden(view))) for view in modal]
        weights = torch.softmax(torch.cat(scores, dim=1), dim=1)
        common = torch.stack([weights[:, m : m + 1] * view for m, view in enumerate(modal)]).sum(dim=0)
        own = [
            torch.sigmoid(self.prefer[modality](content)) * (view - common)
            for modality, view in zip(self.modalities, modal, strict=True)
        ]
        return (torch.stack(own).sum(dim=0) + common) / (len(modal) + 1)

    def embeddings(self, graph: Graph) -> tuple[Float[Tensor, "user dim"], Float[Tensor, "item dim"]]:
        views = self._propagate(graph)
        users = views.user_content + self._fuse(views.user_content, views.user_modal)
        items = views.item_content + self._fuse(views.item_content, views.item_modal)
        return users, items

    def some_embeddings(
        self, graph: Graph, users: IntArray
    ) -> tuple[Float[Tensor, "user dim"], Float[Tensor, "item dim"]]:
        views, asked = self._propagate(graph), torch.from_numpy(users)
        content = views.user_content.index_select(0, asked)
        found = content + self._fuse(content, [view.index_select(0, asked) for view in views.user_modal])
        items = views.item_content + self._fuse(views.item_content, views.item_modal)
        return torch.zeros_like(views.user_content).index_copy(0, asked, found), items

    def branch_embeddings(self, graph: Graph) -> dict[str, tuple[Float[Tensor, "user dim"], Float[Tensor, "item dim"]]]:
        views = self._propagate(graph)
        modal = zip(self.modalities, views.user_modal, views.item_modal, strict=True)
        return {"id": (views.user_content, views.item_content)} | {name: (users, items) for name, users, items in modal}

    def loss(self, graph: Graph, batch: Batch) -> LossTerms:
        views, count = self._propagate(graph), len(batch.users)
        user_content = views.user_content.index_select(0, batch.users)
        user_side = self._fuse(user_content, [v.index_select(0, batch.users) for v in views.user_modal])
        items = torch.cat([batch.positives, batch.negatives])
        item_content = views.item_content.index_select(0, items)
        item_side = self._fuse(item_content, [v.index_select(0, items) for v in views.item_modal])
        users_out, items_out = user_content + user_side, item_content + item_side
        positives, negatives = items_out[:count], items_out[count:]

        ranking = bpr((users_out * positives).sum(dim=1), (users_out * negatives).sum(dim=1))
        penalty = half_squared_norm(users_out, positives, negatives) * self.settings.regulariser_weight
        contrast = ranking.new_zeros(())
        if self.settings.contrastive_weight:
            size = self.settings.embedding_size
            content = torch.cat([user_content, item_content[:count]], dim=1)
            targets = gather_batch_rows(content, batch, graph.collective)
            matches = torch.arange(batch.offset, batch.offset + count)
            temperature = self.settings.contrastive_temperature
            by_user = info_nce(user_side, targets[:, :size], matches, temperature=temperature)
            by_item = info_nce(item_side[:count], targets[:, size:], matches, temperature=temperature)
            contrast = (by_user + by_item) * self.settings.contrastive_weight
        return LossTerms(ranking / batch.num_rows, penalty / batch.num_rows, contrast / batch.num_rows)
