"""CWD against a plain transcription of arXiv 2011.13256."""

from __future__ import annotations

import math

import pytest
import torch

from tests.support import steps


def distribution(cells: list[float], temperature: float) -> list[float]:
    parts = [math.exp(value / temperature) for value in cells]
    return [part / sum(parts) for part in parts]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_papers(temperature: float) -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    cwd, step = (
        steps.term("cwd", student, teacher, weight=3, temperature=temperature, levels=4),
        steps.step(student, teacher),
    )
    expected = []
    for ours, theirs in zip(step.student.features[:4], step.teacher.features[:4], strict=True):
        total = 0.0
        for n in range(2):
            for c in range(8):
                p = distribution(ours[n, c].flatten().tolist(), temperature)
                q = distribution(theirs[n, c].flatten().tolist(), temperature)
                total += sum(q[i] * math.log(q[i] / p[i]) for i in range(len(q)))
        expected.append(3 * temperature**2 / 8 * total / 2)
    found = cwd(step)
    assert set(found) == {"cwd"}
    torch.testing.assert_close(found["cwd"], torch.tensor([*expected, 0.0], dtype=torch.float64), **steps.TIGHT)


@pytest.mark.parametrize("levels", [1, 4, 5])
def test_the_levels_that_are_compared_learn(levels: int) -> None:
    student, teacher = steps.detector(0), steps.detector(1, channels=16)
    cwd, step = steps.term("cwd", student, teacher, levels=levels), steps.step(student, teacher)
    learns = [bool(gradient.any()) for gradient in steps.gradients(cwd, step)]
    # The last map is a single cell, whose softmax is 1 whatever it holds.
    assert learns == [level < levels and level < 4 for level in range(5)]
    assert set(cwd.adapters()) == {f"align.{level}" for level in range(levels)}
    cwd(step)["cwd"].sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_maps_that_are_active_alike_are_no_distance_apart() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    cwd, step = steps.term("cwd", student, teacher), steps.step(student, teacher)
    with torch.no_grad():
        for ours, theirs in zip(step.student.features, step.teacher.features, strict=True):
            ours.copy_(theirs + 5)  # a shift of the whole channel
    torch.testing.assert_close(cwd(step)["cwd"], torch.zeros(5, dtype=torch.float64))
