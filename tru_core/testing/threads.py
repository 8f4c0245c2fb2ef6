"""Several workers as threads of this process; :class:`Differentiable` for what crosses them with a gradient."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from tru_core.collective import Collective

Result = TypeVar("Result")


class _Meeting:
    """Where the threads lay down a tensor each and take all of them away."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size, timeout=60)
        self.slots: list[Tensor] = [torch.zeros(0)] * world_size


class ThreadCollective:
    """One thread among ``world_size``."""

    def __init__(self, meeting: _Meeting, rank: int) -> None:
        self.meeting, self.rank, self.world_size = meeting, rank, len(meeting.slots)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        self.meeting.slots[self.rank] = tensor.detach()
        self.meeting.barrier.wait()
        found = [slot.clone() for slot in self.meeting.slots]
        self.meeting.barrier.wait()
        return found

    def all_sum(self, tensor: Tensor) -> Tensor:
        return torch.stack(self.all_gather(tensor)).sum(dim=0)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, inner: Collective) -> Tensor:
        ctx.inner = inner
        return inner.all_sum(tensor)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.inner.all_sum(gradients[0]), None


class Differentiable:
    """A collective of threads whose all-sum has a gradient, as that of processes has."""

    def __init__(self, inner: Collective) -> None:
        self.inner, self.rank, self.world_size = inner, inner.rank, inner.world_size

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return self.inner.all_gather(tensor)

    def all_sum(self, tensor: Tensor) -> Tensor:
        result = _Summed.apply(tensor, self.inner)
        assert isinstance(result, Tensor)
        return result


class OneOfTwo:
    """A worker whose only colleague adds nothing."""

    rank, world_size = 0, 2

    def all_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor, tensor[:0]]


def in_threads(world_size: int, body: Callable[[Collective], Result]) -> list[Result]:
    """Run ``body`` on every worker; give the results in rank order."""
    meeting = _Meeting(world_size)

    def run(rank: int) -> Result:
        try:
            return body(ThreadCollective(meeting, rank))
        except Exception:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(run, rank) for rank in range(world_size)]
    first = [f for f in futures if isinstance(f.exception(), threading.BrokenBarrierError)]
    for future in [f for f in futures if f not in first] + first:
        future.result()
    return [future.result() for future in futures]
