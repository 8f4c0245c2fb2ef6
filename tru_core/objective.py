"""Losses as sums over rows, so that the shares of several workers add up to the loss of the batch."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional


def bpr(positive: Float[Tensor, " row"], negative: Float[Tensor, " row"]) -> Float[Tensor, ""]:
    """Sum of ``-log sigmoid(positive - negative)`` over rows (Rendle et al., UAI 2009). Minimised."""
    return -functional.logsigmoid(positive - negative).sum()


def half_squared_norm(*vectors: Tensor) -> Float[Tensor, ""]:
    """Half the sum of squares of all entries: the L2 term of the peers' losses, before its weight."""
    return torch.stack([0.5 * vector.square().sum() for vector in vectors]).sum()


class _InfoNCE(torch.autograd.Function):
    """Log-softmax over a (row, candidate) table that is held once, not once per elementary step."""

    @staticmethod
    def forward(ctx, anchors: Tensor, targets: Tensor, matches: Tensor) -> Tensor:
        logits = anchors @ targets.T
        positive = logits.gather(1, matches[:, None])
        top = logits.max(dim=1, keepdim=True).values
        weights = logits.sub_(top).exp_()
        total = weights.sum(dim=1, keepdim=True)
        loss = (total.log() + top - positive).sum()
        ctx.save_for_backward(anchors, targets, matches, weights.div_(total))
        return loss

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        anchors, targets, matches, weights = ctx.saved_tensors
        scale = gradients[0]
        for_anchors = (weights @ targets - targets[matches]) * scale
        for_targets = (weights.T @ anchors).index_add_(0, matches, anchors, alpha=-1) * scale
        return for_anchors, for_targets, None


def info_nce(
    anchors: Float[Tensor, "row dim"],
    targets: Float[Tensor, "candidate dim"],
    matches: Int64[Tensor, " row"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over rows of InfoNCE with cosine similarity: each anchor against all targets of the batch.

    ``-log( exp(cos(a, t_match) / T) / sum_t exp(cos(a, t) / T) )``, van den Oord et al. 2018. Memory
    is one (row, candidate) table; differentiable once.

    Args:
        matches: For each anchor, the place of its own target among the targets.
        temperature: T, positive.
    """
    scaled = functional.normalize(anchors, dim=1) / temperature
    loss = _InfoNCE.apply(scaled, functional.normalize(targets, dim=1), matches)
    if not isinstance(loss, Tensor):
        raise TypeError("info_nce gives one tensor")
    return loss
