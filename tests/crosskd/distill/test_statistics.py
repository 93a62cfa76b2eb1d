"""Per-channel statistics where the formula has no answer."""

from __future__ import annotations

import torch

from crosskd.detectors.dense.recall import moments as known
from crosskd.distill.statistics import match_statistics, moments_of, normalise


def test_restat_takes_on_the_others_mean_and_deviation() -> None:
    torch.manual_seed(0)
    x, like = torch.randn(2, 3, 4, 5, dtype=torch.float64), 3 + 2 * torch.randn(2, 3, 7, 2, dtype=torch.float64)
    adapted = match_statistics(x, like)
    torch.testing.assert_close(match_statistics(x, known(like)), adapted)  # by what is kept of each image
    for channel in range(3):
        torch.testing.assert_close(adapted[:, channel].mean(), like[:, channel].mean())
        torch.testing.assert_close(adapted[:, channel].std(), like[:, channel].std(), rtol=1e-5, atol=0)


def test_gradients_flow_through_the_statistics() -> None:
    torch.manual_seed(0)
    like = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: match_statistics(x, like), (x,))
    assert torch.autograd.gradcheck(normalise, (x,))


def test_a_single_cell_keeps_its_features() -> None:
    x, like = torch.randn(1, 3, 1, 1, requires_grad=True), torch.randn(1, 3, 1, 1)
    adapted = match_statistics(x, like)
    assert torch.equal(adapted, x)
    assert torch.equal(moments_of(known(like))[1], torch.zeros(1, 3, 1, 1))
    assert torch.equal(normalise(x), torch.zeros_like(x))
    (adapted.sum() + normalise(x).square().sum()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_two_cells_are_enough() -> None:
    assert match_statistics(torch.randn(2, 3, 1, 1), torch.randn(2, 3, 1, 1)).isfinite().all()


def test_a_dead_channel_becomes_constant_without_a_gradient() -> None:
    x = torch.randn(2, 2, 3, 3)
    x[:, 0] = 0.25
    x.requires_grad_()
    like = 5 + torch.randn(2, 2, 3, 3)
    adapted = match_statistics(x, like)
    torch.testing.assert_close(adapted[:, 0], like[:, 0].mean().expand(2, 3, 3))
    (adapted * torch.randn(2, 2, 3, 3)).sum().backward()
    assert x.grad is not None
    assert not x.grad[:, 0].any()
    assert x.grad[:, 1].any()
    assert x.grad.isfinite().all()


def test_statistics_of_half_precision_are_taken_in_full() -> None:
    x = (100 + torch.randn(2, 3, 8, 8)).bfloat16()
    assert match_statistics(x, x).dtype == torch.float32
    torch.testing.assert_close(normalise(x).mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
