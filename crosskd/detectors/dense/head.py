"""One dense head for every detector, cut anywhere.

A detector adds its anchors, assignment, loss and box code; see `gfl.py`, `retinanet.py`, `atss.py`, `fcos.py`,
`rtmdet.py`, `yolox.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosskd.backbones.staged import require_values
from crosskd.boxes.anchors import Anchors
from crosskd.boxes.ops import clip, overlap_loss
from crosskd.boxes.suppression import class_nms
from crosskd.detectors.dense.anchor_windows import by_anchor
from crosskd.detectors.dense.tower_convs import best_class, tower_conv
from crosskd.losses import at_least_float32, rank_mean
from crosskd.spec import registry
from crosskd.spec.backbones.batch_norm import TORCH_NORM, BatchNorm
from crosskd.spec.config import HeadConfig, ModelConfig, PostprocessConfig
from crosskd.spec.registry import Activation, BoxMimic
from crosskd.structures import Assignment, Candidates, Detections, Held, Losses, Predictions, Size, Targets

PRIOR = 0.01  # probability of every class at the start, so that the many backgrounds do not drown the rest


class ConvNorm(nn.Module):
    """3 x 3 convolution and norm, if any; the tower applies the activation, so that it can be cut before it.

    A batch norm is each level's own: their statistics differ, while the convolution is shared, unless it is `own`.
    """

    def __init__(
        self, in_channels: int, config: HeadConfig, levels: int, batch_norm: BatchNorm, *, own: bool = False
    ) -> None:
        super().__init__()
        self.conv = tower_conv(in_channels, config, batch_norm, own_of=levels if own else 0)
        self.norm: nn.Module | None = None
        if config.norm == "group":
            self.norm = nn.GroupNorm(config.norm_groups, config.channels)
        elif config.norm == "batch" and not config.depthwise:  # which has its own
            self.norm = nn.ModuleList(
                nn.BatchNorm2d(config.channels, batch_norm.eps, batch_norm.momentum) for _ in range(levels)
            )

    def forward(self, x: Tensor, level: int = 0) -> Tensor:
        out: Tensor = of_level(self.conv, level)(x)
        return out if self.norm is None else of_level(self.norm, level)(out)


class Tower(nn.ModuleList):
    """(convolution, norm, activation) x depth, for each of the pyramid's levels.

    Law: `back(front(x, i), i)` is the whole tower, for every cut i in 0..depth, on either side of the activation.
    """

    def __init__(
        self,
        in_channels: int,
        config: HeadConfig,
        *,
        levels: int = 1,
        activation: Activation = "relu",
        batch_norm: BatchNorm = TORCH_NORM,
        own_convs: bool = False,
    ) -> None:
        super().__init__(
            ConvNorm(in_channels if i == 0 else config.channels, config, levels, batch_norm, own=own_convs)
            for i in range(config.depth)
        )
        self.activation = activation

    def front(self, x: Tensor, cut: int, level: int = 0, *, after_relu: bool = True) -> Tensor:
        """[N, C, H, W] behind the first `cut` convolutions; cut 0 is `x` itself."""
        for i in range(cut):
            x = self[i](x, level)
            if after_relu or i < cut - 1:
                x = self._activated(x)
        return x

    def back(self, x: Tensor, cut: int, level: int = 0, *, activated: bool = True) -> Tensor:
        """The rest of the tower. `activated`: the activation of the cut has been applied (or there is none, cut 0)."""
        if cut and not activated:
            x = self._activated(x, inplace=False)  # a distiller still reads the map at the cut
        for i in range(cut, len(self)):
            x = self._activated(self[i](x, level))
        return x

    def _activated(self, x: Tensor, *, inplace: bool = True) -> Tensor:
        """In place: neither norm nor convolution needs its output, and nobody else holds it yet.

        SiLU is never in place: its gradient is made of its input.
        """
        return F.silu(x) if self.activation == "silu" else F.relu(x, inplace=inplace)


class DenseHead(nn.Module, ABC):
    """Two towers, classes and boxes, over every level of the pyramid, with shared weights; then prediction layers.

    What a detector has of each level's own (batch norm, prediction layers) the registry and `HeadConfig` say.

    Subclasses supply the anchors, the assignment, the loss and the box code. What a head predicts can be imitated by
    another through `logits`, `box_distance`, and the divisors of both.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        head, entry = config.head, registry.DETECTORS[config.detector]
        self.num_classes = num_classes
        self.strides = list(config.strides)
        self.weights = config.losses
        self.depth = head.depth
        self.per_cell = config.anchors_per_cell
        self.code_size = config.box_channels
        self.channels = head.channels if head.depth else config.neck.channels  # of the maps behind the towers
        self.activation: Activation = entry.activation
        self.own_layers = entry.own_layers
        levels = len(self.strides)
        own: dict[str, Any] = {"activation": entry.activation, "batch_norm": entry.norm, "own_convs": entry.own_convs}
        self.cls_tower = Tower(config.neck.channels, head, levels=levels, **own)
        self.box_tower = Tower(config.neck.channels, head, levels=levels, **own)
        rare = -math.log((1 - PRIOR) / PRIOR)
        self.cls = self._layers(self.per_cell * num_classes, bias=rare)
        self.box = self._layers(self.per_cell * self.code_size)
        self.centerness = prediction(self.channels, self.per_cell) if entry.centerness else None
        self.objectness = self._layers(self.per_cell, bias=rare) if entry.objectness else None
        self.clips = entry.clips
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in self.strides) if entry.scales else None

    def front(self, features: Sequence[Tensor], cut: int, *, after_relu: bool = True) -> Held:
        """Features per level -> both towers' maps behind convolution `cut`, behind or before its ReLU."""
        self._require_statistics(features)
        return Held(
            [self.cls_tower.front(f, cut, level, after_relu=after_relu) for level, f in enumerate(features)],
            [self.box_tower.front(f, cut, level, after_relu=after_relu) for level, f in enumerate(features)],
            activated=after_relu or cut == 0,
        )

    def back(self, held: Held, cut: int) -> Predictions:
        """From the maps at the cut to the predictions."""
        classes, boxes, centres, objects = [], [], [], []
        for level, (c, b) in enumerate(zip(held.cls, held.box, strict=True)):
            said, code, centre, there = self.on_level(c, b, cut, level, activated=held.activated)
            classes.append(said)
            boxes.append(code)
            if centre is not None:
                centres.append(centre)
            if there is not None:
                objects.append(there)
        return Predictions(classes, boxes, centres or None, objects or None)

    def on_level(
        self, cls: Tensor, box: Tensor, cut: int, level: int, *, activated: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """From a level's maps at the cut to its classes, box codes and, where there are any, centerness, objectness."""
        cls = self.cls_tower.back(cls, cut, level, activated=activated)
        box = self.box_tower.back(box, cut, level, activated=activated)
        code = of_level(self.box, level)(box)
        return (
            of_level(self.cls, level)(cls),
            self._code(code if self.scales is None else code * self.scales[level], level),
            self.centerness(self._centerness_input(cls, box)) if self.centerness is not None else None,
            of_level(self.objectness, level)(box) if self.objectness is not None else None,
        )

    def recomputed(self) -> list[tuple[nn.Module, str]]:
        """The methods that activation checkpointing runs again: each tower up to the cut, and all behind it."""
        return [(self.cls_tower, "front"), (self.box_tower, "front"), (self, "on_level")]

    def forward(self, features: Sequence[Tensor]) -> Predictions:
        return self.back(self.front(features, 0), 0)

    def _code(self, code: Tensor, level: int) -> Tensor:  # noqa: ARG002 (of each level alike, mostly)
        """From the box layer's scaled output to the box code."""
        return code

    def begin_epoch(self, index: int, epochs: int) -> None:
        """Epoch `index` of `epochs`, from 0, begins or goes on: for a head whose losses change in the end."""

    def _layers(self, out_channels: int, *, bias: float = 0.0) -> nn.Module:
        """A prediction layer that all levels share, or a 1 x 1 one of each level's own."""
        if not self.own_layers:
            return prediction(self.channels, out_channels, bias=bias)
        return nn.ModuleList(prediction(self.channels, out_channels, bias=bias, kernel=1) for _ in self.strides)

    def _require_statistics(self, features: Sequence[Tensor]) -> None:
        """Raise `ConfigError` for a batch norm that would be left one value per channel."""
        if any(isinstance(module, nn.BatchNorm2d) for module in self.cls_tower.modules()):
            for stride, feature in zip(self.strides, features, strict=True):
                require_values(self, feature, f"map of stride {stride}")

    def _centerness_input(self, cls: Tensor, box: Tensor) -> Tensor:  # noqa: ARG002 (one of the two is taken)
        """The tower's map that centerness is predicted from."""
        return box

    def select_classes(self, kept: Sequence[int]) -> None:
        """Keep the class logits `kept`, in that order, of every anchor; all else stays as it is."""
        old, index = self.cls.state_dict(), torch.tensor(kept)
        rows = (torch.arange(self.per_cell)[:, None] * self.num_classes + index).flatten()
        self.cls = self._layers(len(rows))
        self.cls.load_state_dict({name: tensor[rows] for name, tensor in old.items()})
        self.num_classes = len(kept)

    # --- what subclasses supply ---------------------------------------------------------------------------------------

    @abstractmethod
    def anchors(self, sizes: Sequence[Size], like: Tensor) -> Anchors:
        """The anchors for maps of (height, width) `sizes`, in cells; device and dtype are those of `like`."""

    @abstractmethod
    def assign(self, predictions: Predictions, targets: Targets) -> Assignment:
        """Which anchor learns what, without a gradient; of the `predictions` most heads read the maps' sizes alone."""

    @abstractmethod
    def decode(self, codes: Tensor, anchors: Anchors) -> Tensor:
        """Box codes [..., A, B] of `anchors` -> boxes [..., A, 4] in pixels, not clipped."""

    def loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """The detection loss, in full precision: term -> [L], one value per level."""
        with torch.autocast(predictions.cls[0].device.type, enabled=False):
            return self._loss(predictions, assignment)

    @abstractmethod
    def _loss(self, predictions: Predictions, assignment: Assignment) -> Losses:
        """`loss`, with autocast off."""

    # --- what others read ---------------------------------------------------------------------------------------------

    def logits(self, predictions: Predictions) -> Tensor:
        """Class logits of every anchor, [N, A, K]."""
        return flatten(predictions.cls, self.num_classes)

    @torch.no_grad()
    def best_logits(self, predictions: Predictions) -> Tensor:
        """The largest class logit of every anchor, [N, A], without a gradient."""
        return by_anchor(predictions.cls, self.num_classes, lambda logits, _: (logits.amax(-1),))[0]

    def codes(self, predictions: Predictions) -> Tensor:
        """Box codes of every anchor, [N, A, B]."""
        return flatten(predictions.box, self.code_size)

    def decoded(self, predictions: Predictions) -> Tensor:
        """Boxes of every anchor in pixels, [N, A, 4]."""
        codes = self.codes(predictions)
        return self.decode(codes, self.anchors(map_sizes(predictions.cls), codes))

    def normaliser(self, assignment: Assignment) -> Tensor:
        """What class losses are divided by: the positives of each image, at least one, averaged over ranks."""
        return rank_mean(self._count(assignment))

    def mimic_normaliser(self, assignment: Assignment, *, reference: bool = False) -> Tensor:  # noqa: ARG002
        """What the losses of imitated classes, and of imitated boxes by overlap, are divided by.

        `reference` asks for the reference's value also where that only blows a loss up; see FCOS.
        """
        return self.normaliser(assignment)

    def _count(self, assignment: Assignment) -> Tensor:
        """The positives of the batch, where an image without any counts as one."""
        return assignment.positives.clamp(min=1).sum().to(assignment.label_weights.dtype)

    def box_distance(
        self,
        ours: Predictions,
        theirs: Predictions,
        how: BoxMimic,
        temperature: float,  # noqa: ARG002
    ) -> Tensor:
        """How far two predictions of this head are apart in each anchor's box, [N, A]: 1 - GIoU, or -log IoU.

        `temperature` softens distributions over bins; only GFL has them.
        """
        if how == "kl":
            raise ValueError(f"{type(self).__name__} predicts no distributions to compare by kl")  # pairing checks it
        return overlap_loss(self.decoded(ours), self.decoded(theirs), how)

    @torch.no_grad()
    def detect(self, predictions: Predictions, sizes: Sequence[Size], config: PostprocessConfig) -> list[Detections]:
        """One `Detections` per image, best score first; boxes are clipped to the image's (height, width) in `sizes`.

        Per level the `pre_nms` best of all (anchor, class) pairs above the score threshold are decoded; then
        classwise non-maximum suppression over all levels. Where there is centerness it lowers the scores. Where there
        is objectness the score is the class's probability times it, and an anchor has its best class alone. YOLOX's
        boxes are not clipped.
        """
        return [
            class_nms(found.boxes, found.scores, found.labels, threshold=config.nms_iou, keep=config.max_detections)
            for found in self.candidates(predictions, sizes, config)
        ]

    @torch.no_grad()
    def candidates(
        self, predictions: Predictions, sizes: Sequence[Size], config: PostprocessConfig, slack: float = 0.0
    ) -> list[Candidates]:
        """What goes into suppression, per image. With `slack` also what would, if scores were larger by as much."""
        anchors = self.anchors(map_sizes(predictions.cls), at_least_float32(predictions.cls[0]))
        found = []
        for image, size in enumerate(sizes):
            levels, start = [], 0
            for level, count in enumerate(anchors.level_sizes):
                best = _best(self, predictions, image, level, config, slack)
                codes = _cells(predictions.box[level][image], self.code_size)[best.anchor]  # [D, B]
                boxes = self.decode(codes, anchors.take(start + best.anchor))
                boxes = clip(boxes, size) if self.clips else boxes
                levels.append((boxes, best.scores, best.labels, best.close))
                start += count
            found.append(Candidates(*(torch.cat(parts) for parts in zip(*levels, strict=True))))
        return found


def of_level(module: nn.Module, level: int) -> nn.Module:
    """The one of `level`, where each level has its own; else `module` itself."""
    return module[level] if isinstance(module, nn.ModuleList) else module


def prediction(in_channels: int, out_channels: int, *, bias: float = 0.0, kernel: int = 3) -> nn.Conv2d:
    """The last convolution of a branch, with nearly the same output everywhere at the start."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.get_parameter("bias"), bias)
    return conv


def flatten(levels: Sequence[Tensor], width: int) -> Tensor:
    """Maps [N, a * width, H_l, W_l] -> [N, A, width] in full precision, one level after the other."""
    return torch.cat([at_least_float32(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, width) for x in levels], dim=1)


def map_sizes(levels: Sequence[Tensor]) -> list[Size]:
    """(height, width) of each map, in cells."""
    return [(x.shape[-2], x.shape[-1]) for x in levels]


@dataclass(frozen=True)
class _Best:
    """The best (anchor, class) pairs of one level, [D] each."""

    anchor: Tensor  # of the level
    scores: Tensor
    labels: Tensor
    close: Tensor


def _best(
    head: DenseHead, predictions: Predictions, image: int, level: int, config: PostprocessConfig, slack: float
) -> _Best:
    score = _cells(predictions.cls[level][image], head.num_classes).sigmoid()  # [H * W * a, K]
    centre = None
    if predictions.centerness is not None:
        centre = _cells(predictions.centerness[level][image], 1).sigmoid()  # [H * W * a, 1]
    if centre is not None and config.score == "root":
        score, centre = (score * centre).sqrt(), None
    leading = None
    if predictions.objectness is not None:
        score = score * _cells(predictions.objectness[level][image], 1).sigmoid()
        leading = best_class(score, slack)
        score = torch.where(leading, score, -1.0)
    anchor, label = (score > config.score_threshold - slack).nonzero(as_tuple=True)
    best, order = score[anchor, label].sort(descending=True, stable=True)
    needed, kept = config.score_threshold, len(best)
    if kept > config.pre_nms:
        needed, kept = float(best[config.pre_nms - 1]), config.pre_nms
        kept += int((best[kept:] >= needed - slack).sum()) if slack else 0
    best, order = best[:kept], order[:kept]
    anchor, label = anchor[order], label[order]
    close = best <= needed + slack
    if leading is not None:
        close = close | (leading.sum(dim=-1) > 1)[anchor]  # with `slack`: rounding decides which class it is
    # A second threshold does not follow: centerness only ranks what passed.
    return _Best(anchor, best if centre is None else best * centre[anchor, 0], label, close)


def _cells(maps: Tensor, width: int) -> Tensor:
    """One image's maps [a * width, H, W] -> [H * W * a, width]."""
    return at_least_float32(maps).permute(1, 2, 0).reshape(-1, width)
