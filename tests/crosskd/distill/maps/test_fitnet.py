"""FitNets against a plain transcription of arXiv 1412.6550."""

from __future__ import annotations

import pytest
import torch

from tests.support import steps


@pytest.mark.parametrize("width", [8, 16], ids=["as wide", "wider teacher"])
def test_the_loss_is_the_papers(width: int) -> None:
    student, teacher = steps.detector(0), steps.detector(1, channels=width)
    fitnet, step = steps.term("fitnet", student, teacher, weight=3), steps.step(student, teacher)
    expected = []
    for level, (ours, theirs) in enumerate(zip(step.student.features, step.teacher.features, strict=True)):
        weight, bias = (p.tolist() for p in fitnet.get_submodule(f"regressors.{level}").parameters())
        s, t, total, count = ours.tolist(), theirs.tolist(), 0.0, 0
        for n in range(len(t)):
            for k in range(width):
                for i in range(len(t[0][0])):
                    for j in range(len(t[0][0][0])):
                        regressed = bias[k] + sum(weight[k][c][0][0] * s[n][c][i][j] for c in range(8))
                        total += (t[n][k][i][j] - regressed) ** 2 / 2
                        count += 1
        expected.append(3 * total / count)
    found = fitnet(step)
    assert set(found) == {"fitnet"}
    torch.testing.assert_close(found["fitnet"], torch.tensor(expected, dtype=torch.float64), **steps.TIGHT)


def test_every_level_of_the_student_and_the_regressors_learn() -> None:
    student, teacher = steps.detector(0), steps.detector(1)
    fitnet, step = steps.term("fitnet", student, teacher), steps.step(student, teacher)
    assert all(gradient.any() for gradient in steps.gradients(fitnet, step))
    fitnet(step)["fitnet"].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in fitnet.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert set(fitnet.adapters()) == {f"regressors.{level}" for level in range(5)}
