"""What is made of every (anchor, class) pair, a window of anchors at a time.

A focal loss makes some six tensors of the logits' size, and keeps them for its gradient: at a thousand classes and
RetinaNet's anchors that is 6 GB an image. Here only one window's are alive. Of few logits the slopes are made together
with the values, and become the gradient: one tensor of the logits' size. Of many, all is made again for the gradient,
and nothing of the logits' size is held but the maps themselves and their gradients.

No number depends on where a window ends: what is computed for an anchor does not see the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crosskd.losses import at_least_float32

ENTRIES = 1 << 18  # of a window on the CPU: images times anchors times classes; 1 MiB in float32, as caches hold
ON_GPU = 16  # times as many there, where each window costs the start of its kernels
KEPT = 1 << 22  # entries of all windows up to which slopes are kept: 16 MiB
# Windows have a multiple of this many anchors of each cell. On the CPU the last few elements of a tensor, where they
# fill no vector register, are computed by other instructions: so there are none but the batch's own last ones.
VECTOR = 32

# Logits [N, W, K] of a window, and where it lies among the anchors -> tensors [N, W]. It holds no state and draws no
# random numbers, since it is called again for the gradient. Only the logits get one, and only of a single tensor.
Each = Callable[[Tensor, slice], tuple[Tensor, ...]]


def by_anchor(maps: Sequence[Tensor], width: int, each: Each) -> tuple[Tensor, ...]:
    """All that `each` makes of the anchors, [N, A] each, of maps [N, a * width, H_l, W_l].

    Its graph serves one backward pass: `retain_graph` would find the slopes already multiplied.
    """
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in maps)):
        made = [each(cut_out(maps, width, window), window) for window in windows(maps, width)]
        return tuple(torch.cat(parts, dim=1) for parts in zip(*made, strict=True))
    learnt: Tensor = _ByAnchor.apply(width, each, *maps)
    return (learnt,)


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
    entries = ENTRIES if maps[0].device.type == "cpu" else ENTRIES * ON_GPU
    number = max(1, -(-maps[0].shape[0] * total * width // entries))
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
    def forward(ctx: Any, width: int, each: Each, *maps: Tensor) -> Tensor:
        ctx.width, ctx.each, ctx.kinds = width, each, [x.dtype for x in maps]
        ctx.kept = sum(x.numel() for x in maps) <= KEPT
        slopes = [torch.empty_like(x, dtype=at_least_float32(x[:0]).dtype) for x in maps] if ctx.kept else []
        ctx.save_for_backward(*(slopes if ctx.kept else maps))
        parts = []
        for window in windows(maps, width):
            value, slope = _sloped(maps, width, each, window, learns=ctx.kept)
            parts.append(value)
            if slope is not None:
                _lay(slope, slopes, width, window)
        return torch.cat(parts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        width, saved = ctx.width, ctx.saved_tensors
        if ctx.kept:
            _weigh(saved, gradient, width)
            return None, None, *(slope.to(kind) for slope, kind in zip(saved, ctx.kinds, strict=True))
        found = [torch.empty_like(x) for x in saved]
        for window in windows(saved, width):
            _, slope = _sloped(saved, width, ctx.each, window)
            assert slope is not None
            _lay(slope * gradient[:, window, None], found, width, window)
        return None, None, *found


def _sloped(
    maps: Sequence[Tensor], width: int, each: Each, window: slice, *, learns: bool = True
) -> tuple[Tensor, Tensor | None]:
    """What `each` makes of a window [N, W], and its slope in each logit [N, W, width] where that is wanted."""
    logits = cut_out(maps, width, window).detach()
    if not learns:
        (value,) = each(logits, window)
        return value, None
    with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
        (value,) = each(logits.requires_grad_(), window)
        (slope,) = torch.autograd.grad(value, logits, torch.ones_like(value))
    return value.detach(), slope


def _weigh(slopes: Sequence[Tensor], gradient: Tensor, width: int) -> None:
    """Multiply the slopes, laid out as the maps, by the gradient [N, A] of each anchor, in place."""
    start = 0
    for maps in slopes:
        cells = maps.view(len(maps), -1, width, *maps.shape[2:]).flatten(3)  # [N, a, K, H * W]
        count = cells.shape[1] * cells.shape[3]
        own = gradient[:, start : start + count].reshape(len(maps), -1, cells.shape[1])  # [N, H * W, a]
        cells.mul_(own.mT[:, :, None])
        start += count


def _lay(rows: Tensor, maps: Sequence[Tensor], width: int, window: slice) -> None:
    """Lay the rows of a window [N, W, width] where `cut_out` would take them from."""
    start = 0
    for cells in _cells(maps, width, window):
        images, channels, count = cells.shape
        part = rows[:, start : start + count * channels // width]
        cells.copy_(part.reshape(images, count, channels).permute(0, 2, 1))
        start += part.shape[1]
