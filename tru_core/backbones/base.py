"""The contract between a recommender and everything that trains, unlearns or audits it.

A backbone says how its parameters are laid out (:class:`Anatomy`), gives vectors for this worker's
users and all items, and gives its loss on a batch in named terms. Nothing else of it may be used.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tru_core.collective import Collective, all_sum_list, all_sum_number
from tru_core.errors import ConfigError
from tru_core.graph import Graph
from tru_core.hashing import hash_uniform, text_key
from tru_core.interactions import IntArray
from tru_core.sampling import Batch
from tru_core.settings import Settings

TableAxis = Literal["user", "item", "item_block"]


@dataclass(frozen=True)
class Anatomy:
    """How a backbone's parameters are laid out, by parameter name.

    Attributes:
        branch: The modality branch of each parameter: ``id``, a modality's name, or ``shared``.
        modules: The maskable modules (named leaf layers) and their parameters. Every parameter
            that ever receives a gradient stands in exactly one module.
        fusion: Weights (no biases) that mix modalities: the set of the fusion gate, Eq. (3).
        tables: Parameters indexed by row. ``user``: this worker's users, never exchanged.
            ``item``: all items, replicated. ``item_block``: this worker's items, never exchanged.
    """

    branch: Mapping[str, str]
    modules: Mapping[str, tuple[str, ...]]
    fusion: tuple[str, ...]
    tables: Mapping[str, TableAxis]


@dataclass(frozen=True)
class ItemFeatures:
    """One modality's raw features of the items that this worker holds.

    Attributes:
        item_rows: int64 [own item], the rows held here; the workers' rows together are all items, once.
        values: float [own item, column].
    """

    item_rows: IntArray
    values: Tensor


@dataclass(frozen=True)
class BackboneInputs:
    """What a backbone is built from, besides its settings.

    Attributes:
        user_rows: int64 [user], vocabulary rows of this worker's users.
        num_users, num_items: Rows over all workers.
        features: Raw item features by modality.
        seed: Decides every initial value, together with the parameter's name and row.
        dtype: float32 or float64.
    """

    user_rows: IntArray
    num_users: int
    num_items: int
    features: Mapping[str, ItemFeatures]
    seed: int
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class LossTerms:
    """This worker's share of a batch's loss. Shares add up over workers to the loss of the whole batch.

    That is the mean over the batch's rows, or the sum where a backbone's paper has it so (MIG-GT).

    Attributes:
        ranking: The ranking loss (BPR) alone: what the reverse step ascends by default.
        regulariser: The L2 term with its weight.
        auxiliary: Everything else the backbone trains on (contrastive, unsmoothness), with its weight.
    """

    ranking: Float[Tensor, ""]
    regulariser: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]

    def total(self) -> Float[Tensor, ""]:
        """The training loss, L_MRS in the paper."""
        return self.ranking + self.regulariser + self.auxiliary


class Backbone(nn.Module, ABC):
    """A multimodal recommender whose users are sharded and whose items are shared."""

    anatomy: Anatomy
    settings_type: ClassVar[type[Settings]]
    sums_over_batch: ClassVar[bool] = False
    """The loss is a sum over the batch, not a mean: MIG-GT's."""

    @abstractmethod
    def __init__(self, inputs: BackboneInputs, settings: Settings) -> None:
        """Build the parameters with initial values that do not depend on the number of workers.

        Raises:
            ConfigError: If the settings are another backbone's or the data set lacks what it needs.
        """
        super().__init__()

    @abstractmethod
    def embeddings(self, graph: Graph) -> tuple[Float[Tensor, "user dim"], Float[Tensor, "item dim"]]:
        """Give the output vectors of this worker's users and of all items; a score is their inner product."""

    def some_embeddings(
        self, graph: Graph, users: IntArray
    ) -> tuple[Float[Tensor, "user dim"], Float[Tensor, "item dim"]]:
        """Give :meth:`embeddings` of which the rows of some users are asked for: others may hold anything finite.

        To override where a user's vector costs something beyond propagation.

        Args:
            users: int64, ascending positions of users of this worker.
        """
        return self.embeddings(graph)

    @abstractmethod
    def branch_embeddings(self, graph: Graph) -> dict[str, tuple[Float[Tensor, "user dim"], Float[Tensor, "item dim"]]]:
        """Give the vectors of this worker's users and of all items before fusion, by branch (``id``, modalities)."""

    @abstractmethod
    def loss(self, graph: Graph, batch: Batch) -> LossTerms:
        """Give this worker's share of the loss on one batch of the job."""

    @abstractmethod
    def fresh_rows(self, table: str, rows: IntArray, *, seed: int) -> Float[Tensor, "row column"]:
        """Give untrained values for rows of a ``user`` or ``item`` table, from (seed, table, row) alone."""

    def unseen_rows(self, table: str, rows: IntArray, *, seed: int) -> Float[Tensor, "row column"]:
        """Give the values that training leaves to rows without any pair, from (seed, table, row) alone.

        The row of who is deleted becomes one of these, or it would tell who was. They are untrained values where the
        loss is about a batch's rows alone; a loss that names every row moves those too.
        """
        return self.fresh_rows(table, rows, seed=seed)

    @abstractmethod
    def held_items(self, table: str) -> IntArray:
        """Give the item rows that this worker holds of an ``item_block`` table, in its order."""


def check_modalities(backbone: str, modalities: Iterable[str]) -> None:
    """Check that modalities can name branches and layers.

    Raises:
        ConfigError: If there is none, a name is a branch of every backbone, or PyTorch takes no layer of that name.
    """
    names = sorted(modalities)
    if not names:
        raise ConfigError(f"backbone {backbone} needs at least one modality; the data set has none")
    holders = (nn.ModuleDict(), nn.ParameterDict())
    for name in names:
        if name in ("", "id", "shared") or "." in name or any(hasattr(holder, name) for holder in holders):
            raise ConfigError(
                f"a modality cannot be called {name!r}: the name is taken by the model itself or holds a dot. "
                "Nothing was trained. Rename it in the raw data, for example to 'visual' or 'text', and import again."
            )


def uniform_rows(
    name: str, rows: IntArray, num_columns: int, *, bound: float, seed: int, dtype: torch.dtype
) -> Float[Tensor, "row column"]:
    """Draw uniform values in [-bound, bound) that depend on (seed, name, row, column) alone."""
    uniform = hash_uniform(seed, text_key(name), rows[:, None], np.arange(num_columns)[None, :])
    return torch.from_numpy((2.0 * uniform - 1.0) * bound).to(dtype)


def initialise_linear(layer: nn.Linear, name: str, *, seed: int) -> None:
    """Fill a linear layer with U(-1/sqrt(in), 1/sqrt(in)), PyTorch's default, from (seed, name) alone."""
    bound = layer.in_features**-0.5
    rows = np.arange(layer.out_features)
    weight, dtype = layer.weight, layer.weight.dtype
    with torch.no_grad():
        weight.copy_(uniform_rows(f"{name}.weight", rows, layer.in_features, bound=bound, seed=seed, dtype=dtype))
        if layer.bias is not None:
            bias = uniform_rows(f"{name}.bias", rows, 1, bound=bound, seed=seed, dtype=dtype)
            layer.bias.copy_(bias[:, 0])


def gather_batch_rows(local: Float[Tensor, "own dim"], batch: Batch, collective: Collective) -> Tensor:
    """Lay every worker's rows of a batch under each other, (batch.num_rows x dim). Differentiable."""
    if collective.world_size == 1:
        return local
    place = torch.arange(batch.offset, batch.offset + len(local))
    whole = local.new_zeros((batch.num_rows, local.shape[1])).index_copy(0, place, local)
    return collective.all_sum(whole)


def is_local(model: Backbone, parameter: str) -> bool:
    """Say whether a parameter's rows stay with this worker, so that its gradient is never exchanged."""
    return model.anatomy.tables.get(parameter) in ("user", "item_block")


def complete_gradients(model: Backbone, collective: Collective) -> None:
    """Turn the shares of replicated parameters' gradients into the gradient of the job's loss, in place.

    Which parameters have a gradient follows from the loss alone, not from a worker's rows (an empty part
    of a batch gives zeros), so every worker exchanges the same ones; others keep ``grad is None``.
    """
    shared = [p.grad for name, p in model.named_parameters() if not is_local(model, name) and p.grad is not None]
    all_sum_list(shared, collective)


def gradient_norms(model: Backbone, groups: Mapping[str, Iterable[str]], collective: Collective) -> dict[str, float]:
    """L2 norm of the job's gradient over each group of parameters, rows of all workers included.

    Call after :func:`complete_gradients`: the norm is of one whole batch's gradient, not a mean of
    workers' norms, so it is the same for any number of workers.
    """
    parameters = dict(model.named_parameters())
    names = list(groups)
    shared = torch.zeros(len(names), dtype=torch.float64)
    local = torch.zeros(len(names), dtype=torch.float64)
    for place, name in enumerate(names):
        for parameter in groups[name]:
            gradient = parameters[parameter].grad
            if gradient is not None:
                (local if is_local(model, parameter) else shared)[place] += gradient.double().square().sum()
    squares = shared + collective.all_sum(local)
    return dict(zip(names, squares.sqrt().tolist(), strict=True))


def num_parameters(model: Backbone, names: Iterable[str], collective: Collective) -> int:
    """Count the entries of parameters over the whole job: rows of all workers, replicated ones once."""
    parameters = dict(model.named_parameters())
    local = sum(parameters[name].numel() for name in names if is_local(model, name))
    shared = sum(parameters[name].numel() for name in names if not is_local(model, name))
    return int(all_sum_number(local, collective)) + shared
