"""RecEraser: similar users in shards of equal size, an attention joins them (Chen et al., WWW 2022).

The Original's user vectors, as they were before the deletion, are parted by balanced k-means; each part is a shard
with a model of its own; an attention over shards, learned on retained pairs with the shards' vectors fixed, says
what each shard counts for a user and for an item.

Exact but for the partition: the clusters saw the deleted pairs, through the Original, and are not drawn anew.
Adapted: the shards' scores are joined, not their vectors, since the spaces of two shards have nothing to do with each
other; so the source's map of each shard into a common space becomes the first layer of the attention, one for each
shard. A user's vector in a foreign shard: :func:`~.shards.guest_vectors`.
"""

import time

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tru_core.backbones.base import Backbone, uniform_rows
from tru_core.collective import all_sum_list
from tru_core.fit import pool_for
from tru_core.hashing import hash_below, hash_uniform, text_key
from tru_core.interactions import Pairs, select
from tru_core.objective import bpr
from tru_core.problem import Problem
from tru_core.ranking import rank_metrics
from tru_core.sampling import iterate_batches, plan_epoch
from tru_core.unlearning.baselines.clustering import balanced_kmeans
from tru_core.unlearning.baselines.shards import Ensemble, ShardSettings, add_scores, mean_over_workers, train_shards
from tru_core.unlearning.method import Candidate, Method, Tools


class RecEraserSettings(ShardSettings):
    """How to shard, how to train each shard, and how to join them.

    Attributes:
        iterations: Of balanced k-means at most; on tables of tens of thousands of users few change after 10.
        patience: Epochs without a better validation recall; None takes the Original's.
        attention_size: Columns of the attention's hidden layer.
        attention_epochs: Passes over the sampled pairs; the best of them by validation recall counts. Not stated;
            the attention has few parameters.
        attention_learning_rate: Adam's step size for the attention.
        attention_share: Share of the retained pairs that the attention is learned on; they are more than it needs.
    """

    iterations: PositiveInt = 20
    patience: PositiveInt | None = None
    attention_size: PositiveInt = 32
    attention_epochs: NonNegativeInt = 10
    attention_learning_rate: PositiveFloat = 1e-2
    attention_share: float = Field(default=0.25, gt=0, le=1)


class Attention(nn.Module):
    """``softmax over shards k of query . relu(W_k v_k + b_k)``: equal over all shards before it is trained."""

    def __init__(self, name: str, vectors: Float[Tensor, "shard row dim"], *, hidden: int, seed: int) -> None:
        super().__init__()
        num_shards, _, dim = vectors.shape
        rows = np.arange(num_shards * dim)
        start = uniform_rows(f"{name}-attention", rows, hidden, bound=dim**-0.5, seed=seed, dtype=vectors.dtype)
        self.weight = nn.Parameter(start.view(num_shards, dim, hidden))
        self.bias = nn.Parameter(vectors.new_zeros((num_shards, 1, hidden)))
        self.query = nn.Parameter(vectors.new_zeros(hidden))

    def forward(self, vectors: Float[Tensor, "shard row dim"]) -> Float[Tensor, "row shard"]:
        hidden = torch.relu(torch.baddbmm(self.bias, vectors, self.weight))
        return torch.softmax((hidden @ self.query).T, dim=1)


def learn_attention(
    ensemble: Ensemble, problem: Problem, settings: RecEraserSettings, *, batch_size: int, seed: int
) -> tuple[Ensemble, list[dict[str, float]]]:
    """Learn the attention of users and of items over shards: BPR on a sample of the retained pairs.

    Score: ``sum over k of a_k(u) * shards * b_k(i) * <u_k, i_k>``; with equal attention the mean of the shards' scores,
    where it starts. Shard models know the pairs that it learns on, so it soon prefers what fits them best: kept
    is the attention of the epoch, the start among them, with the best recall@20 of the validation pairs.

    Returns:
        The ensemble with its vectors weighted so that the plain sum of its shards' scores is that score, and a
        row for each epoch from the start: ``attention_loss`` (none at the start) and ``valid_recall20``.

    Raises:
        DataError: If a user has every item, so that no negative exists.
    """
    shard, collective, num_shards = problem.shard, problem.graph_without.collective, len(ensemble.users)
    sample = _sampled(problem.retain, problem, share=settings.attention_share, seed=seed)
    pool = pool_for(problem.retain, collective)
    seed = int(hash_below(2**31, seed, text_key("attention")))
    by_user = Attention("user", ensemble.users, hidden=settings.attention_size, seed=seed)
    by_item = Attention("item", ensemble.items, hidden=settings.attention_size, seed=seed)
    parameters = [*by_user.parameters(), *by_item.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=settings.attention_learning_rate)

    def weighted() -> tuple[Ensemble, float]:
        with torch.no_grad():
            users = ensemble.users * by_user(ensemble.users).T[:, :, None]
            items = num_shards * ensemble.items * by_item(ensemble.items).T[:, :, None]
        found = Ensemble(users=users, items=items, row=ensemble.row)
        return found, rank_metrics(*add_scores(found), problem.valid, problem.retain, collective).recall

    best, best_recall = weighted()
    rows = [{"valid_recall20": best_recall}]
    for epoch in range(settings.attention_epochs):
        plan = plan_epoch(sample, shard, pool, collective, batch_size=batch_size, seed=seed, epoch=epoch)
        total = torch.zeros(1, dtype=torch.float64)
        for batch in iterate_batches(plan):
            users, items = ensemble.users[:, batch.users], torch.cat([batch.positives, batch.negatives])
            chosen = ensemble.items[:, items]
            counts = num_shards * by_user(users).repeat(2, 1) * by_item(chosen)
            scores = (counts.T * (users.repeat(1, 2, 1) * chosen).sum(dim=2)).sum(dim=0)
            positive, negative = scores.chunk(2)
            loss = bpr(positive, negative) / batch.num_rows
            gradients = list(torch.autograd.grad(loss, parameters))
            all_sum_list(gradients, collective)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            total += loss.detach()
        found, recall = weighted()
        rows.append(
            {
                "attention_loss": float(collective.all_sum(total)) / max(1, plan.num_batches),
                "valid_recall20": recall,
            }
        )
        if recall > best_recall:
            best, best_recall = found, recall
    return best, rows


def _sampled(pairs: Pairs, problem: Problem, *, share: float, seed: int) -> Pairs:
    """Keep about this share of pairs; which ones follows from (seed, user row, item row)."""
    rows = problem.shard.user_rows[pairs.users]
    return select(pairs, hash_uniform(seed, text_key("attention-pair"), rows, pairs.items) < share)


def forget(original: Backbone, problem: Problem, settings: RecEraserSettings, tools: Tools) -> Candidate:
    """Part users as they stood before the deletion, train each shard on what it retains, learn the attention."""
    collective, num_shards, seed = problem.graph_with.collective, settings.num_shards, tools.fit.seed
    started = time.perf_counter()
    with torch.no_grad():
        vectors, _ = original.embeddings(problem.graph_with)
    user_rows, iterations = problem.shard.user_rows, settings.iterations
    shard_of_user = balanced_kmeans(vectors, user_rows, num_shards, collective, iterations=iterations, seed=seed)
    seconds_clustering = mean_over_workers(time.perf_counter() - started, collective)
    schedule = settings.schedule(tools.fit, patience=settings.patience)
    ensemble = train_shards(problem, tools, shard_of_user, num_shards, settings=schedule)
    joined, rows = learn_attention(ensemble, problem, settings, batch_size=tools.fit.batch_size, seed=seed)
    users, items = add_scores(joined)
    row = ensemble.row | {"seconds_clustering": seconds_clustering}
    return Candidate(
        users=users,
        items=items,
        model=None,
        history=[row, *rows],
        seconds_before=row["seconds_untouched"] + row["seconds_clustering"],
    )


REC_ERASER = Method(title="RecEraser", settings_type=RecEraserSettings, forget=forget, has_one_model=False)
