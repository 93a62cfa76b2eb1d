"""One dense head for every detector, cut anywhere.

A detector adds its prediction layers, its assignment and loss, and its decoding; see `gfl.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.boxes.ops import clip, suppress
from crosskd.config import ModelConfig, PostprocessConfig
from crosskd.losses import full, rank_mean
from crosskd.structures import Assignment, Detections, Held, Losses, Predictions, Size, Targets


class ConvNorm(nn.Module):
    """3 x 3 convolution and group norm; the tower applies the activation, so that it can be cut before it."""

    def __init__(self, entering: int, channels: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, channels, kernel_size=3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, channels)
        nn.init.normal_(self.conv.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


class Tower(nn.ModuleList):
    """(convolution, norm, ReLU) x depth.

    Law: `back(front(x, i), i)` is the whole tower, for every cut i in 0..depth, on either side of the ReLU.
    """

    def __init__(self, entering: int, channels: int, depth: int, groups: int) -> None:
        super().__init__(ConvNorm(entering if i == 0 else channels, channels, groups) for i in range(depth))

    def front(self, x: Tensor, cut: int, *, after_relu: bool = True) -> Tensor:
        """[N, C, H, W] behind the first `cut` convolutions; cut 0 is `x` itself."""
        for i in range(cut):
            x = self[i](x)
            if after_relu or i < cut - 1:
                x = F.relu(x, inplace=True)  # the norm does not need its output, and nobody else holds it yet
        return x

    def back(self, x: Tensor, cut: int, *, activated: bool = True) -> Tensor:
        """The rest of the tower. `activated`: the ReLU of the cut has been applied (or there is none, cut 0)."""
        if cut and not activated:
            x = F.relu(x)  # not in place: a distiller still reads the map at the cut
        for i in range(cut, len(self)):
            x = F.relu(self[i](x), inplace=True)
        return x


class DenseHead(nn.Module, ABC):
    """Two towers, classes and boxes, over every level of the pyramid, with shared weights.

    Subclasses name their prediction layers in `_predict` and build them in `__init__`.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        head = config.head
        self.num_classes = num_classes
        self.strides = list(config.strides)
        self.depth = head.depth
        self.channels = head.channels if head.depth else config.neck.channels  # of the maps behind the towers
        self.cls_tower = Tower(config.neck.channels, head.channels, head.depth, head.norm_groups)
        self.box_tower = Tower(config.neck.channels, head.channels, head.depth, head.norm_groups)

    def front(self, features: Sequence[Tensor], cut: int, *, after_relu: bool = True) -> Held:
        """Features per level -> both towers' maps behind convolution `cut`, behind or before its ReLU."""
        return Held(
            [self.cls_tower.front(f, cut, after_relu=after_relu) for f in features],
            [self.box_tower.front(f, cut, after_relu=after_relu) for f in features],
            activated=after_relu or cut == 0,
        )

    def back(self, held: Held, cut: int) -> Predictions:
        """From the maps at the cut to the predictions."""
        classes, boxes = [], []
        for level, (c, b) in enumerate(zip(held.cls, held.box, strict=True)):
            c = self.cls_tower.back(c, cut, activated=held.activated)
            b = self.box_tower.back(b, cut, activated=held.activated)
            predicted = self._predict(c, b, level)
            classes.append(predicted[0])
            boxes.append(predicted[1])
        return Predictions(classes, boxes)

    def forward(self, features: Sequence[Tensor]) -> Predictions:
        return self.back(self.front(features, 0), 0)

    @abstractmethod
    def _predict(self, cls: Tensor, box: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Both towers' maps [N, C, H, W] of one level -> class logits [N, K, H, W], box code [N, B, H, W]."""

    @abstractmethod
    def assign(self, sizes: Sequence[Size], targets: Targets) -> Assignment:
        """Which anchor learns what; `sizes` are (height, width) of the feature maps, in cells."""

    @abstractmethod
    def loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """The detection loss: term -> [L], one value per level."""

    def normaliser(self, assignment: Assignment) -> Tensor:
        """What class losses are divided by: the positives of each image, at least one, averaged over ranks."""
        count = float(sum(max(1, positives) for positives in assignment.positives))
        like = assignment.label_weights
        return rank_mean(torch.tensor(count, dtype=like.dtype, device=like.device))

    @abstractmethod
    def mimic_boxes(
        self,
        predictions: Predictions,
        teacher: Predictions,
        importance: Tensor,
        assignment: Assignment,
        temperature: float,
    ) -> Tensor:
        """How far the boxes are from the teacher's, each anchor weighed by `importance` [N, A] -> [L]."""

    @abstractmethod
    def decode(self, code: Tensor, places: Tensor, width: int, level: int) -> Tensor:
        """Box codes [D, B] at the cells `places` [D] of one level, `width` cells wide -> boxes [D, 4] in pixels."""

    @torch.no_grad()
    def detect(self, predictions: Predictions, sizes: Sequence[Size], config: PostprocessConfig) -> list[Detections]:
        """One `Detections` per image, best score first; boxes are clipped to the image's (height, width) in `sizes`.

        Per level the `pre_nms` best of all (cell, class) pairs above the score threshold are decoded; then
        classwise non-maximum suppression over all levels.
        """
        return [self._detect_one(predictions, image, size, config) for image, size in enumerate(sizes)]

    def _detect_one(self, predictions: Predictions, image: int, size: Size, config: PostprocessConfig) -> Detections:
        boxes, scores, labels = [], [], []
        for level, (cls, code) in enumerate(zip(predictions.cls, predictions.box, strict=True)):
            score = full(cls[image]).flatten(1).t().sigmoid()  # [H * W, K]
            cell, label = (score > config.score_threshold).nonzero(as_tuple=True)
            best, order = score[cell, label].sort(descending=True)
            best, order = best[: config.pre_nms], order[: config.pre_nms]
            cell, label = cell[order], label[order]
            chosen = full(code[image]).flatten(1).t()[cell]  # [D, B]
            boxes.append(clip(self.decode(chosen, cell, cls.shape[-1], level), size))
            scores.append(best)
            labels.append(label)
        return suppress(
            torch.cat(boxes),
            torch.cat(scores),
            torch.cat(labels),
            threshold=config.nms_iou,
            keep=config.max_detections,
        )


def prediction(entering: int, leaving: int, *, bias: float = 0.0) -> nn.Conv2d:
    """The last convolution of a branch, with nearly the same output everywhere at the start."""
    conv = nn.Conv2d(entering, leaving, kernel_size=3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.get_parameter("bias"), bias)
    return conv


def flatten(levels: Sequence[Tensor]) -> Tensor:
    """Maps [N, C, H_l, W_l] -> [N, A, C] in full precision, one level after the other."""
    return torch.cat([full(x).flatten(2).transpose(1, 2) for x in levels], dim=1)


def map_sizes(levels: Sequence[Tensor]) -> list[Size]:
    """(height, width) of each map, in cells."""
    return [(x.shape[-2], x.shape[-1]) for x in levels]
