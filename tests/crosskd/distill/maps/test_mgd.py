"""MGD against a plain transcription of arXiv 2205.01529."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crosskd.engine.random_state import random_state, restore_random_state, seed_all
from tests.support import steps


def convolved(x: list[list[list[float]]], weight: list[list[list[list[float]]]], bias: list[float]) -> Tensor:
    """One image [C, H, W] by a 3 x 3 kernel with a border of zeros."""
    height, width = len(x[0]), len(x[0][0])
    out = torch.zeros(len(weight), height, width, dtype=torch.float64)
    for k in range(len(weight)):
        for i in range(height):
            for j in range(width):
                value = bias[k]
                for c in range(len(x)):
                    for a in (-1, 0, 1):
                        for b in (-1, 0, 1):
                            if 0 <= i + a < height and 0 <= j + b < width:
                                value += weight[k][c][a + 1][b + 1] * x[c][i + a][j + b]
                out[k, i, j] = value
    return out


def test_the_loss_is_the_papers() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    mgd, step = steps.term("mgd", student, teacher, weight=2, masked=0.4), steps.step(student, teacher)
    torch.manual_seed(3)
    found = mgd(step)
    assert set(found) == {"mgd"}
    torch.manual_seed(3)
    for level, (ours, theirs) in enumerate(zip(step.student.features, step.teacher.features, strict=True)):
        height, width = ours.shape[-2:]
        random = torch.rand(2, 1, height, width)
        first, _, second = mgd.get_submodule(f"generate.{level}").children()
        total = 0.0
        for n in range(2):
            masked = ours[n].detach().clone()
            for i in range(height):
                for j in range(width):
                    if random[n, 0, i, j] < 0.4:
                        masked[:, i, j] = 0
            hidden = convolved(masked.tolist(), *(p.tolist() for p in first.parameters())).clamp(min=0)
            made = convolved(hidden.tolist(), *(p.tolist() for p in second.parameters()))
            total += float((theirs[n] - made).square().sum())
        torch.testing.assert_close(float(found["mgd"][level].detach()), 2 * total / 2, **steps.TIGHT)


def test_masks_follow_the_generator_that_a_checkpoint_holds() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    mgd, step = steps.term("mgd", student, teacher), steps.step(student, teacher)
    seed_all(5)
    state = random_state()
    first, second = mgd(step)["mgd"], mgd(step)["mgd"]
    assert not torch.equal(first, second)
    restore_random_state(state)
    assert torch.equal(mgd(step)["mgd"], first)
    assert torch.equal(mgd(step)["mgd"], second)


@pytest.mark.parametrize(("masked", "learns"), [(0.0, True), (0.65, True), (1.0, False)])
def test_a_masked_cell_teaches_the_student_nothing(masked: float, learns: bool) -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    mgd, step = steps.term("mgd", student, teacher, masked=masked), steps.step(student, teacher)
    seed_all(0)
    reached = torch.cat([gradient.ne(0).any(1).flatten() for gradient in steps.gradients(mgd, step)])
    assert bool(reached.any()) == learns
    assert abs(1 - float(reached.double().mean()) - masked) < 0.1
    mgd(step)["mgd"].sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(feature.grad is None for feature in step.teacher.features)


def test_another_width_is_led_over_by_a_convolution() -> None:
    student, teacher = steps.detector(0), steps.detector(1, channels=16)
    mgd, step = steps.term("mgd", student, teacher), steps.step(student, teacher)
    assert all(gradient.any() for gradient in steps.gradients(mgd, step)[:3])
    assert {name.split(".")[0] for name in mgd.adapters()} == {"align", "generate"}
    alike = steps.term("mgd", student, steps.detector(1))
    assert {name.split(".")[0] for name in alike.adapters()} == {"generate"}
