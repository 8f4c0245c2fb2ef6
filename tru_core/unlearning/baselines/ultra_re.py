"""UltraRE: users in shards by balanced optimal transport, learned shard weights (Li et al., NeurIPS 2023).

The Original's user vectors, as they were before the deletion, are clustered with equal masses; each cluster is a
shard with a model of its own; one weight for each shard, learned on validation pairs, adds the shards' scores. Set
as the paper of TRU sets it (A.1 there): 10 shards, Sinkhorn 0.1, 10 iterations, Adam 1e-2 for the weights; but shards
train as the Original did, in batches of their share. Three epochs, as stated there, are nine whole batches of a shard
of TikTok, which leave it untrained: validation recall@20 0.013 (MGCN, 5 % of the users; Original 0.105). ``epochs: 3``
with the Original's ``batch_size`` does that.
The public code calls an exact solver in Sinkhorn's place; here it is Sinkhorn, as stated.

Exact but for the partition: the clusters saw the deleted pairs, through the Original, and are not drawn anew. A
user's score in a foreign shard: :func:`~.shards.guest_vectors`.
"""

import time

import numpy as np
import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.collective import all_sum_number
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import item_degrees, make_pairs
from tru_core.objective import bpr
from tru_core.problem import Problem
from tru_core.sampling import draw_negatives, make_pool
from tru_core.unlearning.baselines.clustering import transport_clusters
from tru_core.unlearning.baselines.shards import Ensemble, ShardSettings, add_scores, mean_over_workers, train_shards
from tru_core.unlearning.method import Candidate, Method, Tools


class UltraRESettings(ShardSettings):
    """Settings of UltraRE: the paper's (arXiv:2604.02183v1, A.1) but for ``epochs``, ``batch_size`` and ``steps``.

    Attributes:
        regularisation: Of the Sinkhorn plan, for a cost whose mean is 1.
        iterations: Outer iterations of the clustering.
        epochs: Epochs of each shard's model, without early stopping; None takes the Original's schedule.
        learning_rate: Adam's step size for the shards' weights.
        weight_decay: Of the shards' weights.
        steps: Steps on the shards' weights, each on every validation pair with a fresh negative. Not stated; after
            100 a weight can have moved by 1, ten times where it starts.
    """

    regularisation: PositiveFloat = 0.1
    iterations: PositiveInt = 10
    learning_rate: PositiveFloat = 1e-2
    weight_decay: NonNegativeFloat = 0.0
    steps: NonNegativeInt = 100


def learn_weights(
    ensemble: Ensemble, problem: Problem, settings: UltraRESettings, *, seed: int
) -> Float[Tensor, " shard"]:
    """Learn what each shard's score counts: BPR on the validation pairs, from equal weights.

    ``min over w of mean of -log sigmoid(sum_k w_k (s_k(u, i) - s_k(u, j)))``, j neither retained nor held out for
    validation. Deleted users and items have no pair in it. Weights may become negative.

    Returns:
        The weights, the same on every worker; equal ones where nothing is held out.

    Raises:
        DataError: If a user has every item, so that no negative exists.
    """
    shard, valid, collective = problem.shard, problem.valid, problem.graph_without.collective
    num_shards = len(ensemble.users)
    weights = torch.full((num_shards,), 1.0 / num_shards, dtype=torch.float64, requires_grad=True)
    num_rows = all_sum_number(len(valid), collective)
    if not num_rows:
        return weights.detach()
    known = make_pairs(
        np.concatenate([problem.retain.users, valid.users]),
        np.concatenate([problem.retain.items, valid.items]),
        num_items=valid.num_items,
    )
    pool = make_pool(known, item_degrees(problem.retain, collective))
    users = ensemble.users[:, torch.from_numpy(valid.users)]
    positives = torch.from_numpy(valid.items)
    optimizer = torch.optim.Adam([weights], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    seed = int(hash_below(2**31, seed, text_key("shard-weights")))
    for step in range(settings.steps):
        drawn = torch.from_numpy(draw_negatives(valid, shard.user_rows, pool, seed=seed, epoch=step))
        differences = (users * (ensemble.items[:, positives] - ensemble.items[:, drawn])).sum(dim=2)
        margins = weights @ differences.double()
        loss = bpr(margins, torch.zeros_like(margins)) / num_rows
        (gradient,) = torch.autograd.grad(loss, [weights])
        weights.grad = collective.all_sum(gradient)
        optimizer.step()
    return weights.detach()


def forget(original: Backbone, problem: Problem, settings: UltraRESettings, tools: Tools) -> Candidate:
    """Cluster users as they stood before the deletion, train each shard on what it retains, weigh the shards."""
    collective, num_shards, seed = problem.graph_with.collective, settings.num_shards, tools.fit.seed
    started = time.perf_counter()
    with torch.no_grad():
        vectors, _ = original.embeddings(problem.graph_with)
    shard_of_user = transport_clusters(
        vectors,
        problem.shard.user_rows,
        num_shards,
        collective,
        regularisation=settings.regularisation,
        iterations=settings.iterations,
        seed=seed,
    )
    seconds_clustering = mean_over_workers(time.perf_counter() - started, collective)
    schedule = settings.schedule(tools.fit, patience=settings.epochs)
    ensemble = train_shards(problem, tools, shard_of_user, num_shards, settings=schedule)
    weights = learn_weights(ensemble, problem, settings, seed=seed)
    users, items = add_scores(ensemble, weights)
    row = ensemble.row | {"seconds_clustering": seconds_clustering}
    row |= {f"weight/{place}": weight for place, weight in enumerate(weights.tolist())}
    return Candidate(
        users=users,
        items=items,
        model=None,
        history=[row],
        seconds_before=row["seconds_untouched"] + row["seconds_clustering"],
    )


ULTRA_RE = Method(title="UltraRE", settings_type=UltraRESettings, forget=forget, has_one_model=False)
