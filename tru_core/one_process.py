"""The whole way in one process that holds everything: arrays in, a trained recommender, a model that forgot.

For those who use the algorithm as a library. The workflows go the same way with many workers and a storage.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tru_core.backbones import BACKBONES, Backbone, BackboneInputs, ItemFeatures
from tru_core.collective import LocalCollective
from tru_core.errors import ConfigError, DataError
from tru_core.fit import FitSettings, fit
from tru_core.graph import ItemNeighbours, build_graph
from tru_core.interactions import IntArray, Pairs, Request, Shard, make_pairs
from tru_core.problem import Outcome, Problem, make_problem, measure
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, run_method
from tru_core.unlearning.methods import METHODS

_BLOCK_ITEMS = 1024
_ALONE = LocalCollective()

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Dataset:
    """Interactions, features and item graphs, all in this process.

    Attributes:
        shard: Every user, with their pairs for training, validation and test.
        features: Item features by modality.
        item_neighbours: The kNN item graph of each modality.
    """

    shard: Shard
    features: Mapping[str, ItemFeatures]
    item_neighbours: Mapping[str, ItemNeighbours]


@dataclass(frozen=True)
class Original:
    """A trained recommender, and how to make another one like it.

    Attributes:
        model: The trained backbone.
        dataset: What it was trained on.
        backbone, settings: Its class and its settings.
        schedule: How it was trained.
    """

    model: Backbone
    dataset: Dataset
    backbone: type[Backbone]
    settings: Settings
    schedule: FitSettings

    def new_model(self, seed: int, *, user_rows: IntArray | None = None) -> Backbone:
        """Build the untrained backbone, of all users or of some rows."""
        return _new_model(self.dataset, self.backbone, self.settings, seed=seed, user_rows=user_rows)


@dataclass(frozen=True)
class Forgotten:
    """What a method made of an Original.

    Attributes:
        candidate: Output vectors of users and items (a score is their inner product), the model, the seconds.
        outcome: Recall and NDCG of test pairs, of validation pairs and of the forgotten pairs.
        problem: The pairs to forget and to retain, and both graphs.
    """

    candidate: Candidate
    outcome: Outcome
    problem: Problem


def make_dataset(
    train: NDArray,
    *,
    valid: NDArray,
    test: NDArray,
    features: Mapping[str, NDArray],
    num_users: int,
    num_items: int,
    num_neighbours: int = 10,
) -> Dataset:
    """Check arrays and build the item graphs.

    Args:
        train, valid, test: int [pair, 2]: user row in [0, num_users), item row in [0, num_items).
        features: float [item, column] by modality, any number of modalities with any names.
        num_neighbours: Neighbours of an item in each item graph, the item itself among them.

    Raises:
        DataError: If a shape, a type or a row is wrong, or a feature is not finite.
    """
    for modality, values in features.items():
        _check_features(modality, values, num_items)
    pairs = {
        name: _pairs_of(name, rows, num_users=num_users, num_items=num_items)
        for name, rows in (("train", train), ("valid", valid), ("test", test))
    }
    if not len(pairs["train"]):
        raise DataError("train has no pair: there is nothing to train on. Nothing was made.")
    rows = np.arange(num_items)
    return Dataset(
        shard=Shard(user_rows=np.arange(num_users), num_users=num_users, num_items=num_items, **pairs),
        features={name: ItemFeatures(rows, torch.from_numpy(values).float()) for name, values in features.items()},
        item_neighbours={
            name: nearest_items(values.astype(np.float64), num_neighbours=num_neighbours)
            for name, values in features.items()
        },
    )


def train(
    dataset: Dataset,
    backbone: str | type[Backbone] = "mgcn",
    *,
    settings: Settings | None = None,
    schedule: FitSettings | None = None,
) -> Original:
    """Train a recommender on all training pairs; it keeps the values of its best validation recall@20.

    Args:
        backbone: A name of ``BACKBONES``, or a class of your own that keeps the contract.
        settings: The backbone's settings; None: its defaults.
        schedule: Epochs, batch size, step size and seed; None: the defaults.

    Raises:
        ConfigError: If there is no such backbone, or the settings are of another one.
        NumericsError: If the loss is not finite.
    """
    kind = _by_name(backbone, BACKBONES, "backbone") if isinstance(backbone, str) else backbone
    settings = kind.settings_type() if settings is None else settings
    schedule = FitSettings() if schedule is None else schedule
    model = _new_model(dataset, kind, settings, seed=schedule.seed)
    shard = dataset.shard
    graph = build_graph(shard.train, shard, dataset.item_neighbours, _ALONE)
    fit(model, graph, shard, shard.train, schedule, valid=shard.valid)
    return Original(model, dataset, backbone=kind, settings=settings, schedule=schedule)


def forget(
    original: Original, request: Request, *, method: str | Method = "tru", settings: Settings | None = None
) -> Forgotten:
    """Make a trained recommender forget. The Original stays as it is: a copy is changed.

    Args:
        request: What to forget, see ``make_request``.
        method: A name of ``METHODS``, or a method of your own.
        settings: The method's settings; None: its defaults.

    Raises:
        ConfigError: If there is no such method.
        DataError: If the request names a row that the data set does not have.
        PolicyError: If it names every training pair.
    """
    chosen = _by_name(method, METHODS, "method") if isinstance(method, str) else method
    settings = chosen.settings_type() if settings is None else settings
    dataset = original.dataset
    _check_request(request, dataset.shard)
    problem = make_problem(dataset.shard, request, dataset.item_neighbours, _ALONE)
    tools = Tools(new_model=original.new_model, fit=original.schedule)
    candidate = run_method(chosen, copy.deepcopy(original.model), problem, settings, tools)
    return Forgotten(candidate, measure(candidate.users, candidate.items, problem, _ALONE), problem)


def nearest_items(features: NDArray[np.float64], *, num_neighbours: int) -> ItemNeighbours:
    """The top-k cosine neighbours of each item, itself among them. A row of zeros is like nothing but itself."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(lengths > 0, lengths, 1.0)
    blocks, similarities = [], []
    for start in range(0, len(unit), _BLOCK_ITEMS):
        cosines = unit[start : start + _BLOCK_ITEMS] @ unit.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = 1.0
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :num_neighbours]
        blocks.append(best)
        similarities.append(np.take_along_axis(cosines, best, axis=1))
    neighbours = np.concatenate(blocks)
    items = np.repeat(np.arange(len(features)), neighbours.shape[1])
    return ItemNeighbours(items=items, neighbours=neighbours.ravel(), similarity=np.concatenate(similarities).ravel())


def _new_model(
    dataset: Dataset, kind: type[Backbone], settings: Settings, *, seed: int, user_rows: IntArray | None = None
) -> Backbone:
    shard = dataset.shard
    inputs = BackboneInputs(
        user_rows=shard.user_rows if user_rows is None else user_rows,
        num_users=shard.num_users,
        num_items=shard.num_items,
        features=dataset.features,
        seed=seed,
    )
    return kind(inputs, settings)


def _by_name(name: str, choices: Mapping[str, Choice], what: str) -> Choice:
    if name not in choices:
        raise ConfigError(f"there is no {what} {name!r}. Expected one of: {', '.join(choices)}. Nothing was started.")
    return choices[name]


def _pairs_of(name: str, rows: NDArray, *, num_users: int, num_items: int) -> Pairs:
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.issubdtype(rows.dtype, np.integer):
        raise DataError(
            f"{name}: expected integers of shape (pairs, 2), found {rows.dtype} of shape {rows.shape}. Nothing was "
            f"made."
        )
    for column, what, limit in ((0, "user", num_users), (1, "item", num_items)):
        is_bad = (rows[:, column] < 0) | (rows[:, column] >= limit)
        if is_bad.any():
            raise DataError(
                f"{name}: {int(is_bad.sum())} {what} rows lie outside 0..{limit - 1}, the first in pair "
                f"{int(is_bad.argmax())}. Nothing was made."
            )
    users, items = rows.astype(np.int64).T
    return make_pairs(users, items, num_items=num_items)


def _check_features(modality: str, values: NDArray, num_items: int) -> None:
    if values.ndim != 2 or len(values) != num_items or not np.issubdtype(values.dtype, np.floating):
        raise DataError(
            f"features of {modality!r}: expected floats of shape ({num_items}, columns), a row an item, found "
            f"{values.dtype} of shape {values.shape}. Nothing was made."
        )
    is_bad = ~np.isfinite(values).all(axis=1)
    if is_bad.any():
        raise DataError(
            f"features of {modality!r}: {int(is_bad.sum())} rows hold NaN or an infinity, the first is row "
            f"{int(is_bad.argmax())}. Nothing was made."
        )


def _check_request(request: Request, shard: Shard) -> None:
    """DataError for a row that does not exist: forgetting it would look like a success."""
    named = (
        ("user", (request.users, request.pair_users), shard.num_users),
        ("item", (request.items, request.pair_items), shard.num_items),
    )
    for what, parts, limit in named:
        num_bad = sum(int(((rows < 0) | (rows >= limit)).sum()) for rows in parts)
        if num_bad:
            raise DataError(
                f"the request names {num_bad} {what} rows outside 0..{limit - 1}. Nothing was forgotten; correct them."
            )
