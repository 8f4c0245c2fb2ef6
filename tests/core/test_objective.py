"""Losses by hand, against PyTorch's own, and their gradients against differences."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tru_core.objective import bpr, half_squared_norm, info_nce


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_bpr_is_the_sum_of_log_sigmoids() -> None:
    assert bpr(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])).item() == pytest.approx(2 * math.log(2))
    expected = math.log(1 + math.exp(-3.0)) + math.log(1 + math.exp(2.0))
    assert bpr(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 2.0])).item() == pytest.approx(expected)


def test_bpr_falls_when_the_positive_rises_and_stays_finite() -> None:
    assert bpr(torch.tensor([2.0]), torch.tensor([0.0])) < bpr(torch.tensor([1.0]), torch.tensor([0.0]))
    assert bpr(torch.tensor([-1000.0]), torch.tensor([1000.0])).item() == pytest.approx(2000.0)


def test_bpr_of_no_row_is_zero() -> None:
    assert bpr(torch.zeros(0), torch.zeros(0)).item() == 0.0


def test_half_squared_norm_by_hand() -> None:
    assert half_squared_norm(torch.tensor([3.0, 4.0]), torch.tensor([[2.0]])).item() == pytest.approx(14.5)


def cross_entropy(anchors: Tensor, targets: Tensor, matches: Tensor, *, temperature: float) -> Tensor:
    logits = functional.normalize(anchors, dim=1) @ functional.normalize(targets, dim=1).T / temperature
    return functional.cross_entropy(logits, matches, reduction="sum")


@pytest.mark.parametrize(("num_anchors", "num_targets", "temperature"), [(7, 7, 0.2), (3, 9, 1.0), (6, 2, 0.05)])
def test_info_nce_equals_cross_entropy_over_cosines(num_anchors: int, num_targets: int, temperature: float) -> None:
    matches = torch.arange(num_anchors) * 5 % num_targets
    results = []
    for function in (info_nce, cross_entropy):
        anchors = random(num_anchors, 4, seed=1).requires_grad_()
        targets = random(num_targets, 4, seed=2).requires_grad_()
        loss = function(anchors, targets, matches, temperature=temperature)
        (loss * 1.7).backward()
        results.append((loss.detach(), anchors.grad, targets.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_info_nce_passes_gradcheck_with_a_target_that_matches_twice() -> None:
    anchors, targets = random(5, 3, seed=3).requires_grad_(), random(4, 3, seed=4).requires_grad_()
    matches = torch.tensor([0, 2, 2, 1, 3])
    assert torch.autograd.gradcheck(lambda a, t: info_nce(a, t, matches, temperature=0.3), (anchors, targets))


def test_info_nce_of_a_lone_pair_is_zero_whatever_their_angle() -> None:
    assert info_nce(random(1, 3), random(1, 3, seed=1), torch.tensor([0]), temperature=0.2).item() == 0.0


def test_info_nce_of_a_worker_without_rows_is_zero_and_has_zero_gradients() -> None:
    anchors, targets = random(0, 3).requires_grad_(), random(4, 3).requires_grad_()
    loss = info_nce(anchors, targets, torch.zeros(0, dtype=torch.int64), temperature=0.2)
    loss.backward()
    assert loss.item() == 0.0
    assert targets.grad is not None
    assert not targets.grad.any()


def test_info_nce_leaves_its_inputs_alone() -> None:
    anchors, targets = random(4, 3), random(4, 3, seed=1)
    kept = anchors.clone(), targets.clone()
    info_nce(anchors, targets, torch.arange(4), temperature=0.2)
    assert torch.equal(anchors, kept[0])
    assert torch.equal(targets, kept[1])


def test_info_nce_does_not_overflow_at_a_small_temperature() -> None:
    anchors = random(4, 3).float()
    assert torch.isfinite(info_nce(anchors, -anchors, torch.arange(4), temperature=1e-3))
