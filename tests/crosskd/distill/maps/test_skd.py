"""SKD against its formula (arXiv 2211.13133), the window's means taken by scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from crosskd.distill.maps.skd import structural_similarity, to_unit_range
from tests.support import steps


def expected(ours: Any, theirs: Any) -> float:
    """Mean of (1 - l c s) / 2 over two maps [N, C, H, W], each image within 0..1: the three factors as they stand."""
    total = []
    for a, b in zip(ours, theirs, strict=True):
        a, b = ((x - x.min()) / (x.max() - x.min()) for x in (a, b))
        for x, y in zip(a, b, strict=True):
            mean_x, mean_y = blurred(x), blurred(y)
            spread_x, spread_y = (np.sqrt(np.maximum(blurred(z * z) - blurred(z) ** 2, 0)) for z in (x, y))
            joint = blurred(x * y) - mean_x * mean_y
            luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
            contrast = (2 * spread_x * spread_y + 9e-4) / (spread_x**2 + spread_y**2 + 9e-4)
            structure = (joint + 4.5e-4) / (spread_x * spread_y + 4.5e-4)
            total.append((1 - luminance * contrast * structure) / 2)
    return float(np.mean(total))


def blurred(x: Any) -> Any:
    return gaussian_filter(x, sigma=1.5, radius=5, mode="mirror")


@pytest.mark.parametrize("width", [8, 16], ids=["as wide", "wider teacher"])
def test_the_loss_is_the_papers(width: int) -> None:
    student, teacher = steps.detector(0), steps.detector(1, channels=width)
    skd, step = steps.term("skd", student, teacher, weight=3), steps.step(student, teacher)
    wanted = []
    for level, (ours, theirs) in enumerate(zip(step.student.features, step.teacher.features, strict=True)):
        aligned = skd.get_submodule(f"align.{level}")(ours)
        wanted.append(3 * expected(aligned.detach().numpy(), theirs.numpy()))
    found = skd(step)
    assert set(found) == {"skd"}
    torch.testing.assert_close(found["skd"], torch.tensor(wanted, dtype=torch.float64), **steps.TIGHT)


def test_maps_of_the_same_shape_are_alike_and_turned_ones_are_not() -> None:
    """Shift and scale do not count; the sign does. A map without any range is like itself, and has a gradient."""
    x = steps.maps(4, 2, 0)[0]
    assert torch.allclose(structural_similarity(to_unit_range(x), to_unit_range(5 * x - 2)), torch.ones(1).double())
    assert structural_similarity(to_unit_range(x), to_unit_range(-x)).mean() < 0
    flat = torch.zeros(1, 4, 2, 3, requires_grad=True)
    loss = structural_similarity(to_unit_range(flat), to_unit_range(x[:1, :, :2, :3].float())).sum()
    loss.backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_every_level_of_the_student_and_the_adapters_learn() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    skd, step = steps.term("skd", student, teacher), steps.step(student, teacher)
    assert all(gradient.any() for gradient in steps.gradients(skd, step))
    skd(step)["skd"].sum().backward()
    assert all(skd.get_submodule(f"align.{level}").weight.grad.any() for level in range(5))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert set(skd.adapters()) == {f"align.{level}" for level in range(5)}
