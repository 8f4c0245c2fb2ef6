"""Several models, each of one shard of the users: a deletion retrains the touched ones, the others never saw it.

A shard model is ordinary training (:func:`tru_core.fit.fit`) of a model of the shard's users alone, on their retained
pairs and the graph of these. A method here starts from the Original, so no shard model of the time before the deletion
is at hand: the untouched ones are trained here too, on the pairs that they would have seen then, and their time is not
counted as unlearning. Not kept: an interrupted run begins anew.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from tru_core.collective import Collective, all_sum_number
from tru_core.errors import DataError
from tru_core.fit import FitSettings, fit
from tru_core.graph import build_graph, make_sparse, multiply
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import IntArray, Pairs, contains, item_degrees, keep_users, only_users, select
from tru_core.problem import Problem
from tru_core.settings import Settings
from tru_core.unlearning.method import Tools


class ShardSettings(Settings):
    """How many shards, and how each is trained.

    Attributes:
        num_shards: 10 in the paper's UltraRE and in RecEraser's source; in SISA as many as there, so that the three
            differ in how users are parted and scores joined.
        epochs: Epochs of each shard at most; None takes the Original's.
        batch_size: Rows of a shard's batch; None takes the shard's share of the Original's, ``batch_size /
            num_shards``. An epoch of a shard has then as many steps as one of the whole, and patience means as much.
            With whole batches a tenth of TikTok takes one or two steps an epoch and stops before it learns: validation
            recall@20 of two shards' users 0.007 and 0.033 at batches of 4096, 0.093 and 0.100 at 410 (MIG-GT).
    """

    num_shards: PositiveInt = 10
    epochs: PositiveInt | None = None
    batch_size: PositiveInt | None = None

    def schedule(self, original: FitSettings, *, patience: int | None) -> FitSettings:
        """Take the Original's training settings but for what is asked for.

        Args:
            patience: Epochs without a better validation recall; None takes the Original's.
        """
        asked = {"max_epochs": self.epochs, "patience": patience, "batch_size": self.batch_size}
        share = -(-original.batch_size // self.num_shards)
        return original.model_copy(
            update={"batch_size": share} | {name: value for name, value in asked.items() if value is not None}
        )


@dataclass(frozen=True)
class Ensemble:
    """The shard models' output vectors. Shards without a retained pair have no model and do not appear.

    Attributes:
        users: This worker's users in every shard: in their own by its model, in others as :func:`guest_vectors` says.
        items: All items in every shard.
        row: What a deletion costs here, for a method's history: ``num_shards``, ``num_touched_shards``,
            ``smallest_shard`` and ``largest_shard`` in retained pairs, ``seconds_touched`` (training that the
            deletion costs), ``seconds_untouched`` (training that was paid before any request). Means over workers.
    """

    users: Float[Tensor, "shard user dim"]
    items: Float[Tensor, "shard item dim"]
    row: dict[str, float]


def mean_over_workers(value: float, collective: Collective) -> float:
    """Give every worker the same number: the mean of theirs."""
    return all_sum_number(value, collective) / collective.world_size


def touched_shards(problem: Problem, shard_of_user: IntArray, num_shards: int) -> NDArray[np.bool_]:
    """Say which shards a request touches: those that hold a deleted pair, or a held-out pair of a deleted subject.

    Early stopping looked at the latter, so that without them a shard's model may be another epoch's.
    A deleted item touches all of them where items are joined by content, since it leaves the item-item graphs
    that every shard model propagates on.
    """
    valid = problem.shard.valid
    gone = valid.users[~contains(problem.valid, valid.users, valid.items)]
    held = np.bincount(shard_of_user[np.concatenate([problem.forget.users, gone])], minlength=num_shards)
    touched = problem.graph_without.collective.all_sum(torch.from_numpy(held)).numpy() > 0
    if len(problem.request.items) and problem.graph_without.item_item:
        touched[:] = True
    return touched


def guest_vectors(
    items: Float[Tensor, "item dim"], pairs: Pairs, guests: NDArray[np.bool_], degrees: IntArray
) -> Float[Tensor, "user dim"]:
    """Give users vectors in a shard that is not theirs: one propagation from the items that they retain.

    In a foreign shard a user has no edge and an untrained row, so that a score from it would be noise. What the
    shard knows of the user's retained items it can say: entries 1/sqrt(degree_user * degree_item) as in R, the
    item's degree that within the shard, the user's the number of its items that the shard was trained on. This is
    our adaptation; nothing is trained, and deleted pairs are not in it.

    Args:
        items: The shard's output vectors.
        pairs: This worker's retained pairs.
        guests: bool [user], users of this worker who are not of the shard. Rows of others are zero.
        degrees: int64 [item], the shard's training pairs of each item over all workers.
    """
    known = select(pairs, guests[pairs.users] & (degrees[pairs.items] > 0))
    by_user = np.bincount(known.users, minlength=len(guests))
    values = 1.0 / np.sqrt(by_user[known.users] * degrees[known.items].astype(np.float64))
    shape = (len(guests), pairs.num_items)
    return multiply(make_sparse(known.users, known.items, values, shape=shape, dtype=items.dtype), items)


@dataclass(frozen=True)
class _ShardModel:
    """One shard's output vectors: of this worker's users who are of the shard, and of all items."""

    users: Tensor
    items: Tensor
    degrees: IntArray
    seconds: float


def _train_shard(
    problem: Problem, tools: Tools, settings: FitSettings, members: NDArray[np.bool_], name: str
) -> _ShardModel | None:
    started = time.perf_counter()
    whole, collective = problem.graph_without, problem.graph_without.collective
    pairs = keep_users(problem.retain, members)
    degrees = item_degrees(pairs, collective)
    if not degrees.any():
        return None
    shard = only_users(problem.shard, members)
    dtype = whole.user_item.forward.dtype
    gone = problem.request.items
    graph = build_graph(pairs, shard, {}, collective, deleted_items=gone, dtype=dtype)
    graph = replace(graph, item_item=whole.item_item)
    # A shard's model has initial values of its own, so that what no shard was trained on does not add up.
    seed = int(hash_below(2**31, settings.seed, text_key(name)))
    model = tools.new_model(seed, user_rows=shard.user_rows)
    try:
        fit(model, graph, shard, pairs, settings, valid=keep_users(problem.valid, members))
    except DataError as error:
        raise DataError(f"{name} of the users cannot be trained alone; lower num_shards. {error}") from error
    with torch.no_grad():
        users, items = model.embeddings(graph)
    return _ShardModel(users.detach(), items.detach(), degrees, time.perf_counter() - started)


def train_shards(
    problem: Problem, tools: Tools, shard_of_user: IntArray, num_shards: int, *, settings: FitSettings
) -> Ensemble:
    """Train a model on the retained pairs of each shard of users, and give every user a vector in every shard.

    Args:
        shard_of_user: int64 [user], the shard of each of this worker's users, in [0, num_shards). It must not
            follow from anything that the request deletes.
        settings: How each is trained. Early stopping looks at the shard's own users; a shard whose users have no
            validation pair keeps its first epoch.

    Raises:
        DataError: If a shard is too small for negatives: a user of it has all its items.
        NumericsError: If a loss is not finite.
    """
    collective = problem.graph_without.collective
    touched = touched_shards(problem, shard_of_user, num_shards)
    sizes = np.bincount(shard_of_user[problem.retain.users], minlength=num_shards)
    sizes = collective.all_sum(torch.from_numpy(sizes)).numpy()
    users, items, seconds = [], [], np.zeros(2)
    for shard in range(num_shards):
        members = shard_of_user == shard
        trained = _train_shard(problem, tools, settings, members, f"shard-{shard}")
        if trained is not None:
            seconds[int(touched[shard])] += trained.seconds
            every = guest_vectors(trained.items, problem.retain, ~members, trained.degrees)
            every[torch.from_numpy(members)] = trained.users
            users.append(every)
            items.append(trained.items)
    row = {
        "num_shards": float(num_shards),
        "num_touched_shards": float(touched.sum()),
        "smallest_shard": float(sizes.min()),
        "largest_shard": float(sizes.max()),
        "seconds_touched": mean_over_workers(seconds[1], collective),
        "seconds_untouched": mean_over_workers(seconds[0], collective),
    }
    return Ensemble(users=torch.stack(users), items=torch.stack(items), row=row)


def add_scores(
    ensemble: Ensemble, weights: Float[Tensor, " shard"] | None = None
) -> tuple[Float[Tensor, "user wide"], Float[Tensor, "item wide"]]:
    """Lay the shards' vectors side by side, so that an inner product is the weighted sum of the shards' scores.

    Args:
        weights: What each shard's score counts; None for the plain sum.
    """
    users = ensemble.users if weights is None else ensemble.users * weights.to(ensemble.users)[:, None, None]
    return users.transpose(0, 1).flatten(start_dim=1), ensemble.items.transpose(0, 1).flatten(start_dim=1)
