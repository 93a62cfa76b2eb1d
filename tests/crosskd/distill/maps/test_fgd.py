"""FGD against a plain transcription of arXiv 2111.11837."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from crosskd.distill.maps.fgd import Context, masks
from crosskd.structures import Targets
from tests.support import steps

Array = NDArray[np.float64]
NAMES = ["fgd_foreground", "fgd_background", "fgd_attention", "fgd_global"]


def softmax(values: list[float]) -> list[float]:
    parts = [math.exp(value) for value in values]
    return [part / sum(parts) for part in parts]


def attentions(x: Array, temperature: float) -> tuple[Array, Array]:
    """One image's map [C, H, W] -> A^S [H, W], A^C [C]."""
    channels, height, width = x.shape
    of_cells = [sum(abs(x[c, i, j]) for c in range(channels)) / channels for i in range(height) for j in range(width)]
    of_channels = [
        sum(abs(x[c, i, j]) for i in range(height) for j in range(width)) / (height * width) for c in range(channels)
    ]
    spatial = height * width * np.array(softmax([g / temperature for g in of_cells])).reshape(height, width)
    return spatial, channels * np.array(softmax([g / temperature for g in of_channels]))


def scale(boxes: list[list[float]], pixels: tuple[float, float], height: int, width: int) -> tuple[Array, Array]:
    """M and S of one image: whether a cell, so many pixels down and across, is in a box, and its scale."""
    down, across = pixels
    inside, size = np.zeros((height, width)), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            for x1, y1, x2, y2 in boxes:
                left, top = math.floor(x1 / across), math.floor(y1 / down)
                right, bottom = math.ceil(x2 / across), math.ceil(y2 / down)
                if left <= j <= right and top <= i <= bottom:
                    inside[i, j] = 1
                    size[i, j] = max(size[i, j], 1 / ((right - left + 1) * (bottom - top + 1)))
    outside = height * width - inside.sum()
    return inside, np.where(inside == 1, size, 1 / max(outside, 1))


def related(x: Array, block: torch.nn.Module) -> Array:
    """R(F) of one image: the GcBlock with its weights taken out."""
    p = {name: value.detach().numpy() for name, value in block.named_parameters()}
    channels, height, width = x.shape
    logits = [
        float(p["weigh.bias"][0]) + sum(float(p["weigh.weight"][0, c, 0, 0]) * x[c, i, j] for c in range(channels))
        for i in range(height)
        for j in range(width)
    ]
    share = softmax(logits)
    context = np.array([sum(share[m] * x[c].ravel()[m] for m in range(height * width)) for c in range(channels)])
    hidden = p["transform.0.weight"][:, :, 0, 0] @ context + p["transform.0.bias"]
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
    hidden = hidden * p["transform.1.weight"][:, 0, 0] + p["transform.1.bias"][:, 0, 0]
    added = p["transform.3.weight"][:, :, 0, 0] @ np.maximum(hidden, 0) + p["transform.3.bias"]
    return x + added[:, None, None]


# The second image ends where its box does, and the batch goes on.
PADDED = replace(steps.TWO, sizes=[(64, 96), (60, 50)])


@pytest.mark.parametrize("mask_scale", ["image", "stride"])
@pytest.mark.parametrize("targets", [steps.TWO, PADDED, steps.EMPTY], ids=["boxes", "padded", "no boxes"])
@pytest.mark.parametrize("width", [8, 16], ids=["as wide", "wider teacher"])
def test_the_losses_are_the_papers(width: int, targets: Targets, mask_scale: str) -> None:
    """`image`: boxes over the image's size, times the map's, as in the published code."""
    student, teacher = steps.detector(0), steps.detector(1, channels=width)
    alpha, beta, gamma, lambda_, temperature = 2.0, 3.0, 5.0, 7.0, 0.8
    fgd = steps.term(
        "fgd",
        student,
        teacher,
        foreground_weight=alpha,
        background_weight=beta,
        attention_weight=gamma,
        global_weight=lambda_,
        temperature=temperature,
        mask_scale=mask_scale,
    )
    step = steps.step(student, teacher, targets)
    expected = np.zeros((4, 5))
    for level, (ours, theirs) in enumerate(zip(step.student.features, step.teacher.features, strict=True)):
        mine = fgd.get_submodule(f"align.{level}")(ours).detach().numpy()
        for n in range(2):
            s, t = mine[n], theirs[n].numpy()
            spatial, channel = attentions(t, temperature)
            spatial_s, channel_s = attentions(s, temperature)
            rows, columns = t.shape[1:]
            pixels, stride = (targets.sizes[n][0] / rows, targets.sizes[n][1] / columns), 8.0 * 2**level
            cell = pixels if mask_scale == "image" else (stride, stride)
            inside, size = scale(targets.boxes[n].tolist(), cell, rows, columns)
            for i in range(t.shape[1]):
                for j in range(t.shape[2]):
                    for k in range(width):
                        part = size[i, j] * spatial[i, j] * channel[k] * (t[k, i, j] - s[k, i, j]) ** 2
                        expected[0, level] += alpha * inside[i, j] * part
                        expected[1, level] += beta * (1 - inside[i, j]) * part
            expected[2, level] += gamma * (np.abs(spatial - spatial_s).sum() + np.abs(channel - channel_s).sum())
            blocks = (fgd.get_submodule(f"{whose}_context.{level}") for whose in ("teacher", "student"))
            expected[3, level] += lambda_ * ((related(t, next(blocks)) - related(s, next(blocks))) ** 2).sum()
    found = fgd(step)
    assert list(found) == NAMES
    for name, row in zip(NAMES, expected / 2, strict=True):
        torch.testing.assert_close(found[name].detach(), torch.tensor(row), **steps.TIGHT)


def test_the_smallest_box_of_a_cell_gives_its_scale_and_masks_reach_no_other_image() -> None:
    targets = steps.targets([[[0, 0, 64, 56], [16, 16, 24, 24]], []])
    foreground, background = masks(targets, 8, torch.zeros(2, 8, 8, 12, dtype=torch.float64), scale="stride")
    assert float(foreground[0, 0, 0, 0]) == 1 / (9 * 8)
    assert float(foreground[0, 0, 2, 2]) == 1 / 4
    assert not foreground[0, 0, :, 9:].any()
    assert not foreground[1].any()
    torch.testing.assert_close(background.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))


def test_the_published_code_stretches_boxes_where_the_batch_is_padded() -> None:
    """An image of 32 x 48 pixels in a batch of 64 x 96: a box in its last quarter."""
    targets = replace(steps.targets([[[24, 16, 48, 32]]]), sizes=[(32, 48)])
    like = torch.zeros(1, 8, 8, 12, dtype=torch.float64)
    where = {}
    for how in ("image", "stride"):
        foreground, _ = masks(targets, 8, like, scale=how)  # type: ignore[arg-type]
        rows, columns = foreground[0, 0].nonzero(as_tuple=True)
        where[how] = [int(x) for x in (rows.min(), rows.max(), columns.min(), columns.max())]
    assert where == {"image": [4, 7, 6, 11], "stride": [2, 4, 3, 6]}


def test_a_map_that_is_all_foreground_has_no_background() -> None:
    targets = steps.targets([[[0, 0, 96, 64]]])
    foreground, background = masks(targets, 64, torch.zeros(1, 8, 1, 2, dtype=torch.float64))
    assert foreground.all()
    assert not background.any()


def test_a_new_block_is_the_identity_and_learns_all_the_same() -> None:
    torch.manual_seed(0)
    block, x = Context(8), torch.randn(2, 8, 3, 4)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.get_parameter("transform.3.weight").grad is not None
    assert block.get_parameter("transform.3.weight").grad.any()  # type: ignore[union-attr]


def test_every_level_of_the_student_and_both_models_blocks_learn() -> None:
    student, teacher = steps.detector(0), steps.detector(1, channels=16)
    fgd, step = steps.term("fgd", student, teacher), steps.step(student, teacher)
    assert all(gradient.any() for gradient in steps.gradients(fgd, step))
    torch.stack(list(fgd(step).values())).sum().backward()
    for name, parameter in fgd.named_parameters():
        # One cell has all the weight whatever the block thinks of it.
        lone = ".4.weigh" in name or name.endswith("weigh.bias")
        assert parameter.grad is not None
        assert lone or parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert {name.split(".")[0] for name in fgd.adapters()} == {"align", "student_context", "teacher_context"}
