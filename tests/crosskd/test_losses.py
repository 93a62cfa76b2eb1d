"""The element-wise losses against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from crosskd.losses import (
    at_least_float32,
    bins_divergence,
    distribution_focal,
    focal_negative,
    focal_positive,
    level_sums,
    quality_focal,
)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.5, 2.0])
def test_quality_focal_is_weighted_cross_entropy(beta: float) -> None:
    logits = torch.tensor([[-2.0, 0.3, 4.0]], dtype=torch.float64)
    quality = torch.tensor([[0.0, 0.7, 0.2]], dtype=torch.float64)
    p = torch.sigmoid(logits)
    entropy = -(quality * p.log() + (1 - quality) * (1 - p).log())
    torch.testing.assert_close(quality_focal(logits, quality, beta), (p - quality).abs() ** beta * entropy)


def test_quality_focal_vanishes_at_a_sure_and_right_answer_and_sends_nothing_to_the_quality() -> None:
    quality = torch.tensor([0.25], requires_grad=True)
    logits = torch.logit(torch.tensor([0.25])).requires_grad_()
    value = quality_focal(logits, quality, 2.0).sum()
    value.backward()
    assert value < 1e-12
    assert quality.grad is None
    assert logits.grad is not None


def test_an_exponent_below_one_has_a_gradient_where_there_is_nothing_to_weigh() -> None:
    logits = torch.tensor([20.0, 0.0, 0.0], requires_grad=True)
    quality_focal(logits, torch.tensor([1.0, 0.5, 0.25]), 0.5).sum().backward()  # the first two are met exactly
    assert logits.grad is not None
    assert logits.grad[:2].tolist() == [0.0, 0.0]
    assert logits.grad[2] > 0

    extreme = torch.tensor([-200.0, 200.0], requires_grad=True)
    (focal_negative(extreme, 0.5, 0.25) + focal_positive(extreme, 0.5, 0.25)).sum().backward()
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


def test_distribution_focal_is_least_when_the_two_bins_share_the_distance() -> None:
    distance = torch.tensor([2.3])
    log_p = torch.full((1, 6), -30.0)
    log_p[0, 2], log_p[0, 3] = torch.tensor(0.7).log(), torch.tensor(0.3).log()
    entropy = -(0.7 * torch.tensor(0.7).log() + 0.3 * torch.tensor(0.3).log())
    torch.testing.assert_close(distribution_focal(log_p, distance), entropy[None])
    assert distribution_focal(torch.zeros(1, 6), distance) > entropy


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_divergence_is_kl_times_the_square_of_the_temperature(temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    p, q = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    expected = (q * (q / p).log()).sum(-1) * temperature**2
    torch.testing.assert_close(bins_divergence(student, teacher, temperature), expected)
    torch.testing.assert_close(bins_divergence(teacher, teacher, temperature), torch.zeros(4, dtype=torch.float64))


def test_divergence_moves_the_student_alone() -> None:
    student, teacher = torch.randn(2, 5, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    bins_divergence(student, teacher, 1.0).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_full_raises_half_precision_and_keeps_the_rest() -> None:
    for dtype, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert at_least_float32(torch.zeros(1, dtype=dtype)).dtype == expected


def test_level_sums_splits_the_anchors() -> None:
    values = torch.arange(10.0).view(2, 5)
    assert level_sums(values, [3, 2]).tolist() == [0 + 1 + 2 + 5 + 6 + 7, 3 + 4 + 8 + 9]


def test_binary_cross_entropy_of_extreme_logits_stays_finite() -> None:
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = quality_focal(logits, torch.tensor([1.0, 0.0]), 1.0)
    torch.testing.assert_close(loss, F.softplus(torch.tensor([200.0, 200.0])))
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
