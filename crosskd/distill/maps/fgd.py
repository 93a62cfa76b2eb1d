"""FGD: focal and global distillation (arXiv 2111.11837)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.boxes.ops import filled
from crosskd.boxes.pieces import pieces
from crosskd.detectors.detector import Detector
from crosskd.distill.maps.features import adapters, image_mean, pairs
from crosskd.distill.term import MapTerm, Step
from crosskd.spec.config import FGDConfig
from crosskd.structures import Losses, Targets


class Context(nn.Module):
    """GcBlock (arXiv 1904.11492): what the whole map says, added to every cell.

    The last convolution starts at 0, so that the block starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(channels, 1, kernel_size=1)
        last = nn.Conv2d(channels // 2, channels, kernel_size=1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, channels // 2, kernel_size=1), nn.LayerNorm([channels // 2, 1, 1]), nn.ReLU(), last
        )
        nn.init.kaiming_normal_(self.weigh.weight, mode="fan_in", nonlinearity="relu")
        for parameter in (self.weigh.get_parameter("bias"), *last.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        share = self.weigh(x).flatten(2).softmax(-1)  # [N, 1, HW]
        pooled = (x.flatten(2) * share).sum(-1)[..., None, None]  # [N, C, 1, 1]
        out: Tensor = x + self.transform(pooled)
        return out


class FGD(MapTerm):
    """Focal: features in boxes and outside, weighed by the teacher's attention, and the attention itself.

    Global: the relations between cells, as a block per level and model, learnt along, makes them.
    All are sums over a level's map, and means over images.
    """

    config: FGDConfig

    def __init__(self, config: FGDConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        self.align = adapters(student, teacher)
        channels, levels = teacher.config.neck.channels, len(student.config.strides)
        self.student_context = nn.ModuleList(Context(channels) for _ in range(levels))
        self.teacher_context = nn.ModuleList(Context(channels) for _ in range(levels))

    def forward(self, step: Step) -> Losses:
        config, rows = self.config, []
        assert config.temperature is not None
        given = (
            config.foreground_weight,
            config.background_weight,
            config.attention_weight,
            config.global_weight,
        )
        weights = [weight for weight in given if weight is not None]  # none is, once resolved
        with torch.autocast(step.student.features[0].device.type, enabled=False):
            for level, (ours, theirs) in enumerate(pairs(step, self.align)):
                foreground, background = masks(
                    step.targets, step.student.head.strides[level], theirs, scale=config.mask_scale
                )
                spatial, channel = attention(theirs, config.temperature)
                difference = ((ours - theirs).square() * channel).sum(1, keepdim=True) * spatial  # [N, 1, H, W]
                shift = [
                    (mine - wanted).abs().sum()
                    for mine, wanted in zip(attention(ours, config.temperature), (spatial, channel), strict=True)
                ]
                relations = self.student_context[level](ours) - self.teacher_context[level](theirs)
                rows.append(
                    torch.stack(
                        (
                            (difference * foreground).sum(),
                            (difference * background).sum(),
                            shift[0] + shift[1],
                            relations.square().sum(),
                        )
                    )
                )
            table = torch.stack(rows, dim=1)  # [4, L]
            table = image_mean(table * filled(weights, table)[:, None], images=len(step.student.features[0]))
        names = ("fgd_foreground", "fgd_background", "fgd_attention", "fgd_global")
        return dict(zip(names, table, strict=True))


def attention(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Where a map [N, C, H, W] is active: [N, 1, H, W] over cells and [N, C, 1, 1] over channels.

    A softmax of the mean absolute values, times their number: 1 on average.
    """
    images, channels, height, width = x.shape
    size = x.abs()
    cells = F.softmax(size.mean(1).flatten(1) / temperature, dim=1) * (height * width)
    across = F.softmax(size.mean((2, 3)) / temperature, dim=1) * channels
    return cells.view(images, 1, height, width), across[..., None, None]


def masks(
    targets: Targets, stride: int, like: Tensor, *, scale: Literal["image", "stride"] = "image"
) -> tuple[Tensor, Tensor]:
    """Scale masks of the foreground and the background of a level, [N, 1, H, W] each.

    A cell in a box has 1 / the cells of the box, of the smallest if in several; all others share 1 equally. Boxes
    are rounded outwards to whole cells, both ends included. With `scale` image the whole map is taken for the image
    before padding, as in the published code; with stride each box lies on the cells that see it.
    """
    _, _, height, width = like.shape
    y, x = (torch.arange(n, device=like.device) for n in (height, width))
    table = targets.table
    boxes, there = table.boxes, table.there
    if scale == "image":
        sides = table.sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)  # [N, 1, 4] width, height, width, height
        places = boxes / sides * filled([width, height] * 2, boxes)  # [N, G, 4] in cells
    else:
        places = boxes / stride
    first, last = places[..., :2].floor(), places[..., 2:].ceil()  # [N, G, 2]
    across = (x >= first[..., :1]) & (x <= last[..., :1])  # [N, G, W]
    down = (y >= first[..., 1:]) & (y <= last[..., 1:])  # [N, G, H]
    share = torch.where(there, 1 / (last - first + 1).prod(-1), 0.0).to(like.dtype)  # [N, G]
    foreground = like.new_zeros(len(boxes), 1, height, width)
    for cut in pieces(boxes.shape[1], len(boxes) * height * width):
        cells = down[:, cut, :, None] & across[:, cut, None, :]  # [N, G, H, W]
        most = (cells * share[:, cut, None, None]).amax(1, keepdim=True)
        foreground = torch.maximum(foreground, most)
    outside = (foreground == 0).to(like.dtype)
    return foreground, outside / outside.sum((2, 3), keepdim=True).clamp(min=1)
