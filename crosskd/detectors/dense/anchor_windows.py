"""What is made of every (anchor, class) pair, a window of anchors at a time.

A focal loss makes some six tensors of the logits' size, and keeps them for its gradient: at a thousand classes and
RetinaNet's anchors that is 6 GB an image. Here only one window's are alive. They are made again for the gradient, and
nothing of the logits' size is held but the maps themselves and their gradients. What fits in one window is made once.

No number depends on where a window ends: what is computed for an anchor does not see the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crosskd.losses import at_least_float32

ENTRIES = 1 << 22  # of a window: images times anchors times classes; 16 MiB in float32
# Windows have a multiple of this many anchors of each cell. On the CPU the last few elements of a tensor, where they
# fill no vector register, are computed by other instructions: so there are none but the batch's own last ones.
VECTOR = 32

# Logits [N, W, K] of a window, and where it lies among the anchors -> tensors [N, W]. It holds no state and draws no
# random numbers, since it is called again for the gradient. Only the logits get one.
Each = Callable[[Tensor, slice], tuple[Tensor, ...]]


def by_anchor(maps: Sequence[Tensor], width: int, each: Each) -> tuple[Tensor, ...]:
    """All that `each` makes of the anchors, [N, A] each, of maps [N, a * width, H_l, W_l]."""
    found = windows(maps, width)
    if len(found) == 1:  # what it takes is little, and to make it again for the gradient would cost half as much again
        return each(cut_out(maps, width, found[0]), found[0])
    made: tuple[Tensor, ...] = _ByAnchor.apply(width, each, *maps)
    return made


def cut_out(maps: Sequence[Tensor], width: int, window: slice) -> Tensor:
    """The rows of a window [N, W, width] in full precision, laid in memory as `head.flatten` lays all of them."""
    parts = [
        at_least_float32(cells).permute(0, 2, 1).reshape(cells.shape[0], -1, width)
        for cells in _cells(maps, width, window)
    ]
    # The order in which a sum goes over the classes depends on how they lie.
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, dim=1)


def gather(maps: Sequence[Tensor], width: int, image: Tensor, anchor: Tensor) -> Tensor:
    """The rows of single anchors, `image` and `anchor` [P] -> [P, width], in full precision."""
    found = maps[0].new_zeros(len(anchor), width)
    start = 0
    for x in maps:
        per_cell = x.shape[1] // width
        count = per_cell * x.shape[2] * x.shape[3]
        place = (anchor - start).clamp(0, count - 1)
        rows = x.reshape(x.shape[0], per_cell, width, -1)[image, place % per_cell, :, place // per_cell]
        found = torch.where((anchor >= start)[:, None], rows, found)
        start += count
    return at_least_float32(found)


def of_classes(maps: Sequence[Tensor], classes: Tensor) -> Tensor:
    """The logits of `classes` [N, G], of maps [N, K, H_l, W_l] of one anchor a cell -> [N, G, A], in full precision."""
    image = torch.arange(len(classes), device=classes.device)[:, None]
    return torch.cat([at_least_float32(x[image, classes]).flatten(2) for x in maps], dim=2)


def windows(maps: Sequence[Tensor], width: int) -> list[slice]:
    """Where each window lies among the anchors of all levels; all but the last are equally long."""
    step = VECTOR * (maps[0].shape[1] // width)
    total = sum(x.shape[1] // width * x.shape[2] * x.shape[3] for x in maps)
    number = max(1, -(-maps[0].shape[0] * total * width // ENTRIES))
    length = -(-total // (number * step)) * step
    return [slice(start, min(start + length, total)) for start in range(0, total, length)]


def _cells(maps: Sequence[Tensor], width: int, window: slice) -> list[Tensor]:
    """Views of the maps' cells that lie in a window, [N, a * width, cells] of each level that it touches."""
    found, start = [], 0
    for x in maps:
        per_cell = x.shape[1] // width
        count = per_cell * x.shape[2] * x.shape[3]
        first, last = max(window.start, start) - start, min(window.stop, start + count) - start
        if first < last:
            found.append(x.flatten(2)[:, :, first // per_cell : last // per_cell])
        start += count
    return found


class _ByAnchor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, width: int, each: Each, *maps: Tensor) -> tuple[Tensor, ...]:
        ctx.width, ctx.each = width, each
        ctx.save_for_backward(*maps)
        made = [each(cut_out(maps, width, window), window) for window in windows(maps, width)]
        return tuple(torch.cat(parts, dim=1) for parts in zip(*made, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, width = ctx.saved_tensors, ctx.width
        found = [torch.empty_like(x) for x in maps]
        for window in windows(maps, width):
            logits = cut_out(maps, width, window).detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
                made = ctx.each(logits, window)
            (gradient,) = torch.autograd.grad(made, logits, [of_all[:, window] for of_all in gradients])
            start = 0
            for cells in _cells(found, width, window):
                images, channels, count = cells.shape
                rows = gradient[:, start : start + count * channels // width]
                cells.copy_(rows.reshape(images, count, channels).permute(0, 2, 1))
                start += rows.shape[1]
        return None, None, *found
