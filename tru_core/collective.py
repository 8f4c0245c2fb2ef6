"""What crosses workers, and nothing else: a differentiable all-sum and an all-gather.

The algorithm is written as if alone. Each worker computes its *share* of the loss; the loss of the
job is the sum of the shares. :meth:`Collective.all_sum` is differentiable in that sense: its
backward pass all-sums the incoming gradients, so that after ``share.backward()`` on every worker
each tensor that stays with one worker (user rows, feature rows) holds the gradient of the *whole*
loss, and each replicated parameter holds a share that :func:`all_sum_list` completes.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor


@runtime_checkable
class Collective(Protocol):
    """The workers of one job. Every method is entered by all of them, in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor of one shape over all workers. Differentiable; the input is left as it is."""
        ...

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Collect every worker's tensor, in rank order. First dimensions may differ. No gradient."""
        ...


class LocalCollective:
    """A job of one worker: every exchange is the identity."""

    rank = 0
    world_size = 1

    def all_sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor.detach()]


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class TorchCollective:
    """The default process group of ``torch.distributed`` (gloo on CPU, NCCL on GPU)."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def all_sum(self, tensor: Tensor) -> Tensor:
        result = _AllSum.apply(tensor)
        if not isinstance(result, Tensor):
            raise TypeError("all_sum takes one tensor")
        return result

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        tensor = tensor.detach().contiguous()
        lengths = torch.zeros(self.world_size, dtype=torch.int64, device=tensor.device)
        lengths[self.rank] = tensor.shape[0]
        dist.all_reduce(lengths)
        longest = int(lengths.max())
        padded = tensor.new_zeros((longest, *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return [part[: int(length)] for part, length in zip(parts, lengths, strict=True)]


def all_sum_list(tensors: Sequence[Tensor], collective: Collective) -> None:
    """Replace each tensor by its sum over all workers, in place, in one exchange per dtype."""
    if collective.world_size == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        total = collective.all_sum(torch.cat([tensor.detach().reshape(-1) for tensor in group]))
        for tensor, part in zip(group, total.split([t.numel() for t in group]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))


def all_sum_number(value: float, collective: Collective) -> float:
    """Sum one number over all workers, in float64 (exact for counts below 2**53)."""
    if collective.world_size == 1:
        return float(value)
    return float(collective.all_sum(torch.tensor([value], dtype=torch.float64))[0])
